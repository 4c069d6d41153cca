from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def libraries() -> None:
    from actors.vision_libraries import import_torchvision

    import_torchvision()


def draw(row_seeds: list[int], temperature: float, **limits: float) -> list[int]:
    import torch

    from actors.chat.sampling import SeededRows

    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).repeat(len(row_seeds), 1)
    sampler = SeededRows([temperature] * len(row_seeds), row_seeds, **limits)  # type: ignore[arg-type]
    return sampler(torch.zeros(len(row_seeds), 1, dtype=torch.long), logits).argmax(1).tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_softmax_says(temperature: float) -> None:
    import torch

    n = 4000
    drawn = torch.bincount(torch.tensor(draw(list(range(n)), temperature)), minlength=4) / n
    expected = torch.softmax(torch.tensor([2.0, 1.0, 0.0, -1.0]) / temperature, 0)
    # Four standard deviations of a share of 0.5.
    assert (drawn - expected).abs().max() < 4 * (0.25 / n) ** 0.5


def test_a_row_is_drawn_by_its_seed_alone() -> None:
    assert draw([7, 8, 9], 1.0) == [draw([seed], 1.0)[0] for seed in (7, 8, 9)]


def test_temperature_zero_is_greedy() -> None:
    assert draw([1, 2, 3], 0.0) == [0, 0, 0]


def test_top_k_and_top_p_leave_out_the_rest() -> None:
    assert set(draw(list(range(300)), 5.0, top_k=2)) == {0, 1}
    assert set(draw(list(range(300)), 1.0, top_p=0.5)) == {0}
