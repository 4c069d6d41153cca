"""Programs that a model writes run unchanged in the dialect that is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.images import Image
from tests.tools.sandbox.appendix import EXAMPLES
from tests.tools.sandbox.conftest import LIMITS
from tests.tools.sandbox.hosts import FakeHost, picture
from tools.sandbox import ProgramOutcome, Sandbox, SandboxServer
from tools.sandbox.kernel import KernelSandbox, KernelServer
from tools.sandbox.monty import MontyServer


async def good(sandbox: Sandbox, host: FakeHost, program: str) -> ProgramOutcome:
    outcome = await sandbox.run(program, host)
    assert (outcome.status, outcome.error, outcome.notes) == ("ok", "", ()), outcome
    return outcome


@pytest.fixture(scope="module")
async def monty_server() -> AsyncIterator[MontyServer]:
    async with MontyServer(LIMITS) as server:
        yield server


PAPER = LIMITS.model_copy(update={"dialect": "paper"})


@pytest.fixture(scope="module", params=["cpython", "monty"])
async def paper_server(request: pytest.FixtureRequest) -> AsyncIterator[SandboxServer]:
    """A server of each executor in turn, whose programs speak the paper's dialect."""
    if request.param == "monty":
        async with MontyServer(PAPER) as monty:
            yield monty
    else:
        async with KernelServer(PAPER) as kernel:
            await kernel.start()
            yield kernel


@pytest.fixture
async def paper(paper_server: SandboxServer) -> AsyncIterator[Sandbox]:
    sandbox = await paper_server.open(seed=5)
    yield sandbox
    await sandbox.close()


@pytest.fixture(params=["cpython", "monty"])
async def either(
    request: pytest.FixtureRequest, server: KernelServer, monty_server: MontyServer
) -> AsyncIterator[Sandbox]:
    """A sandbox of each executor in turn."""
    chosen: SandboxServer = server if request.param == "cpython" else monty_server
    sandbox = await chosen.open(seed=5)
    yield sandbox
    await sandbox.close()


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_papers_examples_run_unchanged(paper: Sandbox, host: FakeHost, name: str) -> None:
    # The paper's API page begins with such an import, so its programs do without.
    program = "from typing import List, Tuple\n" + EXAMPLES[name]
    outcome = await good(paper, host, program)
    logged = "log" in host.methods
    assert logged == (name.startswith("LOG"))
    if not logged:
        assert outcome.value
    if name == "THREE_EDITS":
        activations, masked = outcome.value
        assert len(activations) == len(masked) == 6
        assert activations[0] == activations[2] == activations[4]
        assert host.methods == ["text2image", "edit", "measure"]
        assert host.asked[0][1]["prompts"] == ["a dog standing on the grass"]
    if name == "EXEMPLARS":
        assert outcome.value[0] == [9.0, 8.0, 7.0, 6.0, 5.0]
        assert all(isinstance(image, Image) for image in outcome.value[1])
    if name == "LOG_THREE_EDITS":
        titles = [next(iter(entry)) for entry in host.log]
        assert titles[:2] == ["a dog standing on the grass", "make the dog sit"]


async def test_exemplars_are_two_lists_in_the_papers_dialect(paper: Sandbox, host: FakeHost) -> None:
    program = """
activations, images = tools.dataset_exemplars(system)
assert activations == [9.0, 8.0, 7.0, 6.0, 5.0] and len(images) == 5
assert len(tools.dataset_exemplars(system)) == 2
"""
    await good(paper, host, program)


async def test_exemplars_are_pairs_in_the_later_dialect(either: Sandbox, host: FakeHost) -> None:
    program = """
pairs = tools.dataset_exemplars(system)
assert type(pairs) is list and [x for x, _ in pairs] == [9.0, 8.0, 7.0, 6.0, 5.0]
activations, images = zip(*pairs)
assert activations[0] == 9.0 and len(images) == 5
"""
    await good(either, host, program)


async def test_exemplars_of_every_kind_come_with_the_reason_for_each(either: Sandbox, host: FakeHost) -> None:
    program = """
found = system.exemplars("near", k=3)
for activation, image, why in found:
    tools.display(activation, image, why)
print(len(found), found[0][0], found[0][2], len(system.exemplars()))
"""
    outcome = await good(either, host, program)
    assert outcome.output == "3 9.0 near 1 15\n"
    assert host.asked[0] == ("exemplars_by", {"which": "near", "k": 3})


