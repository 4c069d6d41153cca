"""A study that intervened comes out of its record as it was, without a network."""

from __future__ import annotations

from pathlib import Path

from agents.records.journal import Journal
from agents.records.recorded_chat import RecordedChat
from agents.records.store import Store
from agents.study.agent import Agent, AgentParts
from agents.study.notes import leave_note
from agents.study.replay import RecordedStudy, replay
from agents.study.settings import InterpreterSettings
from agents.tasks.describe_unit import DescribeUnit
from tests.agents.fakes import ScriptedChat
from tests.tools.fakes import FakeObservers, FakeStudio, IntervenableSubject, darken
from tests.tools.sandbox.conftest import LIMITS
from tools.sandbox.kernel import KernelServer
from tools.system import SubjectSystem
from tools.toolbox import Toolbox

PROGRAMS = (
    "images = tools.text2image(['a dog', 'a cat'])\n"
    "effects = system.intervene(images, 'scale', 2, 0.5)\ntools.display(effects)",
    "print(effects.summary, effects.images[1].activation)",
)
REPLIES = [f"[CODE]:\n```python\n{program}\n```" for program in PROGRAMS] + ["[LABEL]: dogs"]


async def test_an_intervention_is_replayed_from_its_recorded_answer(tmp_path: Path) -> None:
    studio, settings = FakeStudio(), InterpreterSettings()
    subject = IntervenableSubject(studio, lambda shown: 2.0 if "dog" in shown else 0.5)
    journal = Journal(Store.open(tmp_path / "run"), subject.id)
    async with KernelServer(LIMITS) as server:
        await server.start()
        toolbox = Toolbox(
            SubjectSystem(subject, darken), studio, FakeObservers(), seed=0, keeper=journal.blobs
        )
        model = RecordedChat(ScriptedChat(REPLIES), journal, "interpreter")
        sandbox = await server.open(seed=0)
        leave_note(journal, "try a cat", "ada")
        parts = AgentParts(model, sandbox, toolbox, DescribeUnit(), journal, "THE API", notes=journal.notes)
        outcome = await Agent(parts, settings).run()
        await sandbox.close()
        study = RecordedStudy(journal, DescribeUnit(), server, "THE API", settings, 0)
        played = await replay(study, Store.open(tmp_path / "again").root)
    assert (played.divergence, played.rounds, played.reworded) == ("", 3, False)
    first, second, _ = outcome.rounds
    assert [note.text for note in first.notes] == ["try a cat"]
    assert first.toolbox.interventions == 2
    assert [type(part) for part in first.observation].count(str) == 2
    assert "scale 2 where it reaches 50% of its largest value" in str(first.observation[0])
    assert "reproduced to 1e-07 0.5" in str(second.observation[0])
