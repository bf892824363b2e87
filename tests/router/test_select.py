"""The weighted choice: shares, zeros, and what it costs."""

from __future__ import annotations

import random
import timeit
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.router.routes import Deployment
from services.router.select import STRATEGIES, pick_weighted


def deployments(*weights: float) -> list[Deployment]:
    return [
        Deployment(name=f"m/{number}", model="m", provider="p", catalog="p", upstream_model="m", weight=weight)
        for number, weight in enumerate(weights)
    ]


def test_shares_are_within_two_percent_of_the_weights() -> None:
    choices = deployments(1, 2, 3, 4)
    draw = random.Random(7)
    counts = Counter(pick_weighted(choices, draw.random()).name for _ in range(100_000))
    for choice in choices:
        assert abs(counts[choice.name] / 100_000 - choice.weight / 10) < 0.02


def test_a_weight_of_zero_is_not_chosen_while_another_is_left() -> None:
    choices = deployments(0, 1, 0)
    assert {pick_weighted(choices, number / 100).name for number in range(100)} == {"m/1"}


def test_only_zeros_are_chosen_alike() -> None:
    choices = deployments(0, 0)
    counts = Counter(pick_weighted(choices, number / 100).name for number in range(100))
    assert counts == {"m/0": 50, "m/1": 50}


@given(st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_a_choice_is_one_of_those_left_and_has_a_share_if_any_has(weights: list[float], draw: float) -> None:
    choices = deployments(*weights)
    chosen = pick_weighted(choices, draw)
    assert chosen in choices
    assert chosen.weight > 0 or not any(weights)


def test_choosing_among_a_hundred_takes_under_20_microseconds() -> None:
    choices = deployments(*range(1, 101))
    seconds = min(timeit.repeat(lambda: pick_weighted(choices, 0.999), number=1000, repeat=5)) / 1000
    assert seconds < 20e-6


def test_every_strategy_has_a_name_and_chooses() -> None:
    choices = deployments(1)
    assert {name: strategy(choices, 0.0).name for name, strategy in STRATEGIES.items()} == {"weighted": "m/0"}
