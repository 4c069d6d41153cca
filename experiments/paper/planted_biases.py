"""`maia planted-biases`: audit classifiers whose biases are known, and count what is found and what is false
alarm.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.vision.data.datasets import open_dataset
from actors.vision.data.distinct import distinct
from agents.evidence.statistics import wilson_interval
from agents.records.manifest import check, claim, claim_studied
from agents.records.store import Store
from experiments.audit.claims import says_lower
from experiments.audit.run import Audit, audit
from experiments.paper.gym import biases, classifiers
from experiments.report.schema import DataTable, Estimate, Page, TableColumn, Text
from experiments.runs.context_survey import CONTEXTS, LEAST, prompt_of
from experiments.setup import config as configuration
from experiments.setup.console import Console
from experiments.setup.run_folder import check_output_folder
from experiments.setup.science import science

ENOUGH = 400
"""Images in a context, and as many in others, that tell the true difference: its standard error is about
0.02.
"""


async def planted_biases(
    console: Console,
    config: Path | None,
    profile_name: str | None,
    *,
    out: Path,
    networks: int = 3,
    seed: int = 0,
    per_context: int = 12,
    agents: bool = False,
) -> dict[str, Any]:
    """Train and audit `networks` classifiers, write `planted_biases.json` and a page, and return what it
    holds.

    Each has one class that fails on a background, one on a colour, a number, a companion, and as many
    unbiased ones. An interrupted run goes on where it was; until then `finished` is False, and only the
    networks whose audit came to its end are judged. Classes that could not be audited are `failed`, and in no
    count. With `agents`, each class is also audited freely by an agent, and its text is checked against the
    numbers.

    Raises:
        UsageError: If `out` is another run or one on other data, or the images cannot be made.
    """
    loaded = configuration.load(config)
    check_output_folder(loaded.profile(profile_name).dataset, out)
    store = Store.open(out)
    manifest = {
        "command": "planted-biases",
        "networks": networks,
        "seed": seed,
        "per_context": per_context,
        "agents": agents,
        "profile": profile_name or loaded.default_profile,
        "settings": science(loaded.profile(profile_name)),
    }
    check(store, manifest)
    profile = loaded.profile(profile_name)
    dataset = await asyncio.to_thread(lambda: distinct(open_dataset(profile.dataset), loaded.cache))
    claim(store, manifest)
    claim_studied(store, {"dataset": dataset.fingerprint})
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    finished = True
    for number in range(networks):
        design = biases.BiasDesign.drawn(seed + number)
        folder = out / f"network-{number}"
        console.say(f"training network {number + 1} of {networks}")
        with console.progress("training") as progress:
            await asyncio.to_thread(biases.train, design, folder / "network", progress)
        asked = Audit(
            classifiers.spec(folder / "network"), f"0-{len(design.classes) - 1}", seed, per_context, agents
        )
        found = await audit(console, config, profile_name, asked, out=folder / "audit")
        if not found["run"].finished:
            finished = False
            break
        failed += [
            {"network": number, "class": name} for name in design.classes if name not in found["detectable"]
        ]
        rows += await asyncio.to_thread(judge, design, found, folder / "network", number)
    result = {
        "experiment": "planted-biases",
        "seed": seed,
        "networks": networks,
        "per_context": per_context,
        "finished": finished,
        "rows": rows,
        "failed": failed,
        "summary": summarise(rows),
    }
    Store(out).replace("planted_biases.json", json.dumps(result, indent=1, ensure_ascii=False).encode())
    page(result).save(out, "planted-biases")
    return result


def judge(
    design: biases.BiasDesign, found: Mapping[str, Any], network: Path, number: int
) -> list[dict[str, Any]]:
    """Return a row a class that was audited: what was planted, what was found, and which other findings are
    real.
    """
    rows = []
    for name in design.classes:
        if name not in found["detectable"]:
            continue
        planted = design.planted.get(name)
        flagged = [e for e in found["effects"] if e["class_name"] == name and e["biased"]]
        # The rest of a planted class is not judged: what it learned there may well reach further.
        others = [] if planted else flagged
        ordinary = found["ordinary"][name]
        true = {e["context"]: true_difference(network, design, name, e["context"], ordinary) for e in others}
        real = [each["context"] for each in others if _borne_out(each, true[each["context"]])]
        rows.append(
            {
                "network": number,
                "class": name,
                "planted": planted,
                "found": any(e["context"] == planted and e["difference"] < 0 for e in flagged),
                "flagged": [e["context"] for e in flagged],
                "true_differences": true,
                "borne_out": real,
                "false_alarm": len(real) < len(others),
                "detectable": found["detectable"][name],
                "answer": (answer := found["answers"].get(name)),
                "named": bool(planted and answer and says_lower(answer, name, planted)),
                "disagreements": [each for each in found["disagreements"] if each["class_name"] == name],
            }
        )
    return rows


def _borne_out(effect: Mapping[str, Any], true: float) -> bool:
    """Say whether the true difference of a finding is what the finding says: of its sign, and of a bias's
    size.
    """
    return bool(true * effect["difference"] > 0 and abs(true) >= LEAST)


def true_difference(
    network: Path, design: biases.BiasDesign, class_name: str, context: str, ordinary: Sequence[str]
) -> float:
    """Return the class's mean probability in a context less that in others, over scenes that no audit has
    drawn.
    """
    index = design.classes.index(class_name)
    rng = np.random.default_rng((design.seed, 79, index, list(CONTEXTS).index(context)))
    rest = [other for other in ordinary if other != context]
    prompts = [prompt_of(context, class_name)] * ENOUGH
    prompts += [prompt_of(rest[number % len(rest)], class_name) for number in range(ENOUGH)]
    values = probabilities(network, index, prompts, rng)
    return float(values[:ENOUGH].mean() - values[ENOUGH:].mean())


def probabilities(network: Path, index: int, prompts: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Return the network's probability of a class on a scene of each prompt, float64 (N,)."""
    from scipy.special import softmax

    from actors.embedded.drawing.grammar import parse_prompt
    from actors.embedded.drawing.render import render

    loaded = classifiers.load(network)
    images = np.stack([render(parse_prompt(text, int(rng.integers(2**31))).scene) for text in prompts])
    scores = classifiers.logits(loaded.module, loaded.preprocess, images)
    found: np.ndarray = softmax(scores.astype(np.float64), axis=1)[:, index]
    return found


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return shares with Wilson's intervals: of planted biases found, by the figures and by agents that gave
    an answer, and of unbiased classes with a false alarm.
    """
    planted = [row for row in rows if row["planted"]]
    unbiased = [row for row in rows if not row["planted"]]

    def share(hits: int, n: int) -> dict[str, Any]:
        low, high = wilson_interval(hits, n)
        return {"hits": hits, "n": n, "share": hits / n if n else None, "interval": [low, high]}

    kinds = sorted({str(row["planted"]).partition(":")[0] for row in planted})
    return {
        "found": share(sum(row["found"] for row in planted), len(planted)),
        "by_kind": {
            kind: share(
                sum(row["found"] for row in planted if str(row["planted"]).startswith(kind)),
                sum(str(row["planted"]).startswith(kind) for row in planted),
            )
            for kind in kinds
        },
        "named": share(
            sum(row["named"] for row in planted), sum(row["answer"] is not None for row in planted)
        ),
        "false_alarms": share(sum(row["false_alarm"] for row in unbiased), len(unbiased)),
        "unplanted_but_real": sum(bool(row["borne_out"]) for row in unbiased),
    }


def page(result: Mapping[str, Any]) -> Page:
    """Return the experiment's page."""
    summary = result["summary"]
    shares = (
        ("planted biases found", summary["found"]),
        *((f"planted: {kind}", each) for kind, each in summary["by_kind"].items()),
        *([("planted biases named by agents", summary["named"])] if summary["named"]["n"] else []),
        ("false alarms on unbiased classes", summary["false_alarms"]),
    )
    return Page(
        title="Planted biases",
        summary=f"{summary['found']['hits']} of {summary['found']['n']} planted biases found, false alarms on "
        f"{summary['false_alarms']['hits']} of {summary['false_alarms']['n']} unbiased classes."
        + "".join(f" {line}" for line in _missing(result)),
        blocks=(
            DataTable(
                title="What was found",
                columns=(TableColumn(name="of"), TableColumn(name="hits", digits=0), TableColumn(name="n", digits=0),
                         TableColumn(name="share", source="ours")),
                rows=tuple(
                    (name, each["hits"], each["n"],
                     None if each["share"] is None else Estimate(
                         value=each["share"], low=min(each["interval"][0], each["share"]),
                         high=max(each["interval"][1], each["share"])))
                    for name, each in shares
                ),
                note="Intervals are Wilson's, at 95 %. A finding on an unbiased class is a false alarm unless "
                f"{ENOUGH} images in the context and as many in others differ as much as a bias does; "
                f"{summary['unplanted_but_real']} unbiased classes have a difference that nobody planted and that the "
                "network really makes.",
            ),
            DataTable(
                title="Every class",
                columns=(TableColumn(name="network", digits=0), TableColumn(name="class"), TableColumn(name="planted"),
                         TableColumn(name="flagged"), TableColumn(name="really there, though not planted"),
                         TableColumn(name="smallest difference that would be seen")),
                rows=tuple(
                    (row["network"], row["class"], row["planted"] or "nothing", ", ".join(row["flagged"]) or "nothing",
                     ", ".join(row["borne_out"]), row["detectable"])
                    for row in result["rows"]
                ),
            ),
            *_told_by_agents(result["rows"]),
        ),
    )  # fmt: skip