async def test_a_kind_of_exemplars_that_there_is_not_is_refused_in_words(
    either: Sandbox, host: FakeHost
) -> None:
    outcome = await either.run('system.exemplars("best")', host)
    assert outcome.status == "error"
    assert "which must be one of top, modes, quantiles, near, least" in outcome.error
    outcome = await either.run('system.exemplars("top", k=16)', host)
    assert "k must be a whole number from 1 to 15" in outcome.error, (
        "more would begin a pass over the data set"
    )


INTERVENTION = """
images = tools.text2image(["a", "b"])
effects = system.intervene(images, "clamp", value=(0, 1.5), where=[0, 0, 0.5, 1], outputs=["dog"])
first, change = effects.images[0], effects.lowered[0]
assert (first.activation, first.edited, first.cosine) == (4.0, 0.0, 0.5)
assert (effects.floor, effects.exact) == (0.0, True)
assert (change.name, change.change, change.probabilities) == ("snowplow", -2.5, [0.75, 0.25])
assert len(effects.images) == 2 and effects.asked[0].name == "dog" and first.top == ["ski", "dog"]
system.neuron([first.image]) if hasattr(system, "neuron") else system.call_neuron([first.image])
tools.display(effects)
tools.display("alone", first.lowered[0].name)
print(effects.summary)
"""


async def check_intervention(sandbox: Sandbox, host: FakeHost) -> None:
    outcome = await good(sandbox, host, INTERVENTION)
    assert host.asked[1][0] == "intervene"
    asked = host.asked[1][1]
    assert (asked["kind"], asked["value"], asked["where"]) == ("clamp", [0.0, 1.5], [0.0, 0.0, 0.5, 1.0])
    assert outcome.output == (
        "clamp [0.0, 1.5] [0.0, 0.0, 0.5, 1.0]; mean of 2: lowered snowplow -2.5 (probability 0.750 to "
        "0.250); asked for dog +0; pass without it reproduced exactly\n"
    )
    words = [item for item in host.displayed if isinstance(item, str)]
    pictures = [item for item in host.displayed if isinstance(item, Image)]
    assert len(pictures) == 2
    assert pictures[0] == host.asked[1][1]["images"][0]
    assert words[1].startswith("unit 4 to 0; lowered snowplow -2.5")
    assert words[-2:] == ["alone", "snowplow"]


async def test_an_intervention_comes_as_a_record_with_its_images(either: Sandbox, host: FakeHost) -> None:
    await check_intervention(either, host)


async def test_an_intervention_comes_as_a_record_in_the_papers_dialect(
    paper: Sandbox, host: FakeHost
) -> None:
    await check_intervention(paper, host)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ('images, "explode"', "kind must be one of ablate, scale, clamp, add, set"),
        ('images, "scale", float("nan")', "value must be a finite number"),
        ('images, "scale", {"a": 1}', "value"),
        ('images, "clamp", [1, 2, 3, 4, 5]', "value must have 2 to 4 items"),
        ("images * 40", "images must have 1 to 64 items"),
        ("images * 6000", "at most 10000 items"),
        ("[]", "images must have 1 to 64 items"),
        ('images, where=float("inf")', "where must be a finite number"),
        ('images, outputs=["a"] * 21', "outputs must have 0 to 20 items"),
        ("images, outputs=[7]", "outputs[0] must be a string"),
    ],
)
async def test_an_intervention_that_is_none_is_refused_in_words(
    either: Sandbox, host: FakeHost, call: str, words: str
) -> None:
    program = f'images = tools.text2image(["a", "b"])\nsystem.intervene({call})'
    outcome = await either.run(program, host)
    assert outcome.status == "error"
    assert words in outcome.error
    assert "intervene" not in host.methods


