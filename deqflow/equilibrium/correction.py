"""Sparse fixed-point correction: where along the solver's path losses are taken (Bai et al., CVPR 2022, sec. 3.3)."""

from dataclasses import dataclass
from typing import Protocol

from deqflow.equilibrium.gradients import Gradient
from deqflow.equilibrium.solvers import S, Solver, Step, StoppingRule, rebuild, solve


class Correction(Protocol):
    """A choice of points along the path."""

    def trajectory(self, step: Step, state: S, solver: Solver, gradient: Gradient, steps: int) -> list[S]:
        """States with a graph, in the order of the path, from a solve of ``steps`` evaluations."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """``count`` segments of ``steps // count`` evaluations; each ends in gradient steps and hands on its result.

    The remainder of the division is dropped, as published.
    """

    count: int = 3

    def trajectory(self, step: Step, state: S, solver: Solver, gradient: Gradient, steps: int) -> list[S]:
        """See ``Correction.trajectory``; raises ValueError with fewer steps than segments."""
        _check(self.count, steps)
        corrected: list[S] = []
        for _ in range(self.count):
            found = solve(step, state, solver, StoppingRule(steps=steps // self.count)).state
            corrected.append(gradient.attach(step, found))
            state = rebuild(state, [part.detach() for part in corrected[-1]])
        return corrected


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """``count`` evenly spaced states of one uninterrupted solve, each given its gradient steps afterwards."""

    count: int = 3

    def trajectory(self, step: Step, state: S, solver: Solver, gradient: Gradient, steps: int) -> list[S]:
        """See ``Correction.trajectory``; raises ValueError with fewer steps than states."""
        _check(self.count, steps)
        marks = [steps * (index + 1) // self.count for index in range(self.count)]
        recorded = solve(step, state, solver, StoppingRule(steps=steps), record=marks).recorded
        return [gradient.attach(step, found) for found in recorded]


def _check(count: int, steps: int) -> None:
    if not 1 <= count <= steps:
        raise ValueError(f"{count} corrections need at least as many solver steps, not {steps}")
