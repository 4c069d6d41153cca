"""Every kind of pipeline is loaded through the real `from_pretrained`, with random weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors import hub
from actors.errors import BackendError, MissingDependencyError, RefusedError, UsageError
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.generation.diffusion import DiffusionMaker, derived_seed
from actors.generation.settings import DiffusersPipeline
from actors.images import Image, Provenance
from tests.actors.weights import oversized

Folder = Callable[[str], Path]

# The schedulers of diffusers 0.42 call numpy 2 in a way it has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("one_torch_thread"),
]

GENERATORS: dict[str, dict[str, Any]] = {
    "stable_diffusion": {"steps": 3, "size": 32},
    "sdxl": {"steps": 1, "guidance": 0.0, "size": (16, 24)},
    "flux": {"steps": 2, "size": (24, 16)},
}
EDITORS: dict[str, dict[str, Any]] = {
    "instruct_pix2pix": {"steps": 3, "image_guidance": 1.5},
    "flux_kontext": {"steps": 2, "size": 32, "call": {"_auto_resize": False}},
}


@pytest.fixture(scope="module")
def maker(pipeline_folder: Folder) -> Callable[..., DiffusionMaker]:
    """Return the maker of a tiny pipeline, loaded once for each set of settings."""
    loaded: dict[str, DiffusionMaker] = {}

    def load(name: str, task: str = "generate", **settings: Any) -> DiffusionMaker:
        key = f"{name} {task} {settings}"
        if key not in loaded:
            model = str(pipeline_folder(name))
            pipeline = DiffusersPipeline(model=model, device="cpu", **settings)  # type: ignore[arg-type]
            loaded[key] = DiffusionMaker(pipeline, task)
        return loaded[key]

    return load


def picture(height: int, width: int, seed: int = 0) -> Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.from_pixels(noise)


def images(made: list[Any]) -> list[Image]:
    assert all(isinstance(each, MadeImage) for each in made), made
    return [each.image for each in made]


def assert_nearly_equal(first: Image, second: Image) -> None:
    """One grey level on a thousandth of the values: what the order of additions in a batch can move."""
    assert first.size == second.size
    difference = np.abs(first.pixels.astype(int) - second.pixels.astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_an_image_is_the_same_alone_and_in_a_batch(maker: Any, name: str) -> None:
    model = maker(name, **GENERATORS[name])
    requests = [
        GenerateRequest("a dog", 0),
        GenerateRequest("two cats on grass", 1),
        GenerateRequest("a dog", 2),
    ]
    together = images(model.generate(requests))
    for request, image in zip(requests, together, strict=True):
        assert_nearly_equal(image, images(model.generate([request]))[0])
    size = GENERATORS[name]["size"]
    assert together[0].size == ((size, size) if isinstance(size, int) else size)
    assert len({image.id for image in together}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITORS)
def test_an_edit_is_the_same_alone_and_in_a_batch_of_other_sizes(maker: Any, name: str) -> None:
    model = maker(name, "edit", **EDITORS[name])
    requests = [
        EditRequest(picture(32, 32, 1), "make it red", 0),
        EditRequest(picture(45, 37, 2), "make it red", 1),
        EditRequest(picture(32, 32, 3), "replace the dog with a cat", 2),
    ]
    together = images(model.edit(requests))
    for request, image in zip(requests, together, strict=True):
        assert_nearly_equal(image, images(model.edit([request]))[0])
    assert together[1].size == ((40, 32) if name == "instruct_pix2pix" else (32, 32))


def test_an_edit_depends_on_image_instruction_and_seed(maker: Any) -> None:
    model = maker("instruct_pix2pix", "edit", **EDITORS["instruct_pix2pix"])
    base = EditRequest(picture(32, 32, 1), "make it red", 0)
    others = [
        EditRequest(picture(32, 32, 2), base.instruction, base.seed),
        EditRequest(base.image, "make it blue", base.seed),
        EditRequest(base.image, base.instruction, 1),
    ]
    made = images(model.edit([base, *others]))
    assert len({image.id for image in made}) == 4


def test_seed_zero_is_a_seed_like_any_other(maker: Any) -> None:
    model = maker("stable_diffusion", **GENERATORS["stable_diffusion"])
    zero, again, one, forty_two = images(
        model.generate([GenerateRequest("a dog", seed) for seed in (0, 0, 1, 42)])
    )
    assert_nearly_equal(zero, again)
    assert len({zero.id, one.id, forty_two.id}) == 3


def test_more_requests_than_a_batch_holds_are_all_answered_in_order(maker: Any) -> None:
    settings = GENERATORS["stable_diffusion"]
    few, many = maker("stable_diffusion", **settings, max_batch=2), maker("stable_diffusion", **settings)
    requests = [GenerateRequest(f"dog {i}", i) for i in range(5)]
    for one, other in zip(images(few.generate(requests)), images(many.generate(requests)), strict=True):
        assert_nearly_equal(one, other)


def test_the_provenance_lets_one_make_the_image_again(maker: Any) -> None:
    model = maker("stable_diffusion", **GENERATORS["stable_diffusion"])
    (made,) = model.generate([GenerateRequest("a dog", 7)])
    assert (made.provenance.source, made.provenance.prompt, made.provenance.seed) == ("generated", "a dog", 7)
    assert made.provenance.maker == f"{model.name} {model.settings}"
    assert '"num_inference_steps": 3' in model.settings
    assert '"size": 32' in model.settings
    assert "float32" in model.settings
    assert json.loads(made.provenance.to_json())["notes"] == []


def test_an_edit_continues_the_provenance_of_its_image(maker: Any) -> None:
    model = maker("instruct_pix2pix", "edit", **EDITORS["instruct_pix2pix"])
    source = picture(32, 32)
    known = Provenance("edited", prompt="a dog", edits=("add a hat",))
    (made,) = model.edit([EditRequest(source, "make it red", 3, known)])
    assert made.provenance.source == "edited"
    assert made.provenance.edits == ("add a hat", "make it red")
    assert (made.provenance.prompt, made.provenance.parent) == ("a dog", source.id)


def test_a_prompt_longer_than_the_text_encoder_reads_is_noted(maker: Any) -> None:
    model = maker("stable_diffusion", **GENERATORS["stable_diffusion"])
    short, long = model.generate([GenerateRequest("dog", 0), GenerateRequest("dog " * 40, 0)])
    assert short.provenance.notes == ()
    assert long.provenance.notes == ("only the first 77 of 122 tokens of the text were read",)


def test_a_limit_of_the_call_counts_where_it_is_lower_than_the_text_encoders(maker: Any) -> None:
    settings = {**GENERATORS["flux"], "call": {"max_sequence_length": 16}}
    fits, long = maker("flux", **settings).generate(
        [GenerateRequest("a dog", 0), GenerateRequest("dog " * 20, 0)]
    )
    assert fits.provenance.notes == ()
    assert "first 16 of" in long.provenance.notes[0]


def test_bad_requests_fail_alone(maker: Any) -> None:
    model = maker("stable_diffusion", **GENERATORS["stable_diffusion"])
    good, no_words, bad_seed = model.generate(
        [GenerateRequest("dog", 0), GenerateRequest("  ", 0), GenerateRequest("dog", -1)]
    )
    assert isinstance(good, MadeImage)
    assert isinstance(no_words, UsageError)
    assert isinstance(bad_seed, UsageError)
    assert "-1" in str(bad_seed)


def test_a_generator_says_that_it_cannot_edit(maker: Any) -> None:
    model = maker("stable_diffusion", **GENERATORS["stable_diffusion"])
    (answer,) = model.edit([EditRequest(picture(32, 32), "make it red", 0)])
    assert isinstance(answer, UsageError)
    assert "generation.editor" in str(answer)


class Scripted:
    """A stand-in for a loaded pipeline: `answer` gets each image's prompt and first random number."""

    def __init__(self, answer: Callable[[list[str], list[float]], Any]) -> None:
        self.answer = answer
        self.batches: list[list[str]] = []
        self.components: dict[str, Any] = {}

    def __call__(
        self, prompt: Any, generator: list[Any], output_type: str, image: Any = None, **rest: Any
    ) -> Any:
        import torch

        assert output_type == "np"
        if image is not None:
            assert not isinstance(image, list)
            prompt = [prompt]
        assert len(generator) == len(prompt)
        self.batches.append(prompt)
        return self.answer(prompt, [float(torch.rand(1, generator=each)) for each in generator])


