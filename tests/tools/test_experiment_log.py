"""The log: the only memory an agent's later programs have."""

from __future__ import annotations

import numpy as np
import pytest

from actors.errors import UsageError
from actors.images import Image
from tools.experiment_log import MAX_CHARACTERS, MAX_ENTRIES, ExperimentLog
from tools.sandbox import ImageRef


def picture(value: int) -> ImageRef:
    return ImageRef.of(Image.from_pixels(np.full((2, 3, 3), value, np.uint8)))


def test_results_are_kept_in_the_papers_form():
    log = ExperimentLog()
    log.add([1.5, 2], [picture(1), picture(2)], ["a dog", "a cat"], ["d", "c"])
    assert log.results == [
        {"a dog": {"activation": 1.5, "image": picture(1)}},
        {"a cat": {"activation": 2.0, "image": picture(2)}},
    ]


def test_below_the_threshold_the_agent_is_told_to_go_on_and_above_it_is_not():
    log = ExperimentLog(activation_threshold=2.0)
    assert "Continue" in log.reminder(log.add([1.9], [picture(1)], ["a"], [""]))
    assert log.reminder(log.add([1.0, 2.0], [picture(1), picture(2)], ["a", "b"], ["one text for all"])) == ""
    assert ExperimentLog().reminder(log.experiments[0]) == "", "no threshold before the exemplars"


def test_lists_of_different_length_are_refused_with_their_lengths():
    with pytest.raises(UsageError, match="1 activations, 2 images, 2 titles"):
        ExperimentLog().add([1.0], [picture(1), picture(2)], ["a", "b"], [])


def test_a_log_that_is_full_says_so_and_keeps_what_it_has():
    """The log is part of every round's record, so it may not grow without end."""
    log = ExperimentLog()
    log.add([1.0], [picture(1)], ["a"], [""])
    with pytest.raises(UsageError, match=f"{MAX_ENTRIES} images"):
        log.add([1.0] * MAX_ENTRIES, [picture(1)] * MAX_ENTRIES, ["a"] * MAX_ENTRIES, [])
    with pytest.raises(UsageError, match=f"{MAX_CHARACTERS} characters"):
        log.add([1.0], [picture(1)], ["a"], ["x" * MAX_CHARACTERS])
    assert len(log.results) == 1
