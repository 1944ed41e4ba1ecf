"""Gradients of a fixed point: each strategy takes a point found without a graph and attaches one to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deqflow.equilibrium.driver import solve
from deqflow.equilibrium.solvers import FixedPointIteration, Solver
from deqflow.equilibrium.state import S, State, Step, detach, rebuild
from deqflow.equilibrium.stopping import StoppingRule


class Gradient(Protocol):
    """A way to differentiate a fixed point."""

    def attach(self, step: Step, state: S) -> S:
        """Return the fixed point, up to the solver's residual, with a graph to the step's inputs."""


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
        _check(self.steps, self.damping)

    def attach(self, step: Step, state: S) -> S:
        """See ``Gradient.attach``."""
        point = detach(state)
        with torch.enable_grad():
            for _ in range(self.steps):
                mapped = step(point)
                if self.damping != 1.0:
                    mixed = [torch.lerp(x, f, self.damping) for x, f in zip(point, mapped, strict=True)]
                    mapped = rebuild(point, mixed)
                point = mapped
        return point


@dataclass(frozen=True)
class OneStep:
    """One evaluation with a graph, (I - J)^-1 taken as the identity (Bai et al., CVPR 2022, sec. 3.3)."""

    def attach(self, step: Step, state: S) -> S:
        """See ``Gradient.attach``."""
        return Phantom(steps=1).attach(step, state)


@dataclass(frozen=True, kw_only=True)
class NeumannPhantom:
    """Phantom gradient by a Neumann series (Geng et al., On Training Implicit Models, 2021, eq. 9).

    In place of (I - J)^-1 stands ``tau sum_{i < steps} (tau J + (1 - tau) I)^i``, all of it at the fixed
    point, where the damped unrolling takes each term at another point. One evaluation carries a graph,
    whatever the number of terms.

    Attributes:
        steps: terms of the series, at least 1.
        damping: tau, in (0, 1].
    """

    steps: int = 3
    damping: float = 1.0

    def __post_init__(self) -> None:
        _check(self.steps, self.damping)

    def attach(self, step: Step, state: S) -> S:
        """See ``Gradient.attach``."""

        def series(pull: Pull, given: list[Tensor]) -> list[Tensor]:
            term, total = given, given
            for _ in range(self.steps - 1):
                pulled = zip(term, pull(term), strict=True)
                term = [torch.lerp(old, new, self.damping) for old, new in pulled]
                total = [sum_ + part for sum_, part in zip(total, term, strict=True)]
            return [self.damping * part for part in total]

        return _attach_with(series, step, state)


def _exact_backward() -> StoppingRule:
    return StoppingRule(steps=60, tolerance=1e-6)


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """Exact gradient by the implicit function theorem (Bai et al., DEQ, NeurIPS 2019, thm. 1).

    The backward pass solves ``u = J^T u + g`` with any solver and keeps one evaluation's graph; a sample
    whose system is solved stops on its own.

    Attributes:
        solver: of the backward system.
        stop: of the backward system; its measure defaults to the relative change.
    """

    solver: Solver = field(default_factory=FixedPointIteration)
    stop: StoppingRule = field(default_factory=_exact_backward)

    def attach(self, step: Step, state: S) -> S:
        """See ``Gradient.attach``."""

        def solved(pull: Pull, given: list[Tensor]) -> list[Tensor]:
            def adjoint(state: State, active: Tensor | None = None) -> State:
                if active is None:
                    pulled: Sequence[Tensor] = pull(state)
                else:
                    # The graph is that of the whole batch; samples do not mix, so zeros stand for the rest.
                    full = [
                        torch.zeros_like(g).index_copy(0, active, u)
                        for g, u in zip(given, state, strict=True)
                    ]
                    pulled = [part[active] for part in pull(full)]
                base = given if active is None else [g[active] for g in given]
                return tuple(g + p for g, p in zip(base, pulled, strict=True))

            return list(solve(adjoint, tuple(given), self.solver, self.stop).state)

        return _attach_with(solved, step, state)


Pull = Callable[[Sequence[Tensor]], list[Tensor]]
"""A vector-Jacobian product of the step at the fixed point."""

T = TypeVar("T")


def _attach_with(transform: Callable[[Pull, list[Tensor]], list[Tensor]], step: Step, state: S) -> S:
    """One evaluation with a graph, whose backward pass transforms the incoming gradient first."""
    with torch.enable_grad():
        point = rebuild(state, [part.detach().requires_grad_() for part in state])
        mapped = step(point)
        attached = _Transformed.apply(transform, tuple(point), *mapped)
    return rebuild(state, attached)


class _Transformed(torch.autograd.Function):
    """The identity; its backward pass hands ``transform(pull, gradients)`` on.

    A function of all parts of the state at once, since a hook on each part would see only its own gradient.
    It holds the graph of one evaluation, which goes with it: nothing refers back, so nothing can leak.
    """

    @staticmethod
    def forward(
        ctx: Any, transform: Callable[[Pull, list[Tensor]], list[Tensor]], point: State, *mapped: Tensor
    ) -> State:
        ctx.transform, ctx.point, ctx.mapped = transform, point, mapped
        return tuple(part.view_as(part) for part in mapped)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Any, ...]:
        mapped, point = ctx.mapped, ctx.point
        # A part may carry no graph to the point (flow is detached on the way in, say): its row of J is zero.
        connected = [index for index, part in enumerate(mapped) if part.requires_grad]

        def pull(vectors: Sequence[Tensor]) -> list[Tensor]:
            return list(
                torch.autograd.grad(
                    [mapped[index] for index in connected],
                    point,
                    [vectors[index].to(mapped[index].dtype) for index in connected],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )

        return None, None, *ctx.transform(pull, list(given))


def _check(steps: int, damping: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not 0 < damping <= 1:
        raise ValueError(f"damping must be in (0, 1], not {damping}")