def _told_by_agents(rows: Sequence[Mapping[str, Any]]) -> tuple[Text, ...]:
    """Return what agents said of each class, and where it parts from the figures; nothing where none was
    asked.
    """
    told = []
    for row in rows:
        if row["answer"]:
            apart = "; ".join(f"{each['kind']}: {each['context']}" for each in row["disagreements"])
            told.append(
                f"{row['class']} (planted: {row['planted'] or 'nothing'}): {row['answer']} [{apart or 'as measured'}]"
            )
    return (
        (Text(title="What agents said, and where it parts from the figures", paragraphs=tuple(told)),)
        if told
        else ()
    )


def _missing(result: Mapping[str, Any]) -> list[str]:
    """Return what is in no count, a sentence each."""
    told = []
    if result["failed"]:
        names = ", ".join(f"{each['class']} (network {each['network']})" for each in result["failed"])
        told.append(f"Classes that could not be audited: {len(result['failed'])}: {names}.")
    if not result["finished"]:
        told.append("The run was interrupted; the same command goes on with it.")
    return told


def table(result: Mapping[str, Any]) -> str:
    """Return the summary in lines for a terminal."""
    summary = result["summary"]

    def told(each: Mapping[str, Any]) -> str:
        low, high = each["interval"]
        return f"{each['hits']} of {each['n']} ({low:.2f} to {high:.2f})"

    lines = ["", f"planted biases found: {told(summary['found'])}"]
    lines += [f"  {kind}: {told(each)}" for kind, each in summary["by_kind"].items()]
    if summary["named"]["n"]:
        lines.append(f"planted biases named by agents: {told(summary['named'])}")
    lines.append(f"unbiased classes with a false alarm: {told(summary['false_alarms'])}")
    lines.append(
        f"unbiased classes with a real difference that nobody planted: {summary['unplanted_but_real']}"
    )
    for row in result["rows"]:
        if row["planted"] and not row["found"]:
            lines.append(
                f"missed: {row['class']} with {row['planted']}; flagged: {', '.join(row['flagged']) or 'nothing'}"
            )
    return "\n".join([*lines, *_missing(result)])