STUDY = """
import statistics, math, random, json, re
from dataclasses import dataclass
from collections import defaultdict
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

@dataclass
class Trial:
    prompt: str
    activation: float
    @property
    def strong(self): return self.activation > 1

class Study:
    def __init__(self): self.trials = []
    def add(self, prompt, activation): self.trials.append(Trial(prompt, activation)); return self

def show(title, images, activations):
    for image, activation in zip(images, activations):
        tools.display(f"{title}: {activation:.2f}", image)

study = Study()
prompts = [f"a {color} ball" for color in ("red", "green", "blue")]
images = tools.text2image(prompts)
activations, masked = system.call_neuron(images)
for prompt, activation in zip(prompts, activations): study.add(prompt, activation)
print(f"mean {statistics.mean(activations):.2f} sd {statistics.stdev(activations):.2f}")
show("ball", masked, activations)

tools.display(images, {"a": activations, "b": [images[0]]}, 3, None, np.float32(2.5))
tools.display([images[0], images[1]], "end")
results = defaultdict(list)
for trial in study.trials: results[trial.strong].append(trial.prompt)
total = sum(t.activation for t in study.trials)
"""

OWN_IMAGES = """base = images[0]
crop = base.crop((0, 0, 16, 12)).resize((32, 24))
pasted = base.copy(); pasted.paste(images[1].resize((8, 8)), (4, 4))
grey = base.convert("L")
blurred = base.filter(ImageFilter.GaussianBlur(2))
array = np.asarray(base).copy(); array[:, :16] = 0
drawn = Image.new("RGB", base.size, "white"); ImageDraw.Draw(drawn).rectangle((2, 2, 9, 9), fill=(255, 0, 0))
transparent = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
made = [crop, pasted, grey, blurred, array, array / 255.0, drawn, transparent, array.transpose(2, 0, 1)]
a, m = system.call_neuron(made)
assert a[7] == 255.0, a
assert len(a) == len(m) == len(made) and m[0].size == (32, 24)
single, masked_single = system.call_neuron(base)
assert single == [activations[0]]
edited = tools.edit_images([base] * 2, ["make it blue", "make it square"])
assert len(edited) == 2 and edited[0].size == base.size
one = tools.edit_images(base, "make it dark")
assert len(one) == 1
same = tools.edit_images([x for _, x in tools.dataset_exemplars(system)][:2], "put it on a beach")
assert len(same) == 2
try:
    system.call_neuron([])
except Exception as error:
    print("caught:", error)
"""


async def test_a_program_in_the_later_style_defines_classes_and_displays_images(
    sandbox: KernelSandbox, host: FakeHost
) -> None:
    outcome = await good(sandbox, host, STUDY)
    assert "mean" in outcome.output
    images = [item for item in host.displayed if isinstance(item, Image)]
    assert len(images) == 3 + 3 + 1 + 2
    assert host.displayed[-1] == "end"
    after = await good(sandbox, host, "print(f'{total:.1f}', len(results), study.trials[0].prompt)")
    assert after.output.endswith(" a red ball\n")


async def test_a_program_measures_and_edits_images_of_its_own(sandbox: KernelSandbox, host: FakeHost) -> None:
    await good(sandbox, host, STUDY)
    outcome = await good(sandbox, host, OWN_IMAGES)
    assert "caught: images must hold at least one image" in outcome.output
    assert "note: an edit was weak" in outcome.output


async def test_an_image_is_a_pil_image(sandbox: KernelSandbox, host: FakeHost) -> None:
    program = """
import copy, io, pickle
import numpy as np
from PIL import Image, ImageChops, ImageOps, ImageStat
image, other = tools.text2image(["one", "two"])
assert isinstance(image, Image.Image) and not isinstance(image, str)
assert repr(image) == str(image) == f"{image}" == "<image 32x24>"
assert image == image and image != other and len({image, other, image}) == 2
assert image.size == (32, 24) and image.width == 32 and image.mode == "RGB" and image.format == "PNG"
assert np.array([image, other]).shape == (2, 24, 32, 3)
assert len(image.split()) == 3 and image.getpixel((3, 4)) == tuple(np.asarray(image)[4, 3])
assert ImageStat.Stat(image).mean and ImageOps.mirror(image).size == (32, 24)
assert ImageChops.difference(image, other).getbbox() and image.histogram()
page = Image.new("RGB", (64, 24)); page.paste(image, (0, 0)); page.paste(other, (32, 0))
assert page.crop((0, 0, 32, 24)).tobytes() == image.tobytes()
assert Image.blend(image, other, 0.5).size == (32, 24)
copies = [copy.copy(image), copy.deepcopy([image])[0], pickle.loads(pickle.dumps(image)), image.copy()]
assert all(each.tobytes() == image.tobytes() for each in copies)
buffer = io.BytesIO(); image.save(buffer, "PNG")
back = Image.open(io.BytesIO(buffer.getvalue()))
measured = system.call_neuron([image, back, np.asarray(image), *copies])[0]
assert len(set(measured)) == 1
"""
    await good(sandbox, host, program)
    ((_, arguments),) = [asked for asked in host.asked if asked[0] == "measure"]
    assert {image.id for image in arguments["images"]} == {picture("one 0").id}


