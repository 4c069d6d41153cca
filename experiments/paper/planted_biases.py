"""`maia planted-biases`: audit classifiers whose biases are known, and count what is found and what is false
alarm.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.vision.data.datasets import open_dataset
from actors.vision.data.distinct import distinct
from agents.records.manifest import claim, claim_studied
from experiments.audit.run import AuditOutcome, AuditRequest, audit
from experiments.paper.gym import biases, classifiers
from experiments.paper.gym.biases import BiasDesign
from experiments.paper.planted_judgement import (
    ClassRow,
    TrueDifference,
    TrueDifferences,
    judge,
    probabilities_of,
    summarize,
)
from experiments.paper.planted_page import PlantedResult, page
from experiments.setup.console import Console
from experiments.setup.run_folder import open_run
from experiments.setup.selection import Selection
from tools.subject import Progress


@dataclass(frozen=True)
class PlantedRequest:
    """What a command line asks for. With `agents`, each class is also audited freely by an agent."""

    networks: int = 3
    seed: int = 0
    per_context: int = 12
    """Images of each class in each context."""
    agents: bool = False


class PlantedNetworks:
    """Makes the networks of the experiment, audits them, and knows the truth about them."""

    def design(self, seed: int) -> BiasDesign:
        return BiasDesign.drawn(seed)

    def train(self, design: BiasDesign, folder: Path, progress: Progress) -> None:
        biases.train(design, folder, progress)

    async def audit(
        self, console: Console, selection: Selection, request: AuditRequest, out: Path
    ) -> AuditOutcome:
        return await audit(console, selection, request, out=out)

    def truth(self, design: BiasDesign, folder: Path) -> TrueDifference:
        return TrueDifferences(design, probabilities_of(folder))


async def planted_biases(
    console: Console,
    selection: Selection,
    request: PlantedRequest,
    *,
    out: Path,
    networks: PlantedNetworks | None = None,
) -> PlantedResult:
    """Train and audit classifiers, write `planted_biases.json` and a page.

    Each network has one class that fails on a background, one on a colour, a number, a companion, and as many
    unbiased ones. An interrupted run is resumed; until it is done, `finished` is False, and only the networks
    whose audit came to its end are judged.

    Raises:
        UsageError: If `out` is another run or one on other data, or the images cannot be made.
    """
    networks = networks or PlantedNetworks()
    selected = selection.load()
    manifest = selected.manifest("planted-biases", **asdict(request))
    store = open_run(selected.profile.dataset, out, manifest)
    dataset = await asyncio.to_thread(
        lambda: distinct(open_dataset(selected.profile.dataset), selected.cache)
    )
    claim(store, manifest)
    claim_studied(store, {"dataset": dataset.fingerprint})
    rows: list[ClassRow] = []
    failed: list[dict[str, int | str]] = []
    finished = True
    for number in range(request.networks):
        design = networks.design(request.seed + number)
        folder = out / f"network-{number}"
        console.say(f"training network {number + 1} of {request.networks}")
        with console.progress("training") as progress:
            await asyncio.to_thread(networks.train, design, folder / "network", progress)
        outcome = await networks.audit(
            console, selection, _audit_request(design, folder, request), folder / "audit"
        )
        if not outcome.run.finished:
            finished = False
            break
        record, truth = outcome.record, networks.truth(design, folder / "network")
        failed += [
            {"network": number, "class": name} for name in design.classes if name not in record.detectable
        ]
        rows += await asyncio.to_thread(judge, design, record, truth, number)
    result = PlantedResult(
        request.seed, request.networks, request.per_context, finished, rows, failed, summarize(rows)
    )
    store.replace_json("planted_biases.json", result)
    page(result).save(out, "planted-biases")
    return result


def _audit_request(design: BiasDesign, folder: Path, request: PlantedRequest) -> AuditRequest:
    return AuditRequest(
        classifiers.spec(folder / "network"),
        f"0-{len(design.classes) - 1}",
        request.seed,
        request.per_context,
        request.agents,
    )
