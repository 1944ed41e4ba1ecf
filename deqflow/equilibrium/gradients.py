"""Gradients of a fixed point: each strategy takes a point found without a graph and attaches one to it."""

from dataclasses import dataclass
from typing import Protocol

import torch

from deqflow.equilibrium.solvers import S, Step, rebuild


class Gradient(Protocol):
    """A way to differentiate a fixed point."""

    def attach(self, step: Step, state: S) -> S:
        """A state equal to the fixed point up to the solver's residual, with a graph to the step's inputs."""


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """Phantom gradient by damped unrolling (Geng et al., On Training Implicit Models, 2021, eq. 7).

    Attributes:
        steps: evaluations that carry a graph, at least 1.
        damping: tau in ``x <- (1 - tau) x + tau step(x)``, in (0, 1].
    """

    steps: int = 3
    damping: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1], not {self.damping}")

    def attach(self, step: Step, state: S) -> S:
        """See ``Gradient.attach``."""
        point = rebuild(state, [part.detach() for part in state])
        with torch.enable_grad():
            for _ in range(self.steps):
                image = step(point)
                if self.damping != 1.0:
                    mixed = [torch.lerp(x, f, self.damping) for x, f in zip(point, image, strict=True)]
                    image = rebuild(point, mixed)
                point = image
        return point


@dataclass(frozen=True)
class OneStep:
    """One evaluation with a graph, (I - J)^-1 taken as the identity (Bai et al., CVPR 2022, sec. 3.3)."""

    def attach(self, step: Step, state: S) -> S:
        """See ``Gradient.attach``."""
        return Phantom(steps=1).attach(step, state)
