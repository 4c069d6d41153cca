"""Run directories made up for tests: the same files that a run writes, by the same code where it exists."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np

from actors.images import Image, Provenance
from actors.masks import lay
from agents.records.journal import Blobs, slug
from agents.records.store import Store
from tools.sandbox.child.wire import IMAGE

LAYER = "blocks.4.1"


def picture(seed: int, side: int = 64) -> Image:
    """Return a small image that differs with `seed`: two colours that meet at a slanted edge."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(40, 220, (2, 3))
    down, right = np.mgrid[:side, :side]
    mask = (right * rng.uniform(-1, 1) + down > side * rng.uniform(0.3, 0.7))[..., None]
    return Image.from_pixels(np.where(mask, first, second).astype(np.uint8))


def masked(image: Image) -> Image:
    mask = np.zeros(image.size, np.uint8)
    mask[16:40, 20:44] = 1
    return lay(mask, image)


def measured_call(activations: dict[Image, float]) -> dict[str, Any]:
    """Return the recorded answer to `measure`, which is the host's and not the program's word."""
    handles = [{IMAGE: [image.id, *image.size]} for image in activations]
    return {"asked": "", "value": {"activations": list(activations.values()), "images": handles}}


class FakeRun:
    """Writes a run directory unit by unit."""

    def __init__(self, root: Path, *, model: str = "tf_efficientnet_lite0") -> None:
        self.root = root
        self.model = model
        self.blobs = Blobs(Store.open(root))
        self.put(
            "manifest.json",
            {"model": model, "profile": "embedded", "task": "describe", "seed": 3},
        )

    def put(self, key: str, record: Any) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.tmp")  # whole or not at all, as a run writes it
        draft.write_text(json.dumps(record), encoding="utf-8")
        draft.replace(path)

    def unit_id(self, index: int, layer: str = LAYER) -> str:
        return f"{self.model}/{layer}:{index}"

    def store(self, *images: Image) -> None:
        self.blobs.put(images)

    def paint_on(self) -> None:
        """Keep masked images whole, in place of their masks, as those of any other painter are kept."""
        for path in (self.root / "blobs").rglob("*.png"):
            image = self.blobs.get(path.stem)
            path.unlink()
            Blobs(Store(self.root)).put([Image(image.pixels, image.id)])

    def trial(self, prompt: str, seed: int, activation: float, notes: tuple[str, ...] = ()) -> dict[str, Any]:
        image = picture(seed)
        self.store(image)
        return {"prompt": prompt, "image": image.id, "activation": activation, "notes": list(notes)}

    def evidence(self, label: str, seed: int, n: int = 5, separation: float = 2.0) -> dict[str, Any]:
        rng = random.Random(seed)
        positives = [
            self.trial(f"a photo of {label}", seed + i, 3 + separation + rng.gauss(0, 1)) for i in range(n)
        ]
        controls = [
            self.trial("a photo of a chair", seed + 50 + i, 3 + rng.gauss(0, 1)) for i in range(n + 1)
        ]
        return {
            "kind": "confirmation",
            "auroc": 0.91,
            "auroc_interval": [0.78, 0.97],
            "e_value": 43.5,
            "margin": separation,
            "mean_positive": float(np.mean([t["activation"] for t in positives])),
            "mean_control": float(np.mean([t["activation"] for t in controls])),
            "n_positive": n,
            "n_control": n + 1,
            "compliant": {"auroc": 0.93},
            "compliance": 0.8,
            "positives": positives,
            "controls": controls,
        }

    def round(
        self,
        number: int,
        *,
        words: str = "These images share a wheel.",
        hypotheses: tuple[str, ...] = ("wheels of cars", "round things"),
        program: str
        | None = "images = tools.text2image(['a wheel'])\nprint(system.call_neuron(images)[0])\n",
        shown: str = "a wheel",
        error: str = "",
        model: str = "gpt-test",
    ) -> dict[str, Any]:
        before, after = picture(1000 + number), picture(2000 + number)
        cover = masked(before)
        self.store(before, after, cover)
        listed = "\n".join(f"Hypothesis_{i}: {h}" for i, h in enumerate(hypotheses, 1))
        reply = f"{words}\n\n[HYPOTHESIS LIST]:\n{listed}\n\n"
        if program:
            reply += f"[CODE]:\n```python\n{program}```"
        provenance = {
            before.id: Provenance("generated", "scenes", prompt=shown, seed=number).to_json(),
            cover.id: Provenance("masked", parent=before.id).to_json(),
            after.id: Provenance(
                "edited", prompt=shown, edits=("remove the wheel",), parent=before.id
            ).to_json(),
        }
        return {
            "round": number,
            "reply": {
                "text": reply,
                "finish": "stop",
                "model": model,
                "usage": {
                    "prompt_tokens": 1200,
                    "cached_tokens": 700,
                    "completion_tokens": 90,
                    "requests": 1,
                    "dollars": 0.012,
                    "estimated": False,
                },
            },
            "hypotheses": list(hypotheses),
            "program": program,
            "outcome": None
            if program is None
            else {
                "status": "error" if error else "ok",
                "error": error,
                "output": "[4.2]",
                "output_truncated": False,
                "calls": 2,
                "tier": "landlock+seccomp",
            },
            "observation": [
                f"{shown}: activation 4.20",
                {"image": cover.id},
                f"{shown} without: activation 1.10",
                {"image": after.id},
                "[4.2]",
            ],
            "verdict": None,
            "answered": False,
            "toolbox": {
                "draws": {shown: 1},
                "images_made": 2 * number,
                "activation_threshold": 5.5,
                "log": [
                    [
                        {"title": shown, "activation": 4.2, "image": cover.id, "text": ""},
                        {"title": f"{shown} without", "activation": 1.1, "image": after.id, "text": ""},
                    ]
                ],
                "provenance": provenance,
            },
            "sandbox": [
                {
                    "program": program or "",
                    "status": "ok",
                    "calls": [measured_call({cover: 4.2, after: 1.1})],
                }
            ],
        }

    def answer(
        self, number: int, label: str, evidence: dict[str, Any] | None, accepted: bool = True
    ) -> dict[str, Any]:
        record = self.round(
            number, words=f"[DESCRIPTION]: {label}.\n[LABEL]: {label}", hypotheses=(), program=None
        )
        objection = "" if accepted else "Your answer was tested and was not confirmed."
        record["verdict"] = evidence and {"accepted": accepted, "objection": objection, "evidence": evidence}
        record["answered"] = accepted
        record["observation"] = [] if accepted else [objection]
        return record

    def done(
        self, index: int, label: str = "wheels", *, layer: str = LAYER, **changes: Any
    ) -> dict[str, Any]:
        unit = self.unit_id(index, layer)
        exemplars = []
        for rank in range(changes.pop("n_exemplars", 3)):
            image = picture(100 * index + rank)
            cover = masked(image)
            self.store(image, cover)
            exemplars.append({"image": cover.id, "source": image.id, "activation": 9.5 - rank})
        record = {
            "unit": unit,
            "task": "describe",
            "status": "answered",
            "label": label,
            "labels": [label],
            "description": f"This unit answers to {label}.",
            "fields": {},
            "confirmed": True,
            "evidence": changes.pop("evidence", None) or self.evidence(label, 7 * index),
            "rounds": 3,
            "images_made": 6,
            "exemplars": exemplars,
            "background": {"mean": 0.4, "std": 0.9, "maximum": 9.5, "n_images": 500, "mask_threshold": 2.1},
            "seed": 3,
            "facts": {"maia": "0.1.0", "profile": "embedded", "models": {"network": "weights 1a2b"}},
            "usage": {
                "interpreter": {
                    "prompt_tokens": 4000,
                    "cached_tokens": 2100,
                    "completion_tokens": 400,
                    "requests": 3,
                    "dollars": 0.04,
                    "estimated": False,
                },
                "observers": {
                    "prompt_tokens": 900,
                    "cached_tokens": 0,
                    "completion_tokens": 80,
                    "requests": 4,
                    "dollars": 0.01,
                    "estimated": True,
                },
            },
            "in_doubt": [],
        }
        record.update(changes)
        if record["evidence"].get("kind") == "confirmation":
            word = "confirmed" if record["confirmed"] else "not confirmed"
            record["evidence"] |= {"finding": {"verdict": word, "reason": "Because of its figures."}}
        return record

    def write_unit(
        self,
        index: int,
        label: str = "wheels",
        *,
        layer: str = LAYER,
        rounds: list[dict[str, Any]] | None = None,
        done: dict[str, Any] | None = None,
        finished: bool = True,
    ) -> str:
        """Write a whole unit and return its folder's name."""
        name = slug(self.unit_id(index, layer))
        folder = f"units/{name}"
        rejected = self.evidence(label, 7 * index + 3, separation=0.1)
        rounds = (
            rounds
            if rounds is not None
            else [
                self.round(1),
                self.answer(2, label, rejected, accepted=False),
                self.answer(3, label, None),
            ]
        )
        for number, record in enumerate(rounds, 1):
            self.put(f"{folder}/rounds/{number:04d}.json", record)
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        if finished:
            self.put(
                f"{folder}/done.json", done if done is not None else self.done(index, label, layer=layer)
            )
            self.put(f"{folder}/duration.json", {"seconds": 12.5 + index})
        return name