async def test_an_image_is_base64_text_in_the_papers_dialect(host: FakeHost) -> None:
    program = """
import base64, io
import numpy as np
from PIL import Image
image, other = tools.text2image(["one", "two"])
assert type(image) is str and image.startswith("iVBOR") and image != other
back = Image.open(io.BytesIO(base64.b64decode(image)))
assert back.size == (32, 24)
measured = system.neuron([image, "data:image/png;base64," + image, back, np.asarray(back)])[0]
assert len(set(measured)) == 1 and system.neuron(image)[0] == measured[:1]
assert len(tools.edit_images([image], ["make it blue"])) == 1
tools.display("a", image)
def run_experiment(system, tools):
    return image
"""
    async with KernelServer(PAPER) as server:
        await server.start()
        outcome = await good(await server.open(seed=5), host, program)
    (_, arguments), _ = [asked for asked in host.asked if asked[0] == "measure"]
    assert {image.id for image in arguments["images"]} == {picture("one 0").id}
    assert outcome.value == picture("one 0")
    assert host.displayed == ["a", picture("one 0")]


async def test_an_image_that_comes_back_unchanged_is_not_sent(sandbox: KernelSandbox, host: FakeHost) -> None:
    """Pixels of what a program only looked at stay where they are."""
    program = """
import numpy as np
image = tools.text2image(["one"])[0]
np.asarray(image).sum(); image.load(); image.crop((0, 0, 4, 4))
assert image.id
image.putpixel((0, 0), (1, 2, 3))
assert image.id is None
"""
    await good(sandbox, host, program)


@pytest.mark.parametrize(
    "change",
    [
        "ImageDraw.Draw(image).rectangle((0, 0, 9, 9), fill='red')",
        "image.paste((255, 0, 0), (0, 0, 9, 9))",
        "image.putpixel((0, 0), (1, 2, 3))",
        "pixels = image.load(); pixels[0, 0] = (1, 2, 3)",
        "image.thumbnail((8, 8))",
        "image.paste(other)",
        "image.putalpha(128)",
    ],
)
async def test_an_image_changed_in_place_is_measured_as_changed(
    sandbox: KernelSandbox, host: FakeHost, change: str
) -> None:
    await good(
        sandbox,
        host,
        f"""
from PIL import Image, ImageDraw
image, other = tools.text2image(["one", "two"])
before = image.copy()
{change}
system.call_neuron([image, before])
""",
    )
    changed, before = host.asked[-1][1]["images"]
    assert before == picture("one 0")
    assert changed != before


