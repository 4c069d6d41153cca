"""What a person tries on a unit is measured as an agent's images are, kept, and shown."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import pytest

from actors.errors import UsageError
from actors.images import Image
from agents.records.journal import Journal
from agents.records.store import Store
from agents.records.work import WorkItem, write_plan
from agents.study.settings import InterpreterSettings
from agents.study.study import RunContext
from experiments.report import write_unit_page
from experiments.web.playground import Playground, Ranking
from experiments.web.trials import PhotoTrial, read_trial
from tests.tools.fakes import FakeStudio, IntervenableSubject, darken
from tools.toolbox import ToolFailedError

UNIT = "fake/layer:3"


class Bench:
    """Has one unit, which dogs drive."""

    def __init__(self, max_images: int) -> None:
        self.studio = FakeStudio()
        settings = InterpreterSettings(max_images=max_images)
        none = cast(Any, None)
        self.context = RunContext(none, none, self.studio, none, darken, settings, None, {}, {"network": "n"})

    async def layers(self) -> list[Any]:
        return []

    async def subject(self, layer: str, unit: str) -> IntervenableSubject:
        return IntervenableSubject(
            self.studio, lambda shown: 2.0 if "dog" in shown else 0.5, f"fake/{layer}:{unit}"
        )


class Place:
    """A run with one unit, and its playground; `starts` counts starts of the models."""

    def __init__(self, root: Path, max_images: int = 2) -> None:
        self.root, self.starts, self.said = root, 0, list[str]()
        store = Store.open(root)
        store.put("manifest.json", b'{"command": "sweep", "model": "fake"}')
        write_plan(store, [WorkItem(UNIT, "layer", "3")])
        self.journal = Journal(store, UNIT)
        self.slug = self.journal.folder.removeprefix("units/")
        self.picture = Image.from_pixels(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
        self.journal.blobs.put([self.picture])

        @asynccontextmanager
        async def open_bench(note: Any) -> AsyncIterator[Bench]:
            self.starts += 1
            yield Bench(max_images)

        self.playground = Playground(root, open_bench)

    async def attempt(self, body: str) -> Any:
        trial = read_trial(body.replace("IMAGE", self.picture.id).encode())
        return await self.playground.carry_out(self.slug, trial, self.said.append)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.playground.close()


def encoded(data: bytes) -> str:
    return f'{{"kind": "photo", "data": "{base64.b64encode(data).decode()}"}}'


def png(width: int, height: int) -> bytes:
    """Return a file that says it has so many pixels, and holds none."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


async def test_every_kind_of_trial_is_measured_kept_and_shown(place: Place) -> None:
    photo = io.BytesIO()
    PIL.Image.new("RGB", (30, 20), "red").save(photo, "PNG")
    prompt = await place.attempt('{"kind": "prompt", "prompt": "a <b>dog</b>"}')
    edit = await place.attempt('{"kind": "edit", "image": "IMAGE", "instruction": "add a dog"}')
    crop = await place.attempt('{"kind": "crop", "image": "IMAGE", "box": [0.5, 0, 1, 0.5]}')
    ablate = await place.attempt('{"kind": "ablate", "image": "IMAGE"}')
    await place.attempt(encoded(photo.getvalue()))
    # Of the data set's 3.0, 0.5, 1.0 and 0.25, three are below 2.0, and one is below 0.5.
    assert (prompt.activation, prompt.below, prompt.compared) == (2.0, 0.75, 4)
    assert (edit.activation, edit.parent_activation, edit.words) == (2.0, 0.5, "add a dog")
    assert (crop.below, place.journal.blobs[crop.image].size) == (0.25, (20, 30))
    assert ablate.effects["lowered"][0]["change"] == -2.5
    assert place.starts == 1
    assert place.said[:2] == ["starting the models", "starting"]
    kinds = [trial.kind for trial in place.journal.trials()]
    assert kinds == ["prompt", "edit", "crop", "ablate", "photo"]
    page = write_unit_page(place.root, place.slug).read_text()
    assert "a &lt;b&gt;dog&lt;/b&gt;" in page
    assert "75.0% of the data set&#39;s 4 images are below it" in page
    assert "&lt;script&gt;snow&lt;/script&gt;" in page


async def test_trials_have_an_agents_limits_also_after_a_restart(place: Place, tmp_path: Path) -> None:
    await place.attempt('{"kind": "prompt", "prompt": "a dog"}')
    again = Place(tmp_path, max_images=2)
    first, second = place.journal.trials()[0], await again.attempt('{"kind": "prompt", "prompt": "a dog"}')
    assert (second.number, second.image == first.image) == (2, False)
    with pytest.raises(ToolFailedError, match="may make 2 images and 0 are left"):
        await again.attempt('{"kind": "prompt", "prompt": "a cat"}')
    assert len(place.journal.trials()) == 2
    await again.playground.close()


async def test_a_paid_image_is_on_record_before_anything_else_can_fail(place: Place) -> None:
    async def broken(images: Any) -> Any:
        raise ToolFailedError("the network is gone")

    await place.attempt('{"kind": "ablate", "image": "IMAGE"}')
    (desk,) = place.playground._desks.values()
    desk.toolbox.system.measure = broken
    with pytest.raises(ToolFailedError, match="is gone"):
        await place.attempt('{"kind": "prompt", "prompt": "a dog"}')
    paid = place.journal.trials()[1]
    assert (paid.kind, paid.activation, paid.image in place.journal.blobs) == ("prompt", None, True)
    assert "was not measured" in write_unit_page(place.root, place.slug).read_text()


async def test_a_ranking_holds_up_no_other_trial_and_ends_with_who_waits_for_it(place: Place) -> None:
    await place.attempt('{"kind": "ablate", "image": "IMAGE"}')
    (desk,) = place.playground._desks.values()
    begun, ended = asyncio.Event(), asyncio.Event()

    class Endless(FakeStudio):
        async def explored(self, progress: Any) -> Any:
            begun.set()
            try:
                progress(1, 4)
                await asyncio.Event().wait()
            finally:
                ended.set()

    desk.ranking = Ranking(cast(Any, Endless()))
    first = asyncio.create_task(place.attempt('{"kind": "prompt", "prompt": "a dog"}'))
    await begun.wait()
    second = asyncio.create_task(place.attempt('{"kind": "ablate", "image": "IMAGE"}'))
    while len(measured := place.journal.trials()) < 3 or measured[2].activation is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert [trial.compared for trial in measured] == [4, 0, 0]
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    await ended.wait()
    assert any("trial 2 is on record, activation 2.00; ranking it" in said for said in place.said)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<svg onload=alert(1)>", "image"),
        (png(50_000, 50_000), "at most 268,435,456 pixels"),
        (png(9_000, 9_000), "at most 64,000,000"),
        (png(10, 10), "image|truncated"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
async def test_what_is_no_photo_is_refused_before_its_pixels_are_read(data: bytes, reason: str) -> None:
    trial = read_trial(encoded(data).encode())
    assert isinstance(trial, PhotoTrial)
    with pytest.raises(UsageError, match=reason):
        trial.image()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[" * 10_000,
        '{"kind": "shell", "words": "ls"}',
        '{"kind": "prompt", "prompt": "  "}',
        '{"kind": "crop", "image": "../../etc", "box": [0, 0, 1, 1]}',
        '{"kind": "crop", "image": "0123456789abcdef", "box": [0, 0, 1, NaN]}',
    ],
)
async def test_what_is_no_trial_is_refused(body: str) -> None:
    with pytest.raises(UsageError, match="this is no trial"):
        read_trial(body.encode())
