"""Above a result without a label stands why there is none: the unit, the images, or the image maker."""

from __future__ import annotations

import pytest

from experiments.records.headline import NO_IMAGE_OF_CLASS, UNREACHED, headline


def answered(verdict, unit=None, kind="abstention", label="not interpretable"):
    evidence = {"kind": kind, "finding": {"verdict": verdict}, "unit": unit}
    return {"status": "answered", "label": label, "evidence": evidence}


ABSENT = {"low": 0.4, "high": 7.5, "lit": 3.9, "anchor": 7.5, "data": 3.0}
PRESENT = ABSENT | {"data": 9.0}
CHANNEL = {"low": 0.0, "high": 7.5, "lit": 3.9, "data": 8.0}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (answered("not interpretable", CHANNEL), "not interpretable"),
        (answered("out of reach", CHANNEL), UNREACHED),
        (answered("out of reach", PRESENT), UNREACHED),
        (answered("out of reach", ABSENT), NO_IMAGE_OF_CLASS),
        (answered("out of reach", {"low": "damaged"}), UNREACHED),
        (answered("out of reach", ABSENT, kind="confirmation", label="dog"), "dog"),
        ({"status": "answered", "label": "dog"}, "dog"),
        ({"status": "out of rounds"}, ""),
    ],
)
def test_the_headline_says_which_of_both_it_is(record, said):
    assert headline(record) == said