async def test_the_entry_point_is_called_once(either: Sandbox, host: FakeHost) -> None:
    body = "def run_experiment(system, tools):\n  tools.display('x')\n  return 7\n"
    assert (await good(either, host, body)).value == 7
    assert host.displayed == ["x"]
    assert (await good(either, host, f"{body}result = run_experiment(system, tools)")).value in (7, None)
    assert host.displayed == ["x", "x"]
    # A later program that does not define it again does not run it again.
    assert (await good(either, host, "tools.display('y')")).value is None
    assert host.displayed == ["x", "x", "y"]
    assert (await good(either, host, body.replace("run_experiment", "execute_command"))).value == 7


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("def run_experiment():\n  return 1", 1),
        ("def run_experiment(system):\n  return type(system).__name__", "System"),
        ("def run_experiment(tools):\n  return type(tools).__name__", "Tools"),
        ("def run_experiment(system, tools, n=3):\n  return n", 3),
        ("def run_experiment(*args):\n  return len(args)", 2),
        ("def run_experiment(tools, system):\n  return type(tools).__name__", "Tools"),
        ("if True:\n  def run_experiment(system, tools):\n    return 2", 2),
        ("def main():\n  run_experiment(system, tools)\ndef run_experiment(s, t):\n  return 4\nmain()", 4),
        (
            "def run_experiment(system, tools):\n  return 5\nif __name__ == '__main__':\n"
            "  run_experiment(system, tools)",
            5,
        ),
        ("run_experiment = lambda system, tools: 6", None),
        ("import functools\n@functools.cache\ndef run_experiment(system, tools):\n  return 7", 7),
        (
            "class Once:\n  def __init__(self, f): self.f = f\n  def __call__(self, *a): return self.f(*a)\n"
            "@Once\ndef run_experiment(system, tools):\n  return 8",
            8,
        ),
        ("@lambda f: None\ndef run_experiment(system, tools):\n  return 9", None),
    ],
)
async def test_entry_points_of_any_form(
    sandbox: KernelSandbox, host: FakeHost, program: str, value: Any
) -> None:
    assert (await good(sandbox, host, program)).value == value


async def test_values_come_back_with_their_images(either: Sandbox, host: FakeHost) -> None:
    outcome = await good(
        either,
        host,
        "def run_experiment(system, tools):\n"
        "  images = tools.text2image(['a', 'b'])\n"
        "  return {'images': images, 'n': (1, 2.5, None, True), 'text': 'x'}",
    )
    assert outcome.value == {
        "images": [picture("a 0"), picture("b 0")],
        "n": [1, 2.5, None, True],
        "text": "x",
    }


async def test_results_of_earlier_programs_are_there(either: Sandbox, host: FakeHost) -> None:
    logging = "tools.save_experiment_log(a, i, [f't{n}' for n in range(5)], ['x', 'y'])"
    await good(either, host, f"a, i = zip(*tools.dataset_exemplars(system))\n{logging}")
    outcome = await good(
        either,
        host,
        "def run_experiment(system, tools):\n"
        "  return [tools.activation_threshold, tools.experiment_log, "
        "tools.results_list[0]['t0']['activation'],\n"
        "          tools.results_list[1]['t1']['image']]",
    )
    assert outcome.value == [7.0, ["t0", "t1", "t2", "t3", "t4"], 9.0, picture("exemplar 8.0")]


async def test_the_unit_stays_hidden(either: Sandbox, host: FakeHost) -> None:
    outcome = await good(either, host, "print(system.neuron_num, system.layer, system.model_name)")
    assert outcome.output == "hidden hidden hidden\n"


async def test_a_tool_that_declines_is_an_exception_that_a_program_can_catch(
    either: Sandbox, host: FakeHost
) -> None:
    outcome = await good(
        either,
        host,
        "try:\n  tools.text2image(['forbidden'])\nexcept Exception as error:\n  print('caught', error)",
    )
    assert "declined 'forbidden'" in outcome.output
    outcome = await either.run("x = 1\ntools.text2image(['forbidden'])", host)
    assert outcome.status == "error"
    assert "line 2" in outcome.error
    assert "declined 'forbidden'" in outcome.error


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import torch", "torch is not available here"),
        ("from torchvision import transforms", "torchvision is not available"),
        ("import requests", "no module 'requests'"),
        ("import PIL.NoSuchThing", "NoSuchThing"),
        ("x = 1\ny = undefined + 1", "line 2, in <module>: y = undefined + 1"),
        ("def f(:\n  pass", "line 1"),
        ("tools.nothing()", "no attribute 'nothing'"),
        ("system.model", "out of reach"),
        ("tools.text2image([1])", "prompts[0] must be a string"),
        ("tools.text2image('a', 3, 4)", "positional argument"),
        ("system.call_neuron(['a dog'])", "tools.text2image makes images from text"),
        ("system.call_neuron([5])", "expected an image"),
        ("tools.describe_images(tools.text2image(['a', 'b']), ['only one'])", "same length"),
        ("tools.edit_images(tools.text2image(['a', 'b']), ['x', 'y', 'z'])", "same length"),
        ("tools.log_experiment([1], [], ['a'], '')", "go together"),
        ("tools.log_experiment(['x'], [], ['a'], '')", "must hold numbers"),
        ("open('/etc/passwd')", "keep values in variables"),
        ("import os\nos.fork()", "not permitted"),
    ],
)
async def test_errors_help_to_write_a_better_program(
    sandbox: KernelSandbox, host: FakeHost, program: str, words: str
) -> None:
    outcome = await sandbox.run(program, host)
    assert outcome.status in ("error", "forbidden")
    assert words in outcome.error
    assert ".py" not in outcome.error
    assert "site-packages" not in outcome.error


