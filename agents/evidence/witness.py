"""How reliable a blind witness is, and what its errors do to a share and to an AUROC.

Sensitivity and specificity are measured on the confirmation's own images, of which it is known what was asked
for. They hold for the data set's images as far as these are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.evidence.record import Count, Number, Record

_INFORMATIVE = 0.2
"""Sensitivity plus specificity minus 1 from which a witness's answers are corrected: below, the correction is
mere noise.
"""
_LEAST_CLEAR = 5


class Accuracy(Record):
    """How reliable a witness is."""

    sensitivity: Number = 0.0
    """Share of the images of the label in which it finds the label."""
    specificity: Number = 0.0
    """Share of other images in which it does not."""
    n_with: Count = 0
    """Images of the label of which it gave a clear answer."""
    n_without: Count = 0
    """Other images of which it did."""

    @property
    def informedness(self) -> float:
        return self.sensitivity + self.specificity - 1

    @property
    def tells(self) -> bool:
        """Whether its answers say anything: they do not if it gives the same one to every image."""
        return min(self.n_with, self.n_without) >= _LEAST_CLEAR and self.informedness >= _INFORMATIVE

    def share(self, seen: float) -> float | None:
        """Return the share of images that show the label, of which `seen` is the witness's figure (Rogan and
        Gladen 1978).
        """
        if not self.tells:
            return None
        return min(1.0, max(0.0, (seen + self.specificity - 1) / self.informedness))

    def auroc(self, seen: float, prevalence: float) -> float | None:
        """Return the AUROC of the label, where `seen` is that of the witness's answers; in [0, 1].

        Errors that do not depend on the activation mix the groups: A_seen - 1/2 = (PPV + NPV - 1) (A - 1/2),
        with the predictive values of the true prevalence. `prevalence` is the share of images in which the
        witness sees the label.
        """
        true = self.share(prevalence)
        if true is None:
            return None
        positive = self.sensitivity * true
        negative = self.specificity * (1 - true)
        said_yes = positive + (1 - self.specificity) * (1 - true)
        said_no = negative + (1 - self.sensitivity) * true
        if not said_yes or not said_no:
            return None
        left = positive / said_yes + negative / said_no - 1
        return None if left < _INFORMATIVE else min(1.0, max(0.0, 0.5 + (seen - 0.5) / left))


def accuracy(with_label: Sequence[bool | None], without: Sequence[bool | None]) -> Accuracy | None:
    """Return the accuracy from what the witness said of images with and without the label; None if it was
    asked of too few.
    """
    if min(len(with_label), len(without)) < _LEAST_CLEAR:
        return None
    one = [each for each in with_label if each is not None]
    other = [each for each in without if each is not None]
    return Accuracy(
        sensitivity=sum(one) / max(1, len(one)),
        specificity=1 - sum(other) / max(1, len(other)),
        n_with=len(one),
        n_without=len(other),
    )
