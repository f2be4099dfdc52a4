# SPDX-License-Identifier: MIT
"""Medians, quartiles and the round robin."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """One number a round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The middle half lies between them."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a share of the median."""
        low, high = self.quartiles
        return (high - low) / self.median if self.median else 0.0

    def over(self, other: Series) -> Series:
        """Round by round: what both met in the same minute cancels."""
        return Series(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def as_json(self) -> dict:
        low, high = self.quartiles
        return {"median": self.median, "low": low, "high": high, "rounds": len(self.values)}


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def in_turns(runners: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Series]:
    """Calls each runner once a round; each round begins with another one, so that none always follows the same."""
    names = list(runners)
    values: dict[str, list[float]] = {name: [] for name in names}
    for r in range(rounds):
        shift = r % len(names)
        for name in names[shift:] + names[:shift]:
            values[name].append(runners[name]())
    return {name: Series(tuple(v)) for name, v in values.items()}