@pytest.fixture
def scripted(pipeline_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Scripted]]:
    """Return a maker around a scripted pipeline; everything but the loading is the real code."""

    def build(
        answer: Callable[[list[str], list[float]], Any], task: Any = "generate", **settings: Any
    ) -> tuple[Any, Scripted]:
        pipeline = Scripted(answer)
        monkeypatch.setattr(
            "actors.generation.diffusion.load_pipeline", lambda *_: (pipeline, "cpu", "float32")
        )
        model = str(pipeline_folder("stable_diffusion"))
        return DiffusionMaker(DiffusersPipeline(model=model, **settings), task), pipeline

    return build


def output(values: list[float], flags: list[bool] | None = None) -> Any:
    pixels = np.stack([np.full((2, 3, 3), value, np.float32) for value in values])
    return SimpleNamespace(images=pixels, nsfw_content_detected=flags)


def test_an_editor_of_unknown_habits_gets_one_image_a_call(scripted: Any) -> None:
    model, pipeline = scripted(lambda prompts, draws: output(draws), task="edit", max_batch=4)
    made = model.edit([EditRequest(picture(8, 8, i), f"edit {i}", i) for i in range(3)])
    assert pipeline.batches == [["edit 0"], ["edit 1"], ["edit 2"]]
    assert model.max_batch == 1
    assert len({image.id for image in images(made)}) == 3


