"""A whole study by a model whose server refuses much, thinks aloud, filters, and repeats the key."""

from __future__ import annotations

from typing import Any

from actors.chat.hosted.openai_compatible import OpenAIBackend
from actors.chat.settings import OpenAIChat
from agents.records.journal import Journal
from agents.records.recorded_chat import RecordedChat
from agents.study.agent import Agent, AgentParts
from agents.study.settings import InterpreterSettings
from agents.tasks.describe_unit import DescribeUnit
from tests.agents.study.test_agent import ANSWER, CODE, Bench
from tests.fake_endpoint import KEY, MODEL, FakeEndpoint, Fault, Reply, Seen
from tests.tools.fakes import FakeObservers, darken
from tools.system import SubjectSystem
from tools.toolbox import Toolbox

DRAFT = CODE.replace("look", "draft")


def awkward(seen: Seen) -> Any:
    if seen.messages[0]["role"] == "system":
        return Fault.error(400, "System role not supported")
    if "seed" in seen.body:
        return Fault(
            "status", 400, [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}]
        )
    if len(seen.images) > 2:
        raw = '{"error": {"message": "Exceeded maximum number of images (2) allowed."}}'
        return Fault(
            "status", 400, {"error": {"message": "Provider returned error", "metadata": {"raw": raw}}}
        )
    if seen.rounds == 2:
        return Fault.error(400, f"{'x' * 370} {KEY} flagged by our content policy", "content_filter")
    echo = f"deep thoughts of {KEY[2:14]}"
    if seen.rounds < 4:
        return Reply(f"<think>{DRAFT}\n{ANSWER}</think>\n{CODE}", message={"reasoning_content": echo})
    return Reply(ANSWER)


async def test_a_study_ends_with_its_answer_and_keeps_no_key(tmp_path: Any) -> None:
    """Every refusal is found out once, no draft is run, and no eight characters of the key are on disk."""
    bench = Bench(tmp_path)
    with FakeEndpoint(awkward) as server:
        settings = OpenAIChat(model=MODEL, base_url=server.base_url, api_key_env="FAKE_KEY", backoff_s=0.001)
        backend = OpenAIBackend(settings, environ={"FAKE_KEY": KEY})
        backend.sees_images = True  # type: ignore[attr-defined]
        journal = Journal(bench.store, bench.subject.id)
        toolbox = Toolbox(SubjectSystem(bench.subject, darken), bench.studio, FakeObservers(), seed=0)
        model = RecordedChat(backend, journal, "interpreter")  # type: ignore[arg-type]
        parts = AgentParts(model, bench.sandbox, toolbox, DescribeUnit(), journal, "THE API")
        study = await Agent(parts, InterpreterSettings(max_rounds=8)).run()
        facts = backend.describe()
        await backend.close()
    assert journal.usage()["interpreter"].requests == facts["attempts"], (
        "records with thoughts and notes are read"
    )
    assert study.status == "answered"
    assert bench.sandbox.ran == ["look"] * 3
    assert [record.reply.finish for record in study.rounds] == [
        "stop",
        "stop",
        "filtered",
        "stop",
        "stop",
    ]
    assert facts["learned"] == {"not_sent": ["seed"], "system_folded": True, "max_images": 2}
    refused = facts["attempts"] - facts["answers"]
    assert refused == 4, "the role, the seed, the images, and the filter, once each"
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"[redacted]" in data for data in kept)
    assert not any(KEY[at : at + 8].encode() in data for data in kept for at in range(len(KEY) - 7))
