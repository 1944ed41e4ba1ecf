"""Joint inference and input optimization: a fixed point and the input that is best for it, in one solve.

Source: Gurumurthy, Bai, Manchester and Kolter, Joint Inference and Input Optimization in Equilibrium
Networks, NeurIPS 2021 (arXiv 2111.13236).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deqflow.equilibrium.state import State, detach

Operator = Callable[[State, State, Tensor | None], State]
"""``operator(point, inputs, active)``: the next point of the samples ``active`` in the batch (None: all)."""

Objective = Callable[[State, State, Tensor | None], Tensor]
"""``objective(point, inputs, active)``: (B,) what is to be small at the fixed point."""


class JointState(NamedTuple):
    """The parts of an augmented state: point, adjoint (shaped as the point) and inputs."""

    point: State
    adjoint: State
    inputs: State


@dataclass(frozen=True, kw_only=True)
class JointStep:
    """A step whose fixed point minimizes an objective over the inputs of another fixed point.

    Minimizing ``L(z, x)`` subject to ``z = f(z, x)`` has the optimality conditions ``z = f(z, x)``,
    ``u = (df/dz)^T u + dL/dz`` and ``(df/dx)^T u + dL/dx = 0``. As one step on (z, u, x) any solver
    drives all three at once; around converged solves every change of the input waits for a fixed point and an
    adjoint of its own.

    Attributes:
        operator: f.
        objective: L.
        rate: how far the inputs move against their gradient in one step, above 0.
        parts: tensors that the point consists of.
    """

    operator: Operator
    objective: Objective
    rate: float
    parts: int = 1

    def __post_init__(self) -> None:
        if not self.rate > 0 or self.parts < 1:
            raise ValueError(
                f"expected rate above 0 and parts of at least 1, got {self.rate} and {self.parts}"
            )

    def start(self, point: State, inputs: State) -> State:
        """Return the augmented state to solve from; the adjoint starts at zeros."""
        return (*point, *map(torch.zeros_like, point), *inputs)

    def split(self, state: State) -> JointState:
        """Return point, adjoint and inputs of an augmented state."""
        return JointState(state[: self.parts], state[self.parts : 2 * self.parts], state[2 * self.parts :])

    def __call__(self, state: State, active: Tensor | None = None) -> State:
        """Return the next augmented state; both products with the Jacobians come from one backward pass."""
        point, adjoint, inputs = self.split(detach(state))
        variables = [part.requires_grad_() for part in (*point, *inputs)]
        with torch.enable_grad():
            mapped = self.operator(point, inputs, active)
            lagrangian = self.objective(point, inputs, active).sum()
            for part, multiplier in zip(mapped, adjoint, strict=True):
                lagrangian = lagrangian + (part * multiplier).sum()
            pulled = torch.autograd.grad(lagrangian, variables, allow_unused=True, materialize_grads=True)
        moved = (x.detach() - self.rate * g for x, g in zip(inputs, pulled[self.parts :], strict=True))
        return (*detach(mapped), *pulled[: self.parts], *moved)