def test_a_withheld_image_is_drawn_again_with_a_new_seed_and_says_so(scripted: Any) -> None:
    calls: list[list[float]] = []

    def answer(prompts: list[str], draws: list[float]) -> Any:
        calls.append(draws)
        flags = [prompt == "bad" and len(calls) == 1 for prompt in prompts]
        return output([0.0 if flagged else 0.5 for flagged in flags], flags)

    model, pipeline = scripted(answer)
    good, bad = model.generate([GenerateRequest("good", 1), GenerateRequest("bad", 0)])
    assert pipeline.batches == [["good", "bad"], ["bad"]]
    assert calls[1][0] != calls[0][1]
    assert good.provenance.seed == 1
    assert bad.provenance.seed == derived_seed(0, 1) != 0
    assert "withheld 1 earlier" in bad.provenance.notes[0]
    assert bad.image.pixels.min() > 0


def test_an_image_withheld_under_every_seed_is_refused_and_never_shown(scripted: Any) -> None:
    model, pipeline = scripted(lambda prompts, _: output([0.0] * len(prompts), [True] * len(prompts)))
    (answer,) = model.generate([GenerateRequest("bad", 0)])
    assert isinstance(answer, RefusedError)
    assert len(pipeline.batches) == 3


def test_a_real_safety_checker_refuses_what_it_flags(pipeline_folder: Folder, tmp_path: Path) -> None:
    from tests.actors.generation.tiny_pipelines import save_stable_diffusion

    strict = save_stable_diffusion(tmp_path / "strict", threshold=-1.0)
    settings = DiffusersPipeline(model=str(strict), steps=1, size=32, refusal_retries=1)
    (answer,) = DiffusionMaker(settings, "generate").generate([GenerateRequest("a dog", 0)])
    assert isinstance(answer, RefusedError)

    unchecked = settings.model_copy(update={"safety_checker": False})
    (answer,) = DiffusionMaker(unchecked, "generate").generate([GenerateRequest("a dog", 0)])
    assert isinstance(answer, MadeImage)


def test_derived_seeds_are_distinct_and_fit_a_generator() -> None:
    seeds = {derived_seed(seed, attempt) for seed in range(20) for attempt in range(3)}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(5, 0) == 5


def test_a_batch_that_runs_out_of_memory_is_halved_until_it_fits(scripted: Any) -> None:
    def answer(prompts: list[str], draws: list[float]) -> Any:
        if len(prompts) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return output(draws)

    model, pipeline = scripted(answer, max_batch=4)
    made = model.generate([GenerateRequest(str(i), i) for i in range(3)])
    assert [len(batch) for batch in pipeline.batches] == [3, 1, 2, 1, 1]
    assert all(isinstance(each, MadeImage) for each in made)


def test_an_image_that_does_not_fit_alone_is_a_typed_failure(scripted: Any) -> None:
    def answer(prompts: list[str], draws: list[float]) -> Any:
        raise MemoryError

    model, _ = scripted(answer)
    (failure,) = model.generate([GenerateRequest("dog", 0)])
    assert isinstance(failure, hub.OutOfMemoryError)
    assert "offload" in failure.fix


def test_one_request_that_breaks_the_pipeline_fails_alone(scripted: Any) -> None:
    def answer(prompts: list[str], draws: list[float]) -> Any:
        if "cursed" in prompts:
            raise ValueError("cannot tokenize")
        return output(draws)

    model, _ = scripted(answer)
    first, cursed, last = model.generate([GenerateRequest(p, 1) for p in ("one", "cursed", "three")])
    assert isinstance(first, MadeImage)
    assert isinstance(last, MadeImage)
    assert isinstance(cursed, BackendError)
    assert "cannot tokenize" in str(cursed)


def test_values_that_are_not_finite_are_a_failure_not_a_black_image(scripted: Any) -> None:
    model, _ = scripted(lambda prompts, _: output([float("nan")] * len(prompts)))
    (failure,) = model.generate([GenerateRequest("dog", 0)])
    assert isinstance(failure, BackendError)
    assert "dtype" in failure.fix