def many_units(root: Path, count: int, seed: int = 0) -> FakeRun:
    """Write `count` finished units that share one image, for the index and its speed."""
    run, rng = FakeRun(root), random.Random(seed)
    things = [
        "wheels",
        "dogs' faces",
        "grass",
        "red things",
        "text",
        "stripes",
        "sky",
        "hands",
        "fur",
        "arches",
    ]
    image = picture(1)
    run.store(image)
    for index in range(count):
        layer, label = f"blocks.{index % 7}.0", f"{rng.choice(things)} beside {rng.choice(things)}"
        auroc = min(1.0, max(0.0, rng.gauss(0.8, 0.12)))
        name = slug(run.unit_id(index, layer))
        run.put(
            f"units/{name}/done.json",
            {
                "unit": run.unit_id(index, layer),
                "task": "describe",
                "status": rng.choice(["answered"] * 9 + ["no_answer"]),
                "label": label,
                "labels": [label],
                "description": f"Answers to {label}.",
                "confirmed": auroc > 0.7,
                "evidence": {
                    "finding": {"verdict": "confirmed" if auroc > 0.7 else "not confirmed", "reason": ""},
                    "kind": "confirmation",
                    "auroc": auroc,
                    "auroc_interval": [auroc - 0.1, min(1, auroc + 0.1)],
                    "e_value": math.exp(rng.uniform(-2, 12)),
                },
                "rounds": rng.randint(2, 15),
                "images_made": rng.randint(10, 300),
                "exemplars": [{"image": image.id, "source": image.id, "activation": rng.uniform(2, 9)}],
                "usage": {
                    "interpreter": {
                        "prompt_tokens": rng.randint(1000, 90000),
                        "completion_tokens": 900,
                        "requests": 9,
                        "dollars": rng.uniform(0, 0.4),
                    }
                },
            },
        )
        run.put(f"units/{name}/duration.json", {"seconds": rng.uniform(20, 400)})
    return run
