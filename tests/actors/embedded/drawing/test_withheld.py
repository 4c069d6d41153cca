"""Stand-ins that lack a part of the vocabulary: they neither draw, see nor name it, and say so where they are
asked for it.
"""

from __future__ import annotations

import pytest

from actors.embedded.drawing.scene import Scene
from actors.embedded.drawing.vocabulary import concepts, vocabulary
from actors.embedded.drawing.withheld import Withheld
from actors.embedded.image_maker import ScenesMaker
from actors.embedded.language.words import embedded_words
from actors.embedded.observer.eyes import NetEyes
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.generation.settings import ScenesGeneration

HALF = Withheld(share=0.5, seed=4)
LACKING = HALF.concepts()
KNOWN = [concept.name for concept in concepts() if concept.name not in LACKING]


@pytest.fixture(scope="module")
def maker() -> ScenesMaker:
    return ScenesMaker(ScenesGeneration(withheld=HALF))


def drawn(made: object) -> tuple[list[str], str]:
    assert isinstance(made, MadeImage)
    scene = Scene.from_dict(made.provenance.recipe)
    return [placed.concept for placed in scene.objects], "; ".join(made.provenance.notes)


def test_the_same_seed_takes_the_same_concepts_and_a_larger_share_holds_a_smaller_one():
    assert Withheld().concepts() == frozenset()
    assert len(LACKING) == len(concepts()) // 2
    assert Withheld(share=0.2, seed=4).concepts() < LACKING
    assert Withheld(share=0.5, seed=5).concepts() != LACKING


def test_a_withheld_concept_is_not_drawn_and_the_note_names_it(maker):
    unknown, known = sorted(LACKING)[0], KNOWN[0]
    things, notes = drawn(maker.generate([GenerateRequest(f"a {unknown} and a {known}", 1)])[0])
    assert things == [known]
    assert f"not drawn: {unknown.split()[0]}" in notes


def test_a_category_is_drawn_by_its_known_members_alone(maker):
    wanted = [GenerateRequest("an animal", seed) for seed in range(30)]
    things = [name for made in maker.generate(wanted) for name in drawn(made)[0]]
    assert len(things) == 30
    assert not LACKING & set(things)


@pytest.mark.parametrize("instruction", ["replace the {known} with a {unknown}", "add a {unknown}"])
def test_an_edit_brings_in_nothing_that_is_withheld(maker, instruction):
    unknown, known = sorted(LACKING)[0], KNOWN[0]
    first = maker.generate([GenerateRequest(f"a {known}", 2)])[0]
    assert isinstance(first, MadeImage)
    text = instruction.format(known=known, unknown=unknown)
    things, notes = drawn(maker.edit([EditRequest(first.image, text, 3, first.provenance)])[0])
    assert things == [known]
    assert f"not drawn: {unknown}" in notes


def test_the_makers_name_includes_what_is_withheld(maker):
    assert maker.name != ScenesMaker().name
    assert f"{len(LACKING)} concepts" in maker.name


def test_withheld_concepts_are_not_recognized():
    made = ScenesMaker().generate([GenerateRequest("a pizza", 3), GenerateRequest("a violin", 3)])
    images = [each.image for each in made if isinstance(each, MadeImage)]
    blind = NetEyes(lacking=frozenset({"pizza"}))
    pizza, violin = ([thing.concept for thing in seen.things] for seen in blind.look(images))
    assert (pizza, violin) == ([], ["violin"])


def test_withheld_words_and_empty_categories_are_unknown():
    gone = frozenset(concept.name for concept in vocabulary().members("fruit")) | {"dog"}
    words = embedded_words(gone)
    assert "dog" not in words.concepts
    assert "fruit" not in words.categories
    assert words.find("a golden retriever beside a cat")[-1].name == "cat"
    assert len(words.find("a golden retriever")) <= 1