@pytest.mark.slow
def test_the_name_identifies_the_weights_and_not_where_they_lie(
    pipeline_folder: Folder, tmp_path: Path
) -> None:
    import shutil

    def name(folder: Path) -> str:
        return DiffusionMaker(DiffusersPipeline(model=str(folder)), "generate").name

    original = pipeline_folder("stable_diffusion")
    copy = tmp_path / original.name
    shutil.copytree(original, copy)
    assert name(copy) == name(original)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert name(copy) != name(original)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "/no/such/folder"}, "/no/such/folder"),
        ({"pipeline": "FluxKontekst"}, "FluxKontekst"),
        ({"pipeline": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ({"image_guidance": 2.0}, "image_guidance_scale"),
        ({"call": {"no_such_argument": 1}}, "no_such_argument"),
        ({"call": {"generator": 1}}, "generator"),
        ({"offload": "model"}, "offload: model"),
        ({"device": "cuda:77"}, "cuda:77"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_load_time(
    pipeline_folder: Folder, settings: dict[str, Any], words: str
) -> None:
    wanted = {"model": str(pipeline_folder("stable_diffusion")), "device": "cpu", **settings}
    with pytest.raises(UsageError) as error:
        DiffusionMaker(DiffusersPipeline(**wanted), "generate")
    assert words in str(error.value)
    assert error.value.fix


def test_a_folder_that_is_no_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model_index\.json"):
        DiffusionMaker(DiffusersPipeline(model=str(tmp_path)), "generate")


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    pipeline_folder: Folder, tmp_path: Path
) -> None:
    huge = oversized(pipeline_folder("stable_diffusion"), tmp_path / "huge")
    with pytest.raises(hub.TooLittleMemoryError, match="GiB is free"):
        DiffusionMaker(DiffusersPipeline(model=str(huge)), "generate")


def test_a_missing_extra_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingDependencyError, match=r'diffusers.*pip install "maia\[models\]"'):
        DiffusionMaker(DiffusersPipeline(model="x"), "generate")


@pytest.mark.slow
@pytest.mark.parametrize("option", ["attention_slicing", "vae_tiling"])
def test_memory_savers_leave_the_image_as_it_is(maker: Any, option: str) -> None:
    settings = GENERATORS["stable_diffusion"]
    request = [GenerateRequest("a dog", 0)]
    plain = images(maker("stable_diffusion", **settings).generate(request))[0]
    saving = images(maker("stable_diffusion", **settings, **{option: True}).generate(request))[0]
    assert_nearly_equal(plain, saving)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_denoiser_makes_the_same_image(maker: Any) -> None:
    settings = GENERATORS["stable_diffusion"]
    request = [GenerateRequest("a dog", 0)]
    plain = images(maker("stable_diffusion", **settings).generate(request))[0]
    compiled = images(maker("stable_diffusion", **settings, compile=True).generate(request))[0]
    assert_nearly_equal(plain, compiled)


def test_a_lower_precision_is_used_and_part_of_the_settings(maker: Any) -> None:
    model = maker("stable_diffusion", **GENERATORS["stable_diffusion"], dtype="bfloat16")
    images(model.generate([GenerateRequest("a dog", 0)]))
    assert "bfloat16" in model.settings


def test_the_pipelines_own_class_may_be_named(maker: Any) -> None:
    model = maker("sdxl", **GENERATORS["sdxl"], pipeline="StableDiffusionXLPipeline")
    assert len(images(model.generate([GenerateRequest("a dog", 0)]))) == 1


def test_a_pipeline_is_fetched_by_its_hub_id_and_works_offline_afterwards(
    pipeline_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fake_hub import COMMIT, FakeHub, point_at

    settings = DiffusersPipeline(model="owner/tiny", steps=1, size=32, device="cpu")
    with FakeHub({"owner/tiny": pipeline_folder("stable_diffusion")}) as server:
        point_at(server.url, tmp_path / "cache", monkeypatch)
        online = DiffusionMaker(settings, "generate")
        assert "unet/diffusion_pytorch_model.safetensors" in server.fetched
        with pytest.raises(hub.ModelNotFoundError, match="owner/typo"):
            DiffusionMaker(settings.model_copy(update={"model": "owner/typo"}), "generate")
    assert online.name == f"diffusers StableDiffusionPipeline owner/tiny@{COMMIT[:16]}"
    offline = DiffusionMaker(settings, "generate")
    request = [GenerateRequest("a dog", 0)]
    assert_nearly_equal(images(online.generate(request))[0], images(offline.generate(request))[0])
    with pytest.raises(hub.HubUnreachableError, match="owner/other"):
        DiffusionMaker(settings.model_copy(update={"model": "owner/other"}), "generate")
