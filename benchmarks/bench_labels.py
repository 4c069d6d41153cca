"""Labels by embeddings: the same scores as the papers' formulas, their time, growth and memory.

    python -m benchmarks.bench_labels formulas [--units 64] [--images 500] [--concepts 40]
    python -m benchmarks.bench_labels growth
    python -m benchmarks.bench_labels pass [--images 256]

`formulas` compares with soft WPMI (Oikarinen and Weng 2023) and the AUROC of formulas (Bykov et al. 2023),
written here from the papers as loops in double precision. `growth` measures a layer's labels alone, in
processes of their own. `pass` is a plain forward pass over drawn scenes, to compare `maia label` with.
"""

from __future__ import annotations

import argparse
import itertools
import math
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from actors.vision.readout.units import Readout
from experiments.labels.formulas import Finder, Presence
from experiments.labels.layer import EmbeddedImages, LabelSettings, LayerLabeler
from experiments.labels.scores import auroc_of_sums, centered_ranks, soft_wpmi
from experiments.labels.vocabulary import EmbeddedVocabulary


def unit_rows(rng: np.random.Generator, n: int, dimensions: int) -> np.ndarray:
    rows = rng.normal(size=(n, dimensions))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def wpmi_by_loops(activations: np.ndarray, images: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return soft WPMI, float64 (U, K), as CLIP-Dissect's paper and its defaults say."""
    cosines = images.astype(float) @ words.astype(float).T
    probability = np.array([[math.exp(10 * each) for each in row] for row in cosines])
    probability /= probability.sum(1, keepdims=True)
    n_units, n_words = activations.shape[1], len(words)
    sums = np.zeros((n_units, n_words))
    for unit in range(n_units):
        strongest = np.argsort(-activations[:, unit], kind="stable")[:100]
        for word in range(n_words):
            for place, image in enumerate(strongest):
                weight = 0.998 - 0.028 * place / 100
                sums[unit, word] += math.log(1 + weight * (probability[image, word] - 1) + 1e-7)
    prior = [math.log(sum(math.exp(each) for each in column) / n_units) for column in sums.T]
    return sums - np.array(prior)


def auroc_by_loops(values: np.ndarray, shown: np.ndarray) -> float:
    """Return P(shown > not shown), ties half."""
    wins = 0.0
    positives, controls = values[shown].tolist(), values[~shown].tolist()
    for one in positives:
        for other in controls:
            wins += 1.0 if one > other else 0.5 if one == other else 0.0
    return wins / (len(positives) * len(controls))


def formulas(n_units: int, n: int, n_words: int) -> None:
    """Print the largest difference of each score, and the time of both ways."""
    rng = np.random.default_rng(0)
    activations = np.maximum(rng.normal(size=(n, n_units)), 0).astype(np.float32)
    images, words = unit_rows(rng, n, 32), unit_rows(rng, n_words, 32)
    started = time.perf_counter()
    theirs = wpmi_by_loops(activations, images, words)
    middle = time.perf_counter()
    values = torch.from_numpy(np.ascontiguousarray(activations.T))
    # Strongest first, ties by the smaller index, as in the loop.
    top = values.sort(dim=1, descending=True, stable=True).indices[:, :100]
    found = soft_wpmi(top, torch.from_numpy(images), torch.from_numpy(words), best=n_words)
    ended = time.perf_counter()
    ours = np.take_along_axis(found.scores, found.concepts.argsort(1), 1)
    report("soft WPMI", np.abs(ours - theirs).max(), middle - started, ended - middle)
    same = np.mean(found.concepts[:, 0] == theirs.argmax(1))
    print(f"  the same best concept for {same:.1%} of {n_units} units")
    shown = rng.random((n_words, n)) < 0.15
    started = time.perf_counter()
    theirs = np.array([[auroc_by_loops(unit, each) for each in shown] for unit in activations.T])
    middle = time.perf_counter()
    ranks = centered_ranks(values)
    numbers = torch.from_numpy(shown).float()
    ours = auroc_of_sums(ranks @ numbers.T, numbers.sum(1), n).numpy()
    ended = time.perf_counter()
    report("AUROC", np.abs(ours - theirs).max(), middle - started, ended - middle)
    pairs(values[:8], shown[:12])


def pairs(values: torch.Tensor, shown: np.ndarray) -> None:
    """Compare the beam's best formula of two concepts with the best of all."""
    n = values.shape[1]
    truth = np.zeros_like(values)
    rng = np.random.default_rng(1)
    for unit in range(len(values)):
        a, b = shown[unit], shown[unit + 1]
        meant = (a | b, a & ~b)[unit % 2]
        truth[unit] = np.maximum(meant + 0.3 * rng.normal(size=n), 0)
    started = time.perf_counter()
    best = []
    for unit in truth:
        scores = {}
        for first, second in itertools.permutations(range(len(shown)), 2):
            a, b = shown[first], shown[second]
            for name, label in (("and", a & b), ("or", a | b), ("not", a & ~b)):
                if 5 <= label.sum() <= n / 2:
                    scores[first, second, name] = auroc_by_loops(unit, label)
        best.append(max(scores.values()))
    middle = time.perf_counter()
    labels = torch.from_numpy(shown)
    candidates, _ = Finder(Presence.of(labels), 2).find(torch.from_numpy(truth))
    ended = time.perf_counter()
    aurocs = [
        max(
            auroc_by_loops(truth[unit], candidates.shown(labels, place)[unit].numpy())
            for place in range(candidates.concepts.shape[1])
        )
        for unit in range(len(truth))
    ]
    short = max(np.array(best) - aurocs)
    print(
        f"formulas of two: the AUROC of the beam's best is less than that of the best of all by {short:.4f}"
    )
    print(f"  {middle - started:.2f} s by loops, {ended - middle:.4f} s")


def report(name: str, difference: float, theirs: float, ours: float) -> None:
    print(f"{name}: largest difference {difference:.1e}")
    print(f"  {theirs:.2f} s by loops, {ours:.4f} s ({theirs / ours:,.0f} times faster)")


def layer(n_units: int, n: int, n_words: int) -> None:
    """Label a made layer on one thread; print the processor's seconds and the peak of memory."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n, n_units), np.float32)
    images, words = unit_rows(rng, n, 128), unit_rows(rng, n_words, 128)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vocabulary = EmbeddedVocabulary(tuple(map(str, range(n_words))), words, (), 0)
    started = time.process_time()
    common = EmbeddedImages(images, vocabulary, None, LabelSettings())
    labels = LayerLabeler(common, Readout("layer"), values, np.arange(n)).label()
    seconds = time.process_time() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    n_labeled = sum(each.label is not None for each in labels)
    print(f"| {n_units:,} | {n:,} | {n_words:,} | {seconds:.1f} | {peak:,.0f} | {n_labeled} |", flush=True)


def growth(sizes: Sequence[tuple[int, int, int]]) -> None:
    print("| units | images | concepts | processor s | MB beyond the matrix | labeled |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.bench_labels", "layer", *map(str, size)]
        subprocess.run(command, check=True)


def plain_pass(n: int) -> None:
    """Print the seconds for each image of reading drawn scenes and passing them, without any hook."""
    from actors.embedded.drawing.dataset import ScenesDataset
    from benchmarks import studied

    backend = studied.backend("tf_efficientnet_lite0", "cpu", 16)
    dataset = ScenesDataset(n, 0)
    batches = [range(start, start + 16) for start in range(0, n, 16)]

    def load(indices: range) -> list[np.ndarray]:
        return [dataset.load(index).pixels for index in indices]

    with torch.inference_mode(), ThreadPoolExecutor(2) as loaders:
        backend.network.module(backend.batch(load(batches[0])))
        began = time.perf_counter()
        # Each batch is read while others pass, as a sweep does.
        waiting = [loaders.submit(load, batch) for batch in batches[:2]]
        for place in range(len(batches)):
            waiting += [loaders.submit(load, batch) for batch in batches[place + 2 : place + 3]]
            backend.network.module(backend.batch(waiting[place].result()))
    print(f"{(time.perf_counter() - began) / n * 1e3:.1f} ms an image, {n} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["formulas", "growth", "layer", "pass"])
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--concepts", type=int, default=40)
    given = parser.parse_args()
    if given.what == "formulas":
        formulas(given.units, given.images, given.concepts)
    elif given.what == "layer":
        layer(*given.sizes)
    elif given.what == "pass":
        plain_pass(given.images // 16 * 16)
    else:
        base = (500, 1000, 200)
        growth([base, (2000, *base[1:]), (500, 4000, 200), (500, 1000, 800), (2000, 4000, 800)])


if __name__ == "__main__":
    main()
