"""A person's study with fakes in place of models: recorded, examined and shown as an agent's is."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import PIL.Image
import pytest
from anyio.from_thread import start_blocking_portal

from actors.errors import UsageError
from agents.critic.critic import ConfirmationSettings
from agents.evidence.verdict import holds
from agents.records.journal import Journal
from agents.records.manifest import claim_studied
from agents.records.record_types import RoundRecord
from agents.records.store import Store, StoreError
from agents.study.person import PersonsStudy
from agents.study.settings import InterpreterSettings
from agents.study.study import RunContext, StudyContext, StudyRequest
from agents.tasks.describe_unit import DescribeUnit
from experiments.report import write_unit_page
from experiments.studies.contact_sheet import ContactSheets
from experiments.studies.session import StudySession
from experiments.studies.terminal import talk
from tests.tools.fakes import FakeStudio, IntervenableSubject, darken
from tools.sandbox import SandboxSettings
from tools.sandbox.child.link import ToolError


class Observer:
    """Sees nothing, and says so in markup."""

    name, sees_images = "fake-observer", True

    async def complete(self, request):
        from actors.chat.reply import ChatReply

        return ChatReply("unsure: <b>thing</b>")


@pytest.fixture
def open_session(tmp_path) -> Iterator:
    """Return a function that opens a session on a unit that bananas drive; all are closed after the test."""
    with start_blocking_portal("asyncio") as portal, contextlib.ExitStack() as opened:

        def wait(work):
            async def join():
                return await work

            return portal.call(join)

        def open_(
            folder: str = "run", limits: SandboxSettings | None = None, studio: FakeStudio | None = None
        ) -> StudySession:
            studio = studio or FakeStudio()
            subject = IntervenableSubject(
                studio, lambda shown: 4.0 + len(shown) % 3 if "banana" in shown else 0.1
            )
            context = RunContext(
                interpreter=Observer(),
                observers=Observer(),
                studio=studio,
                sandboxes=None,
                paint=darken,
                settings=InterpreterSettings(max_examinations=2),
                confirmation=ConfirmationSettings(min_images=10, max_images=10, probe=0),
                rates={},
                facts={"interpreter": "person:ada"},
            )
            request = StudyRequest(subject, DescribeUnit())
            study = PersonsStudy(StudyContext(context, request, Store.open(tmp_path / folder)), "person:ada")
            wait(study.open())
            background = wait(subject.background())
            limits = limits or SandboxSettings()
            session = StudySession(study, wait, tmp_path / folder, contextlib.ExitStack(), background, limits)
            opened.callback(session.close)
            return session

        yield open_


def rounds_of(session: StudySession) -> list[RoundRecord]:
    return Journal(Store(session.run), "fake/unit").rounds()


def test_a_cell_with_tool_calls_is_a_round_with_the_cells_before_it(open_session):
    study = open_session()
    with study.cell("things = ['a banana', 'a car']"):
        things = ["a banana", "a car"]
    assert study.rounds == 0
    study.hypotheses("bananas", "cars")
    source = "activations, masked = study.system.call_neuron(study.tools.text2image(things))"
    with study.cell(source):
        activations, _ = study.system.call_neuron(study.tools.text2image(things))
        study.tools.display("seen", _[0])
        print("the numbers", activations)
    (record,) = rounds_of(study)
    assert record.program == f"things = ['a banana', 'a car']\n\n{source}"
    assert record.hypotheses == ["bananas", "cars"]
    assert [call["value"] for call in record.sandbox[0].calls][1]["activations"] == activations
    assert record.observation[0] == "seen"
    assert "the numbers" in record.observation[2]
    assert record.outcome.status == "ok"
    assert record.toolbox.images_made == 2


def test_a_cell_that_fails_is_a_round_that_says_so(open_session):
    study = open_session()

    def fail() -> None:
        with study.cell("1 / 0"):
            study.tools.text2image("a banana")
            raise ZeroDivisionError("division by zero")

    with pytest.raises(ZeroDivisionError):
        fail()
    (record,) = rounds_of(study)
    assert record.outcome.status == "error"
    assert record.outcome.error == "ZeroDivisionError: division by zero"


def test_an_answer_is_examined_sent_back_and_examined_again(open_session):
    study = open_session()
    first = study.answer("car")
    assert not first.accepted
    assert "was not confirmed" in first._repr_html_()
    assert study.result is None
    second = study.answer("banana", description="Bananas.")
    assert second.accepted
    assert study.result["label"] == "banana"
    assert study.result["verdict"] == "not confirmed", "the observer here sees nothing"
    assert study.result["rounds"] == 2
    with pytest.raises(UsageError, match="has its answer already"):
        study.answer("pear")


def test_the_last_answer_that_may_be_examined_stands_unconfirmed(open_session):
    study = open_session()
    study.answer("car")
    assert not holds(study.answer("boat").record)


def test_an_existing_study_is_resumed(open_session):
    before = open_session()
    with before.cell("one"):
        before.tools.dataset_exemplars(before.system)
    before.answer("car")
    before.close()
    study = open_session()
    assert study.rounds == 2
    assert study.tools.activation_threshold == pytest.approx(4.3)
    assert study.answer("boat").record is not None, "the answer before it counts"


def use_up_the_calls(study: StudySession, limit: int) -> None:
    for _ in range(limit):
        study.tools.text2image("a banana")
    with pytest.raises(ToolError, match=f"may make {limit} calls"):
        study.tools.text2image("a banana")


@pytest.mark.parametrize("reopened", [False, True])
def test_each_cell_has_limits_of_its_own_also_after_an_answer(open_session, reopened):
    limits = SandboxSettings(max_calls=2)
    study = open_session(limits=limits)
    study.answer("banana")
    if reopened:
        study.close()
        study = open_session(limits=limits)
    for _ in range(2):
        with study.cell("use them up"):
            use_up_the_calls(study, 2)
    assert study.rounds == 1


def test_calls_outside_of_cells_leave_a_cell_its_limits_and_are_no_part_of_its_round(open_session):
    study = open_session(limits=SandboxSettings(max_calls=2))
    use_up_the_calls(study, 2)
    with study.cell("use them up"):
        use_up_the_calls(study, 2)
    outside, inside = rounds_of(study)
    assert "ran outside of a cell" in outside.program
    assert inside.program == "use them up"
    assert len(outside.sandbox[0].calls) == len(inside.sandbox[0].calls) == 2


class StuckOnce(FakeStudio):
    """Never answers the first request."""

    stuck = True

    async def generate(self, *args, **kwargs):
        if self.stuck:
            self.stuck = False
            await asyncio.Event().wait()
        await asyncio.sleep(0)  # as any real studio does: only then can a deadline be noticed
        return await super().generate(*args, **kwargs)


def test_a_cell_whose_only_call_takes_too_long_does_not_end_the_cells_after_it(open_session):
    study = open_session(limits=SandboxSettings(calls_timeout_s=0.2), studio=StuckOnce())

    def overrun() -> None:
        with study.cell("the slow one"):
            study.tools.text2image("a banana")

    with pytest.raises(ToolError, match=r"more than 0\.2 s"):
        overrun()
    with study.cell("the next"):
        study.tools.text2image("a banana")
    (record,) = rounds_of(study)
    assert record.outcome.status == "ok"
    assert record.program == "the slow one\n\nthe next"


@pytest.fixture
def full_disk(monkeypatch):
    """Return a context in which a method of the journal cannot write."""

    def refuse(*_: object) -> None:
        raise StoreError("the disk is full.")

    @contextlib.contextmanager
    def full(method: str) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, method, refuse)
            yield

    return full


@pytest.fixture
def interrupted(open_session, full_disk):
    """Return a study whose accepted answer was written down, but not its result."""
    study = open_session()
    with study.cell("one"):
        study.tools.text2image("a car")
    study.answer("car")
    with full_disk("finish"), pytest.raises(StoreError):
        study.answer("banana", description="Bananas.")
    assert study.result is None
    return study


def result_on_disk(study: StudySession) -> bytes:
    (path,) = study.run.glob("units/*/done.json")
    return path.read_bytes()


def uninterrupted(open_session) -> bytes:
    """Return what the same study leaves when nothing comes between its answer and its result."""
    study = open_session("another")
    with study.cell("one"):
        study.tools.text2image("a car")
    study.answer("car")
    study.answer("banana", description="Bananas.")
    return result_on_disk(study)


def test_an_answer_that_stood_when_the_program_died_has_its_result_when_it_is_opened_again(
    open_session, interrupted
):
    study = open_session()
    assert study.rounds == 3
    assert study.result["label"] == "banana"
    assert result_on_disk(study) == uninterrupted(open_session)
    blobs = Journal(Store(study.run), "fake/unit").blobs
    trials = study.result["evidence"]["controls"]
    assert len(trials) == 10
    assert all(blobs.get(trial["image"]) for trial in trials), "the critic's images outlive its process"


def test_an_answer_that_stood_when_a_fault_came_is_not_examined_again(open_session, interrupted):
    again = interrupted.answer("banana", description="Bananas.")
    assert again.accepted
    assert result_on_disk(interrupted) == uninterrupted(open_session)
    assert interrupted.rounds == 3


def test_an_answer_that_stood_when_a_fault_came_cannot_be_replaced(interrupted):
    with interrupted.cell("two"):
        interrupted.tools.text2image("a boat")
    assert interrupted.rounds == 3, "nothing follows an answer that stands"
    with pytest.raises(UsageError, match="'banana'"):
        interrupted.answer("boat")
    assert interrupted.result["label"] == "banana"


def test_a_close_that_cannot_record_the_last_cell_ends_the_models_all_the_same(open_session, full_disk):
    study = open_session()
    ended = []
    study._closing.callback(ended.append, "models")
    before = sys.stdout
    study.begin("one")
    study.tools.text2image("a banana")
    with full_disk("commit_round"), pytest.raises(StoreError):
        study.close()
    assert ended == ["models"]
    assert sys.stdout is before


def test_a_session_speaks_the_dialect_that_is_set(open_session):
    pairs_study = open_session("later")
    pairs = pairs_study.tools.dataset_exemplars(pairs_study.system)
    assert len(pairs) == 15
    pairs_study.close()
    study = open_session("paper", limits=SandboxSettings(dialect="paper"))
    activations, images = study.tools.dataset_exemplars(study.system)
    assert activations == [activation for activation, _ in pairs]
    assert images[0].startswith("iVBOR")


def test_an_intervention_is_shown_counted_and_written_down_and_a_person_may_name_units(open_session):
    study = open_session()
    with study.cell("effects = study.system.intervene(things, outputs=['deep:3'])"):
        things = study.tools.text2image(["a banana", "a car"])
        effects = study.system.intervene(things, outputs=["deep:3"])
    assert [each.name for each in effects.asked] == ["deep:3"]
    assert effects.images[0].image.size == things[0].size
    page = effects._repr_html_()
    assert page.count("<img src=") == 2
    assert "<script>" not in page
    (record,) = rounds_of(study)
    answer = record.sandbox[0].calls[-1]["value"]
    assert answer["effects"]["about"] == "ablate to zero everywhere"
    assert record.toolbox.interventions == 2
    assert sorted(record.toolbox.measured.values()) == sorted(answer["activations"]), "the images' own"
    assert record.toolbox.log == []


def test_html_in_a_notebook_escapes_all_text(open_session):
    study = open_session()
    exemplars = study.tools.dataset_exemplars(study.system)
    assert exemplars._repr_html_().count("<img src=") == 15
    image = study.tools.text2image(["a <script>alert(1)</script> banana"])
    assert "data:image/jpeg;base64," in study.system.call_neuron(image)._repr_html_()
    assert "&lt;b&gt;" in study.tools.describe_images(image)._repr_html_()
    page = study.answer("<script>alert(1)</script> banana", description="<img src=x>")._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<img src=x>" not in page


def test_images_stand_over_their_prompts_and_edits_beside_what_they_were(open_session):
    study = open_session()
    images = study.tools.text2image(["a banana", "a <b>car"])
    assert "&lt;b&gt;car" in images._repr_html_()
    edited = study.tools.edit_images(images[:1], ["make it blue"])
    page = study.system.call_neuron([images[0], *edited])._repr_html_()
    assert page.count("<img src=") == 3, "the image before stands beside the edited one"
    assert page.index("→") < page.index("make it blue")
    assert edited._repr_html_().count("<img src=") == 2


def test_an_answer_that_is_sent_back_says_why_and_help_lists_the_calls(open_session):
    study = open_session()
    shown = repr(study.answer("car"))
    assert shown.startswith("car: sent back, ")
    assert "was not confirmed" in shown
    guide = str(study.help())
    for call in ("tools.text2image(prompts, n=1)", "system.call_neuron(images)", "study.answer(*labels, "):
        assert call in guide
    assert "study.begin" not in guide
    assert repr(study.answer("banana")).startswith(
        "banana: not confirmed. The label did not stand its test.\n"
    )


def test_a_terminal_that_shows_no_images_names_a_sheet_of_them(open_session, capsys):
    study = open_session()
    shown: list[PIL.Image.Image] = []
    pictures = study.system.call_neuron(study.tools.text2image(["a banana", "a car"])).pictures()
    assert ContactSheets(study.run / "sheets", shown.append).show(pictures) == ""
    assert shown[0].width > 2 * 168
    study._view.sheets = ContactSheets(study.run / "sheets", None)
    study.tools.display("a banana", pictures[0].image)
    assert "sheet-1.png" in capsys.readouterr().out
    with PIL.Image.open(study.run / "sheets" / "sheet-1.png") as sheet:
        assert sheet.width < shown[0].width


def test_the_report_shows_a_persons_study(open_session):
    study = open_session()
    with study.cell("study.tools.text2image('a banana')"):
        study.system.call_neuron(study.tools.text2image("a banana"))
    study.answer("banana")
    (folder,) = (study.run / "units").iterdir()
    page = write_unit_page(study.run, folder.name).read_text()
    assert "person:ada" in page
    assert "Round 2" in page
    assert json.loads((folder / "done.json").read_text())["facts"]["interpreter"] == "person:ada"


def test_a_program_from_a_pipe_is_one_experiment(open_session, capsys):
    study = open_session()
    program = "images = tools.text2image(['a banana'])\nprint(system.call_neuron(images)[0])\n'a value'\n"
    assert talk(study, io.StringIO(program))
    assert study.rounds == 1
    assert "'a value'" in capsys.readouterr().out, "as at a prompt"
    assert not talk(study, io.StringIO("tools.summarize_images(images)"))
    assert "NameError" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["network", "dataset"])
def test_a_study_on_another_network_or_data_set_is_not_resumed(changed, config_file, tmp_path, monkeypatch):
    """The same words may name other weights, or another folder's images, by now."""
    from experiments.setup.workbench import Workbench

    begun = {"network": "aa", "dataset": "bb"}

    @contextlib.asynccontextmanager
    async def bench(profile, **_):
        async def subject(layer, unit):
            return SimpleNamespace(id=f"m/{layer}/{unit}")

        yield SimpleNamespace(subject=subject, context=SimpleNamespace(facts=begun | {changed: "cc"}))

    monkeypatch.setattr(Workbench, "open", bench)
    claim_studied(Store.open(tmp_path / "run"), begun)
    with pytest.raises(UsageError, match="started with something else"):
        StudySession.open("m", "l", 3, out=tmp_path / "run", config=config_file(), notify=lambda text: None)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["studied.json"]


UNCLOSED = """
import sys
from experiments.studies.contact_sheet import ContactSheets
from experiments.studies.session import StudySession
study = StudySession.open("concept-net", "concepts", 116, out=sys.argv[1], config=sys.argv[2])
study.tools.dataset_exemplars(study.system)
print("end of the program", flush=True)
"""


@pytest.mark.ray
@pytest.mark.exhaustive
@pytest.mark.timeout(200)
def test_a_program_that_does_not_close_its_study_ends_all_the_same(config_file, tmp_path):
    """A real process with its own Ray; what was done until then is on record."""
    run = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-c", UNCLOSED, str(run), str(config_file())],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "end of the program\n"
    assert len(list(run.glob("units/*/rounds/0001.json"))) == 1
