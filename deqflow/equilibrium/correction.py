"""Sparse fixed-point correction: where along the solver's path losses are taken.

Source: Bai et al., Deep Equilibrium Optical Flow Estimation, CVPR 2022, sec. 3.3.
"""

from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol

import torch
from torch import Tensor

from deqflow.equilibrium.gradients import Gradient
from deqflow.equilibrium.solvers import S, Solver, Step, StoppingRule, rebuild, solve


@dataclass(frozen=True)
class Path(Generic[S]):
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

    def follow(self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule) -> Path[S]:
        """Solve for ``stop.steps`` evaluations (its tolerance is ignored) and attach gradients on the way."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """``count`` segments of ``steps // count`` evaluations, each ending in gradient steps.

    A segment starts from the detached result of the one before.

    The remainder of the division is dropped, as published.
    """

    count: int = 3

    def follow(self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule) -> Path[S]:
        """See ``Correction.follow``; raises ValueError with fewer steps than segments."""
        _check(self.count, stop.steps)
        points: list[S] = []
        corrected: list[S] = []
        for _ in range(self.count):
            found = solve(step, state, solver, replace(stop, steps=stop.steps // self.count, tolerance=0.0))
            points.append(found.state)
            corrected.append(gradient.attach(step, found.state))
            state = rebuild(state, [part.detach() for part in corrected[-1]])
        return Path(points, corrected, found.residual)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """``count`` evenly spaced states of one uninterrupted solve, all given their gradient steps at once.

    The states go through the step as one batch, ``active`` naming each sample ``count`` times, so what the
    step looks up its gradient in (a correlation volume, say) receives one gradient instead of ``count``.
    """

    count: int = 3

    def follow(self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule) -> Path[S]:
        """See ``Correction.follow``; raises ValueError with fewer steps than states."""
        _check(self.count, stop.steps)
        marks = [stop.steps * (index + 1) // self.count for index in range(self.count)]
        solution = solve(step, state, solver, replace(stop, tolerance=0.0), record=marks)
        samples = torch.arange(state[0].shape[0], device=state[0].device).repeat(self.count)

        def repeated(state: Any, active: Tensor | None = None) -> Any:
            return step(state, samples if active is None else samples[active])

        together = rebuild(state, [torch.cat(parts) for parts in zip(*solution.recorded, strict=True)])
        attached = gradient.attach(repeated, together)
        chunks = zip(*(part.chunk(self.count) for part in attached), strict=True)
        return Path(solution.recorded, [rebuild(state, parts) for parts in chunks], solution.residual)


def _check(count: int, steps: int) -> None:
    if not 1 <= count <= steps:
        raise ValueError(f"{count} corrections need at least as many solver steps, not {steps}")
