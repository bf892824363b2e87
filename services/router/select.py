"""Which of several deployments is asked. Pure: randomness comes as an argument.

A strategy sees those that are left and returns one of them. Another way to choose is one more row in STRATEGIES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeVar

__all__ = ["STRATEGIES", "Strategy", "Weighted", "pick_weighted"]


class Weighted(Protocol):
    """Something with a share."""

    @property
    def weight(self) -> float:
        """The share, 0 or more; shares need not add up to anything."""
        ...


_W = TypeVar("_W", bound=Weighted)


class Strategy(Protocol):
    """A way to choose."""

    def __call__(self, left: Sequence[_W], draw: float) -> _W:
        """Return one of `left`, which is not empty. `draw` is a random number in [0, 1)."""
        ...


def pick_weighted(left: Sequence[_W], draw: float) -> _W:
    """Return one with a chance in proportion to its weight; of weights that are all 0, any with the same chance."""
    if len(left) == 1:
        return left[0]
    weights = [item.weight for item in left]
    total = sum(weights)
    if total <= 0:
        return left[int(draw * len(left))]
    threshold = draw * total
    last = left[0]
    for item, weight in zip(left, weights, strict=True):
        if weight > 0:
            if threshold < weight:
                return item
            threshold -= weight
            last = item
    # Rounding can leave a trace of the threshold; the last one with a share takes it.
    return last


STRATEGIES: Mapping[str, Strategy] = MappingProxyType({"weighted": pick_weighted})
"""By name, as a group names it."""
