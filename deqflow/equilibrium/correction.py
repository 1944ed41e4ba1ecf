"""Sparse fixed-point correction: where along the solver's path losses are taken.

Source: Bai et al., Deep Equilibrium Optical Flow Estimation, CVPR 2022, sec. 3.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Generic, Protocol

import torch
from torch import Tensor

from deqflow.equilibrium.driver import solve
from deqflow.equilibrium.gradients import Gradient
from deqflow.equilibrium.solvers import Memory, Solver
from deqflow.equilibrium.state import S, Step, detach, rebuild
from deqflow.equilibrium.stopping import StoppingRule


@dataclass(frozen=True)
class Trajectory(Generic[S]):
    """Points of a solve that losses are taken on.

    Attributes:
        points: found by the solver, without a graph, in the order of the path.
        states: the same after their gradient steps, with a graph each.
        residual: (B, K) how far the last evaluation before the last gradient moved each sample.
    """

    points: list[S]
    states: list[S]
    residual: Tensor


class Correction(Protocol):
    """A choice of points along the path."""

    def follow(
        self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule
    ) -> Trajectory[S]:
        """Solve for ``stop.steps`` evaluations (its tolerance is ignored) and attach gradients on the way."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Segments of the solve, each ending in gradient steps and the next starting from their detached result.

    Attributes:
        count: segments of ``steps // count`` evaluations; the remainder is dropped, as published.
        positions: in place of ``count``, the evaluations (1-based, rising) after which segments end.
    """

    count: int = 3
    positions: tuple[int, ...] | None = None

    def follow(
        self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule
    ) -> Trajectory[S]:
        """See ``Correction.follow``; raises ValueError where the marks do not fit the steps."""
        if self.positions is None:
            _check_count(self.count, stop.steps)
            lengths = [stop.steps // self.count] * self.count
        else:
            marks = (0, *_checked(self.positions, stop.steps))
            lengths = [after - before for before, after in pairwise(marks)]
        points: list[S] = []
        corrected: list[S] = []
        for length in lengths:
            found = solve(step, state, solver, replace(stop, steps=length, tolerance=0.0))
            points.append(found.state)
            corrected.append(gradient.attach(step, found.state))
            state = detach(corrected[-1])
        return Trajectory(points, corrected, found.residual)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """States of one uninterrupted solve, all given their gradient steps at once.

    The states go through the step as one batch, ``active`` naming each sample several times, so what the
    step looks up its gradient in (a correlation volume, say) receives one gradient instead of several.

    Attributes:
        count: evenly spaced states, the last evaluation's among them.
        positions: in place of ``count``, the evaluations (1-based, rising) whose states count.
        ratio: in place of even spacing, each of the states comes after this share of the next one's
            evaluations: below a half the early ones count, which teaches a solve to be nearly right soon.
            Those that fall on the same evaluation are one.
    """

    count: int = 3
    positions: tuple[int, ...] | None = None
    ratio: float | None = None

    def follow(
        self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule
    ) -> Trajectory[S]:
        """See ``Correction.follow``; raises ValueError where the marks do not fit the steps."""
        marks = marks_along(stop.steps, self.count, self.positions, self.ratio)
        solution = solve(step, state, solver, replace(stop, tolerance=0.0), record=marks)
        samples = torch.arange(state[0].shape[0], device=state[0].device).repeat(len(marks))

        def repeated(state: Any, active: Tensor | None = None) -> Any:
            return step(state, samples if active is None else samples[active])

        together = rebuild(state, [torch.cat(parts) for parts in zip(*solution.recorded, strict=True)])
        attached = gradient.attach(repeated, together)
        chunks = zip(*(part.chunk(len(marks)) for part in attached), strict=True)
        return Trajectory(solution.recorded, [rebuild(state, parts) for parts in chunks], solution.residual)


@dataclass(frozen=True, kw_only=True)
class Unrolled:
    """The recurrent baseline: every evaluation carries a graph (backpropagation through time).

    The memory grows with the number of evaluations; the gradient strategy is not used.

    Attributes:
        count: evenly spaced states that losses are taken on; None takes every one, as RAFT does.
        positions: in place of ``count``, the evaluations (1-based, rising) whose states count.
    """

    count: int | None = None
    positions: tuple[int, ...] | None = None

    def follow(
        self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule
    ) -> Trajectory[S]:
        """See ``Correction.follow``; raises ValueError where the marks do not fit the steps."""
        marks = marks_along(stop.steps, self.count or stop.steps, self.positions)
        memory: Memory = []
        states: list[S] = []
        with torch.enable_grad():
            for evaluation in range(1, stop.steps + 1):
                mapped = step(state)
                if evaluation in marks:
                    states.append(mapped)
                before = state
                state, memory = solver.advance(state, mapped, memory)
        with torch.no_grad():
            residual = stop.measure(mapped, before)
        return Trajectory([detach(state) for state in states], states, residual)


def marks_along(
    steps: int, count: int, positions: Sequence[int] | None, ratio: float | None = None
) -> list[int]:
    """Return evaluations (1-based) that are marked: given ones, or ``count`` spaced evenly or by a ratio.

    Raises:
        ValueError: more marks than evaluations, or positions that do not rise within 1..steps.
    """
    if positions is not None:
        return _checked(positions, steps)
    _check_count(count, steps)
    if ratio is not None:
        return sorted({math.ceil(steps * ratio**index) for index in range(count)})
    return [steps * (index + 1) // count for index in range(count)]


def _checked(positions: Sequence[int], steps: int) -> list[int]:
    marks = list(positions)
    if not marks or marks != sorted(set(marks)) or not 1 <= marks[0] <= marks[-1] <= steps:
        raise ValueError(f"positions must rise within 1..{steps} solver steps, not {tuple(marks)}")
    return marks


def _check_count(count: int, steps: int) -> None:
    if not 1 <= count <= steps:
        raise ValueError(f"{count} corrections need at least as many solver steps, not {steps}")
