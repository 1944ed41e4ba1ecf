"""Sparse fixed-point correction: where along the solver's path losses are taken (Bai et al., CVPR 2022, sec. 3.3)."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

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
    """``count`` evenly spaced states of one uninterrupted solve, all given their gradient steps at once.

    The states go through the step as one batch, ``active`` naming each sample ``count`` times, so what the
    step looks up its gradient in (a correlation volume, say) receives one gradient instead of ``count``.
    """

    count: int = 3

    def trajectory(self, step: Step, state: S, solver: Solver, gradient: Gradient, steps: int) -> list[S]:
        """See ``Correction.trajectory``; raises ValueError with fewer steps than states."""
        _check(self.count, steps)
        marks = [steps * (index + 1) // self.count for index in range(self.count)]
        recorded = solve(step, state, solver, StoppingRule(steps=steps), record=marks).recorded
        samples = torch.arange(state[0].shape[0], device=state[0].device).repeat(self.count)

        def repeated(stacked: S, active: Tensor | None = None) -> S:
            image: S = step(stacked, samples if active is None else samples[active])
            return image

        together = rebuild(state, [torch.cat(parts) for parts in zip(*recorded, strict=True)])
        attached = gradient.attach(repeated, together)
        chunks = zip(*(part.chunk(self.count) for part in attached), strict=True)
        return [rebuild(state, parts) for parts in chunks]


def _check(count: int, steps: int) -> None:
    if not 1 <= count <= steps:
        raise ValueError(f"{count} corrections need at least as many solver steps, not {steps}")