@pytest.mark.parametrize("program", ["exit()", "quit()", "import sys; sys.exit(1)", "raise SystemExit"])
async def test_a_program_may_leave_early(sandbox: KernelSandbox, host: FakeHost, program: str) -> None:
    assert (await good(sandbox, host, f"print('a')\n{program}\nprint('b')")).output == "a\n"


async def test_an_optional_import_can_be_caught(sandbox: KernelSandbox, host: FakeHost) -> None:
    await good(
        sandbox, host, "try:\n  import scipy\nexcept ImportError:\n  scipy = None\nassert scipy is None"
    )


async def test_a_seed_fixes_every_random_choice(open_sandbox: Any, host: FakeHost) -> None:
    program = (
        "import random, numpy as np\n"
        "print(random.random(), np.random.rand(), np.random.default_rng().random(), "
        "np.random.default_rng(3).random())\n"
        "print({'a', 'b', 'c'}, random.sample(range(99), 3), np.random.permutation(5), hash('x'))"
    )
    outputs = [(await good(await open_sandbox(seed=seed), host, program)).output for seed in (1, 1, 2)]
    assert outputs[0] == outputs[1] != outputs[2]


async def test_more_images_than_one_call_takes_are_measured_in_turn(
    sandbox: KernelSandbox, host: FakeHost
) -> None:
    outcome = await good(
        sandbox,
        host,
        "image = tools.text2image(['a'])[0]\na, m = system.call_neuron([image] * 300)\nprint(len(a), len(m))",
    )
    assert outcome.output == "300 300\n"
    assert [len(arguments["images"]) for method, arguments in host.asked if method == "measure"] == [256, 44]


async def test_standard_library_and_numpy_work_after_the_walls_are_up(
    sandbox: KernelSandbox, host: FakeHost
) -> None:
    await good(
        sandbox,
        host,
        """
import collections, itertools, functools, heapq, bisect, datetime, decimal, fractions, string
import textwrap, pprint, enum, abc, copy, operator, contextlib, typing, types, inspect, traceback
import warnings, logging, csv, html, zlib, hashlib, hmac, secrets, uuid, time, calendar, zoneinfo, unicodedata
import difflib, struct, array, queue
import asyncio.locks, xml.etree.ElementTree, sqlite3, urllib.parse, ssl, email.message
import concurrent.futures, colorsys, statistics
import numpy.fft, numpy.linalg, numpy.ma, numpy.polynomial, numpy.testing
import PIL.ImageColor, PIL.ImageEnhance, PIL.ImageFont, PIL.ImageMorph, PIL.ImageSequence, PIL.ImageTransform
import numpy as np
assert np.linalg.svd(np.random.rand(20, 20))[1].shape == (20,)
assert np.corrcoef(np.arange(9), np.arange(9) ** 2).shape == (2, 2)
logging.getLogger().warning("a warning")
warnings.warn("another")
image = PIL.Image.new("RGB", (60, 20))
PIL.ImageDraw.Draw(image).text((2, 2), "hi", font=PIL.ImageFont.load_default())
for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
    import io
    buffer = io.BytesIO(); image.save(buffer, kind); PIL.Image.open(io.BytesIO(buffer.getvalue())).load()
image.resize((30, 10), PIL.Image.LANCZOS).rotate(30).quantize(8).convert("RGB")
time.sleep(0.01)
with concurrent.futures.ThreadPoolExecutor(4) as pool: assert sum(pool.map(abs, range(-5, 5))) == 25
sqlite3.connect(":memory:").execute("select 1").fetchall()
""",
    )
