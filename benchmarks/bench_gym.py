"""How often the system is right about units that nobody chose, and what it says where its tools lack the
concept.

    python -m benchmarks.bench_gym --only pairs --units 40
    python -m benchmarks.bench_gym --only reach calibration

`pairs` draws units of each kind (A, A OR B, A|B) from the embedded vocabulary. `reach` takes a third of that
vocabulary from image maker, observer and scientist, and not from data set and units: units out of what is
left, and units within it. `calibration` counts, over the units of both, the wrong labels among those that
stand at a layer's false-discovery rate of 5 %. `agreement` studies the same units of EfficientNet-lite0 with
two seeds, as `maia sweep` does.

All but the last runs in one process, without Ray; an interrupted run goes on where it was. Figures are kept
in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from actors.embedded.drawing.withheld import Withheld
from agents.evidence.statistics import e_benjamini_hochberg, wilson_interval
from agents.evidence.verdict import HOLDING, verdict_of
from agents.records.record_types import Manifest
from agents.records.store import Store
from benchmarks.bench_truth import RESULTS, keep
from benchmarks.in_process import run_context
from experiments.paper.gym.drawn import drawn, out_of_reach
from experiments.paper.gym.neurons import GymUnit
from experiments.paper.gym.opening import without
from experiments.paper.synthetic_neurons import GymContext, NeuronRun, study_neurons
from experiments.setup import config
from experiments.setup.console import Console

OUT_OF_REACH = "out of reach"
FALSE_DISCOVERIES = 0.05
NOTHING = Withheld()
NETWORK, LAYER, UNITS_OF_LAYER = "tf_efficientnet_lite0", "blocks.6", 320
TARGETS: Mapping[str, float] = {"mono": 0.95, "or": 0.9, "given": 0.8}
SAID = {"mono": "one concept", "or": "A OR B", "given": "A given B (A\\|B)"}
Rows = Sequence[Mapping[str, Any]]


async def study(
    units: Sequence[GymUnit], options: argparse.Namespace, name: str, withheld: Withheld = NOTHING
) -> Rows:
    """Return the scored rows of the units, from the run of this name if it has them all."""
    out: Path = options.out / name
    finished = out / "synthetic.json"
    names = [unit.name for unit in units]
    if finished.exists() and (rows := json.loads(finished.read_text())["rows"]):
        if [row["truth"] for row in rows] != names:
            raise SystemExit(f"{out} holds other units; give this run another --out.")
        return list(rows)
    loaded = config.load(None)
    profile = without(loaded.profile("embedded"), withheld)
    profile = profile.model_copy(update={"dataset": f"scenes:{options.images}:0"})
    about: dict[str, Any] = {"dataset": profile.dataset, "withheld": withheld.model_dump()}
    manifest = Manifest(command="synthetic", model="synthetic", units=names, seed=options.seed, **about)
    async with run_context(profile) as (own, detector):
        gym = GymContext(own, detector, profile, loaded.cache)
        run = NeuronRun(Store.open(out), manifest, units, options.seed, baseline=False)
        result = await study_neurons(Console(), gym, run)
    return [asdict(row) for row in result.rows]


def pairs(options: argparse.Namespace) -> str:
    units = drawn(options.units, options.seed)
    rows = anyio.run(study, units, options, "pairs")
    return f"{_kinds(rows)}\n\n{_wrong(rows)}"


def reach(options: argparse.Namespace) -> str:
    withheld = Withheld(share=options.share, seed=options.seed)
    lacking, count = withheld.concepts(), max(1, options.units // 2)
    outside = out_of_reach(count, options.seed, lacking)
    within = drawn(count, options.seed + 1, lacking)
    far = anyio.run(study, outside, options, "out-of-reach", withheld)
    near = anyio.run(study, within, options, "within-reach", withheld)
    verdicts = Counter(row["verdict"] for row in far)
    held, unreached = sum(verdicts[each] for each in HOLDING), verdicts[OUT_OF_REACH]
    lines = [
        f"{len(lacking)} of the embedded world's concepts were taken from image maker, observer and "
        "scientist.",
        "",
        "| units out of what is left | | share (Wilson 95 %) | target |",
        "|---|---:|---|---|",
        f"| a label is said to hold | {held}/{len(far)} | {_share(held, len(far))} | at most 0.05 |",
        f"| called out of reach | {unreached}/{len(far)} | {_share(unreached, len(far))} | at least 0.80 |",
        "",
        f"Their verdicts: {'; '.join(f'{name} {n}' for name, n in verdicts.most_common())}.",
        "",
        "Units within what is left:",
        "",
        _kinds(near),
        "",
        f"Of these, {sum(row['verdict'] == OUT_OF_REACH for row in near)} are called out of reach. "
        f"{_wrong(near)}",
    ]
    return "\n".join(lines)


def calibration(options: argparse.Namespace) -> str:
    runs = {name: options.out / name / "synthetic.json" for name in ("pairs", "out-of-reach", "within-reach")}
    there = {name: json.loads(path.read_text())["rows"] for name, path in runs.items() if path.exists()}
    if not there:
        raise SystemExit(f"there is no run in {options.out}: run the parts pairs and reach first.")
    rows: list[Mapping[str, Any]] = [row for own in there.values() for row in own]
    held = e_benjamini_hochberg([row["e_value"] or 0.0 for row in rows], FALSE_DISCOVERIES)
    stand = [row for row, holds in zip(rows, held, strict=True) if holds and row["verdict"] in HOLDING]
    missing = [name for name in runs if name not in there]
    strange = sum(row["precision"] is None or row["precision"] < 1 for row in stand)
    wrong = sum(not row["right"] for row in stand)
    return "\n".join(
        [
            f"{len(stand)} of {len(rows)} labels are said to hold and stand at a false-discovery rate of "
            f"{FALSE_DISCOVERIES:.0%}.",
            f"They are of the units of {', '.join(there)}.{' Not run: ' if missing else ''}"
            f"{', '.join(missing)}{'.' if missing else ''}",
            "",
            "| of the labels that stand | | share (Wilson 95 %) | target |",
            "|---|---:|---|---|",
            f"| name something that is no part of the unit | {strange}/{len(stand)} | "
            f"{_share(strange, len(stand))} | at most 0.05 |",
            f"| that, or name only a part of it | {wrong}/{len(stand)} | {_share(wrong, len(stand))} | |",
        ]
    )


def agreement(options: argparse.Namespace) -> str:
    from experiments.paper.evaluation.run_labels import label_of, records_of
    from experiments.setup.selection import Selection
    from experiments.studies.sweep import Sweep, sweep

    names = sorted(
        random.Random(f"agreement/{options.seed}").sample(range(UNITS_OF_LAYER), options.network_units)
    )
    units = ",".join(map(str, names))
    found = []
    for seed in (options.seed, options.seed + 1):
        out = options.out / f"agreement-{seed}"
        asked = Sweep(NETWORK, (LAYER,), units, seed)
        anyio.run(partial(sweep, Console(), Selection(profile="embedded"), asked, out=out))
        found.append({item.unit: record for item, record in records_of(out)})
    both = sorted(found[0].keys() & found[1].keys())
    verdicts = Counter(tuple(verdict_of(each[unit].to_json()) for each in found) for unit in both)
    same = sum(count for (first, second), count in verdicts.items() if first == second)
    words = sum(label_of(found[0][unit]) == label_of(found[1][unit]) for unit in both)
    counts = "; ".join(f"{first} / {second}: {count}" for (first, second), count in verdicts.most_common())
    return "\n".join(
        [
            f"{len(both)} units of `{LAYER}` of {NETWORK}, drawn with the seed, each studied with two seeds "
            "of studies.",
            "",
            "| | | share (Wilson 95 %) | target |",
            "|---|---:|---|---|",
            f"| the same verdict | {same}/{len(both)} | {_share(same, len(both))} | at least 0.90 |",
            f"| the same label, word for word | {words}/{len(both)} | {_share(words, len(both))} | |",
            "",
            f"Verdicts with the first and the second seed: {counts}.",
        ]
    )


def _kinds(rows: Rows) -> str:
    lines = ["| units | right | share (Wilson 95 %) | target | said to hold |", "|---|---:|---|---|---:|"]
    for kind, target in TARGETS.items():
        own = [row for row in rows if row["kind"] == kind]
        right = sum(row["right"] for row in own)
        held = sum(row["verdict"] in HOLDING for row in own)
        lines.append(
            f"| {SAID[kind]} | {right}/{len(own)} | {_share(right, len(own))} | at least {target:.2f} | "
            f"{held} |"
        )
    return "\n".join(lines)


def _wrong(rows: Rows) -> str:
    wrong = [f"`{row['truth']}`: {' OR '.join(row['labels'])}" for row in rows if not row["right"]]
    return f"Not right: {'; '.join(wrong)}." if wrong else "All are right."


def _share(part: int, whole: int) -> str:
    low, high = wilson_interval(part, whole)
    return f"{part / max(1, whole):.2f} ({low:.2f} to {high:.2f})"


PARTS: Mapping[str, Callable[[argparse.Namespace], str]] = {
    "pairs": pairs,
    "reach": reach,
    "calibration": calibration,
    "agreement": agreement,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_gym",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--units", type=int, default=40, help="units of each kind; `reach` takes half as many twice"
    )
    parser.add_argument("--network-units", type=int, default=30, help="units of the network, for `agreement`")
    parser.add_argument("--images", type=int, default=1500, help="scenes at random in the data set")
    parser.add_argument(
        "--share", type=float, default=1 / 3, help="part of the vocabulary that is taken away"
    )
    parser.add_argument(
        "--seed", type=int, default=2026, help="seed of units, data set, studies and what is taken"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gym"), help="where the runs are kept")
    parser.add_argument("--dry", action="store_true", help="print the figures and keep nothing")
    options = parser.parse_args()
    for name in options.only:
        started = time.monotonic()
        text = PARTS[name](options)
        if options.dry:
            print(text)
            continue
        command = (
            f"python -m benchmarks.bench_gym --only {name} --units {options.units} --images "
            f"{options.images} --seed {options.seed}"
        )
        seconds = time.monotonic() - started
        took = f"\n\nTook {seconds:.0f} s of this process." if seconds >= 1 else ""
        keep(f"gym {name}", [command], f"{text}{took}")
        print(f"{name}: kept in {RESULTS.name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
