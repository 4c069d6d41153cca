"""What a journal promises: nothing paid twice, nothing changed in silence."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from actors.chat.base import ChatRequest, Message
from actors.chat.reply import ChatReply, Usage
from actors.chat.tasks import DescribeUnitTask
from actors.endpoint.faults import EndpointError, EndpointStopError
from actors.errors import ReplicaLostError
from actors.images import Image, encode_png
from actors.masks import encode_mask, paint
from agents.records.journal import MOST_MASKS, Blobs, Journal, JournalError, slug
from agents.records.record_types import ReplyRecord, RoundRecord
from agents.records.recorded_chat import RecordedChat, request_key
from agents.records.store import Store, StoreError
from agents.study.budget import BudgetSettings, BudgetSpentError, Cost, Ledger, spent_so_far
from agents.study.metered import MeteredChat, Rate


class CountingChat:
    name = "counting"
    sees_images = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken = False

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request.messages[-1].text)
        if self.broken:
            raise ConnectionError
        return ChatReply(f"answer {len(self.asked)}", usage=Usage(prompt_tokens=3, requests=1))


def ask(text: str, **options: object) -> ChatRequest:
    return ChatRequest((Message("user", (text,)),), **options)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path)


async def test_a_recorded_answer_is_not_requested_again(store):
    model = CountingChat()
    first = RecordedChat(model, Journal(store, "u"), "interpreter")
    assert (await first.complete(ask("a"))).text == "answer 1"
    again = RecordedChat(model, Journal(store, "u"), "interpreter")
    assert (await again.complete(ask("a"))).text == "answer 1"
    assert model.asked == ["a"]
    assert Journal(store, "u").usage()["interpreter"].prompt_tokens == 3, (
        "the study cost it, whenever it was paid"
    )


async def test_no_call_is_sent_when_the_disk_is_nearly_full(tmp_path):
    model, journal = CountingChat(), Journal(Store(tmp_path, spare_bytes=2**62), "u")
    with pytest.raises(StoreError, match="nearly full") as refusal:
        await RecordedChat(model, journal, "interpreter").complete(ask("a"))
    assert "Free some space" in refusal.value.fix
    assert not model.asked
    assert journal.in_doubt() == []


async def test_a_call_without_an_answer_is_in_doubt(store):
    model, journal = CountingChat(), Journal(store, "u")
    model.broken = True
    chat = RecordedChat(model, journal, "interpreter")
    with pytest.raises(ConnectionError):
        await chat.complete(ask("a"))
    assert journal.in_doubt() == [request_key("counting", ask("a"))]
    model.broken = False
    await chat.complete(ask("a"))
    assert journal.in_doubt() == [request_key("counting", ask("a"))], "it may have been billed twice"


async def test_a_call_that_was_refused_or_never_sent_is_not_in_doubt(store):
    class Refusing(CountingChat):
        def __init__(self, *errors):
            super().__init__()
            self.errors = list(errors)

        async def complete(self, request):
            if self.errors:
                raise self.errors.pop(0)
            return await super().complete(request)

    journal = Journal(store, "u")
    surely = [
        BudgetSpentError("spent."),
        EndpointStopError("a bad key."),
        EndpointError("rejected.", "", 3, 0),
    ]
    chat = RecordedChat(Refusing(*surely), journal, "interpreter")
    for error in surely:
        with pytest.raises(type(error)):
            await chat.complete(ask("a"))
    await chat.complete(ask("a"))
    assert journal.in_doubt() == []
    for text, error in [
        ("b", EndpointError("timed out.", "", 3, 1)),
        ("c", EndpointStopError("timed out, then a bad key.", "", 2, 1)),
    ]:
        chat = RecordedChat(Refusing(error), journal, "interpreter")
        with pytest.raises(type(error)):
            await chat.complete(ask(text))
        assert request_key("counting", ask(text)) in journal.in_doubt()


class Waiting(CountingChat):
    """Sends when `turn` is set; `sent` and `answering` mark the steps."""

    def __init__(self):
        super().__init__()
        self.turn, self.sent = asyncio.Event(), asyncio.Event()
        self.answering = asyncio.Event()

    async def complete_reporting(self, request, on_send):
        await self.turn.wait()
        await on_send()
        self.sent.set()
        await self.answering.wait()
        return await self.complete(request)


@pytest.mark.parametrize("left", [False, True])
async def test_a_call_that_ends_while_it_waits_for_its_turn_is_not_in_doubt(store, left):
    model, journal = Waiting(), Journal(store, "u")
    ledger = Ledger(BudgetSettings())
    metered = MeteredChat(model, ledger, Rate(prompt=1.0))
    call = asyncio.ensure_future(
        RecordedChat(metered, journal, "interpreter", metered.most).complete(ask("a"))
    )
    if left:
        model.turn.set()
        await model.sent.wait()
    else:
        await asyncio.to_thread(lambda: None)  # the record has been looked at
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert bool(journal.in_doubt()) is left
    assert bool(ledger.spent.tokens) is bool(spent_so_far(store).tokens) is left
    assert ledger.reserved == Cost()
    model.turn.set()
    model.answering.set()
    assert (await RecordedChat(model, journal, "interpreter").complete(ask("a"))).text == "answer 1"


@pytest.mark.parametrize("left", [False, True])
async def test_a_call_that_a_lost_replica_held_is_paid_for_in_the_account_as_in_the_records(store, left):
    class Losing(CountingChat):
        async def complete_reporting(self, request, on_send):
            if left:
                await on_send()
            raise ReplicaLostError("it died.")

    ledger = Ledger(BudgetSettings())
    metered = MeteredChat(Losing(), ledger, Rate(prompt=1.0))
    with pytest.raises(ReplicaLostError):
        await RecordedChat(metered, Journal(store, "u"), "interpreter", metered.most).complete(ask("a"))
    assert ledger.spent == spent_so_far(store)
    assert bool(ledger.spent.tokens) is left


def test_the_key_of_a_call_depends_on_all_of_the_request():
    image = Image.from_pixels(np.zeros((2, 3, 3), np.uint8))
    requests = [
        ask("a"),
        ask("b"),
        ask("a", seed=1),
        ask("a", max_tokens=5),
        ask("a", temperature=0.5),
        ChatRequest((Message("system", ("a",)),)),
        ChatRequest((Message("user", ("a", image)),)),
    ]
    assert len({request_key("m", each) for each in requests} | {request_key("n", requests[0])}) == 8
    assert request_key("m", ask("a", conversation="x")) == request_key("m", ask("a", conversation="y"))
    assert ask("a", task=DescribeUnitTask()) == ask("a")
    assert request_key("m", ask("a", task=DescribeUnitTask())) == request_key("m", ask("a"))


def test_a_round_is_written_once_and_a_second_writer_gets_an_error(store):
    journal = Journal(store, "u")
    record, other = (RoundRecord(round=1, reply=ReplyRecord(text=text)) for text in ("one", "two"))
    journal.commit_round(record, [])
    journal.commit_round(record, [])
    with pytest.raises(JournalError, match="another content"):
        Journal(store, "u").commit_round(other, [])
    assert journal.rounds() == [record]


def test_images_are_restored_exactly_and_damage_is_detected(store):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image, blobs = Image.from_pixels(pixels), Blobs(store)
    blobs.put([image, image])
    assert np.array_equal(blobs.get(image.id).pixels, pixels)
    other = Image.from_pixels(pixels[::-1])
    (store.root / Blobs.key(other.id)).parent.mkdir(parents=True, exist_ok=True)
    (store.root / Blobs.key(other.id)).write_bytes((store.root / Blobs.key(image.id)).read_bytes())
    with pytest.raises(JournalError, match="changed"):
        blobs.get(other.id)
    with pytest.raises(JournalError, match="missing"):
        blobs.get("0" * 32)


def test_a_masked_image_is_stored_as_its_mask_and_restored_exactly(store):
    rng = np.random.default_rng(0)
    picture = Image.from_pixels(rng.integers(0, 256, (48, 64, 3), np.uint8))
    once = paint(picture, rng.random((3, 4)), 0.5)
    twice = paint(once, rng.random((5, 5)), 0.6)
    Blobs(store).put([twice])
    assert sorted(key.rpartition(".")[2] for key in store.keys("blobs")) == ["png", "png", "webp"]
    for image in (picture, once, twice):
        assert np.array_equal(Blobs(store).get(image.id).pixels, image.pixels)
    assert len((store.root / Blobs.mask_key(once.id)).read_bytes()) < once.pixels.nbytes / 8
    Blobs(store).put([Image(once.pixels, once.id)])
    assert not store.has(Blobs.key(once.id)), "its mask is enough"


def test_deeply_nested_masks_are_restored(store):
    rng = np.random.default_rng(0)
    images = [Image.from_pixels(np.full((32, 32, 3), 255, np.uint8))]
    for _ in range(1500):  # more than a recursion may take
        images.append(paint(images[-1], rng.random((3, 3)), 0.5))
    blobs = Blobs(store)
    blobs.put([images[-1], *images[:9]])
    for image in (images[-1], *images[:9]):
        assert np.array_equal(Blobs(store).get(image.id).pixels, image.pixels)
    kept = [store.has(Blobs.mask_key(image.id)) for image in images[:7]]
    assert kept == [False, *[True] * MOST_MASKS, False, False]


def test_a_damaged_mask_is_reported(store):
    picture, other = (Image.from_pixels(np.full((8, 8, 3), grey, np.uint8)) for grey in (200, 100))
    masked, blobs = paint(picture, np.ones((2, 2)), 2.0), Blobs(store)
    blobs.put([masked])
    path = store.root / Blobs.mask_key(masked.id)
    (store.root / Blobs.key(picture.id)).unlink()
    with pytest.raises(JournalError, match=f"{picture.id} is missing"):
        blobs.get(masked.id)
    path.write_bytes(encode_mask(np.zeros((8, 8), np.uint8), masked.id))
    with pytest.raises(JournalError, match="missing"):
        blobs.get(masked.id)
    Blobs(store).put([other])
    for wrong, message in [
        (encode_mask(np.zeros((8, 8), np.uint8), other.id), "changed"),
        (encode_mask(np.zeros((4, 4), np.uint8), other.id), "damaged"),
        (b"not a picture", "damaged"),
        (encode_png(picture), "damaged"),
    ]:
        path.write_bytes(wrong)
        with pytest.raises(JournalError, match=message):
            blobs.get(masked.id)


def test_units_have_different_folders_whatever_their_names():
    names = ["a/b", "a_b", "a:b", "../a", "", "." * 300, "ü" * 200]
    assert len({slug(name) for name in names}) == len(names)
    assert all("/" not in slug(name) and len(slug(name)) < 120 for name in names)
