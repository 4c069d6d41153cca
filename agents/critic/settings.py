"""How much evidence is asked for."""

from __future__ import annotations

from pydantic import Field

from actors.settings import Settings


class ConfirmationSettings(Settings):
    """How much evidence a label needs."""

    min_images: int = Field(20, ge=2)
    """Images of the label, and as many controls, that are always measured."""
    max_images: int = Field(40, ge=2)
    """Images of the label, and as many controls, at which the test gives up."""
    block: int = Field(10, ge=1)
    """Images of each kind that are made and measured at a time."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Level of the tests: a label passes when the e-value reaches 1 / alpha."""
    min_auroc: float = Field(0.7, ge=0.5, le=1)
    """A label may be surely, yet uselessly, better than chance; below this it is not confirmed."""
    probe: int = Field(10, ge=0)
    """Fresh images of a skeptic's rival, of each simpler label, and for a second measurement; 0 omits them.
    """
    min_strength: float = Field(0.3, ge=0, le=1)
    """Part of the way from the data set's mean to the unit's strongest images that images of the label must
    reach, in the mean.
    """
    min_reach: float = Field(0.5, ge=0, le=1)
    """Part of that way that the best of all generated images must reach; where they do not, the unit is out
    of the image maker's reach, and nothing that was generated says anything about it.
    """
    min_coverage: float = Field(0.3, ge=0, le=1)
    """Share of the unit's strongest images that must show the label."""
    held_back: int = Field(400, ge=0)
    """Images of the part of the data set that is held out, sampled once for all units, whose activations are
    measured: one pass each for all units of a layer. 0 leaves the labels untested on real images.
    """
    held_back_looks: int = Field(80, ge=20)
    """Questions to the witness whether one of these images shows a label, shared among an answer's labels; at
    least 20 images are judged. In addition, one examination asks of at most 15 exemplars and 15 images of
    the agent, for each label.
    """
