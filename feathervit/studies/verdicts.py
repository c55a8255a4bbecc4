"""Decides from the runs of a study whether the claim of a paper holds at a small scale: holds, does not hold, or undecided.

A claim is one or more comparisons "this arm is above that arm". Differences are computed per seed. A comparison holds if the
95 % interval of the mean difference (Student's t) is above zero, and does not hold if it is below. Seeds of one pre-training
run do not show how pre-training runs vary, so a comparison of pre-training runs is undecided. Does not import torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from scipy.stats import t as student

from .definition import Statement

Word = Literal["holds", "does not hold", "undecided", "not run"]


@dataclass(frozen=True)
class Comparison:
    """The differences between two arms in points, one per common seed, and the verdict.

    `starts`: for each of the two arms, the arms that it starts from. They run once for all seeds.
    """

    above: str
    below: str
    points: list[float]
    starts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def of_runs(self) -> bool:
        """Whether the arms start from different pre-training runs, so that one run is compared with one run."""
        return all(self.starts) and self.starts[0] != self.starts[1]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean difference, in points; infinite for fewer than two seeds."""
        n = len(self.points)
        if n < 2:
            return -math.inf, math.inf
        mean, half = (
            statistics.mean(self.points),
            student.ppf(0.975, n - 1) * statistics.stdev(self.points) / math.sqrt(n),
        )
        return mean - half, mean + half

    @property
    def word(self) -> Word:
        low, high = self.interval
        if not self.points:
            return "not run"
        if self.of_runs:
            return "undecided"
        return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"

    def text(self) -> str:
        """Describes the difference."""
        if not self.points:
            return f"{self.above} over {self.below}: not run"
        mean, (low, high) = statistics.mean(self.points), self.interval
        parts = [f"{len(self.points)} seeds" if len(self.points) > 1 else "one seed"]
        parts += ["one pre-training run" + " each" * self.of_runs] * any(self.starts)
        parts += [f"95 % {low:+.2f} to {high:+.2f}"] * (len(self.points) > 1)
        return f"{self.above} over {self.below}: {mean:+.2f} points ({', '.join(parts)})"


def paired(cells: list[dict[str, Any]], first: str, arm: str, figure: str) -> list[float]:
    """Returns the differences of `arm` and `first` in points, one per seed that both have finished."""
    values = {
        (c["arm"], c["seed"]): c[figure] for c in cells if c["status"] == "finished" and c.get(figure) is not None
    }
    seeds = [seed for name, seed in values if name == arm and (first, seed) in values]
    return [100 * (values[arm, seed] - values[first, seed]) for seed in seeds]


def compare(
    statement: Statement, cells: list[dict[str, Any]], needs: Callable[[str], tuple[str, ...]] = lambda arm: ()
) -> list[Comparison]:
    """Returns the comparisons of a claim, from the cells of study.json. `needs`: `Study.needs`."""
    return [
        Comparison(above, below, paired(cells, below, above, "test_top1"), (needs(above), needs(below)))
        for above, below in statement.above
    ]


def verdict(comparisons: Iterable[Comparison]) -> Word:
    """Returns the verdict on a claim: it holds if all comparisons hold, and does not hold if any comparison does not."""
    words = {comparison.word for comparison in comparisons}
    if "does not hold" in words:
        return "does not hold"
    if words == {"not run"}:
        return "not run"
    return "holds" if words == {"holds"} else "undecided"
