"""How a stage finds the points that losses are taken on, and how each is differentiated."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deqflow.equilibrium import (
    Anderson,
    Broyden,
    Correction,
    FixedPointIteration,
    Gradient,
    Implicit,
    NeumannPhantom,
    OneStep,
    Phantom,
    Recorded,
    Segments,
    Solver,
    Step,
    StoppingRule,
    Trajectory,
    Unrolled,
    jacobian_penalty,
)
from deqflow.equilibrium.state import S
from deqflow.estimator import DEQFlow
from deqflow.training.options import Stage


def choose_gradient(stage: Stage) -> Gradient:
    """How each point of the path is differentiated (unrolling differentiates the path itself instead)."""
    if stage.gradient == "phantom":
        return Phantom(steps=stage.gradient_steps, damping=stage.damping)
    if stage.gradient == "neumann":
        return NeumannPhantom(steps=stage.gradient_steps, damping=stage.damping)
    return Implicit() if stage.gradient == "implicit" else OneStep()


def choose_correction(stage: Stage) -> Correction:
    """Where along the path losses are taken."""
    positions = stage.positions or None
    if stage.gradient == "unrolled":
        return Unrolled(count=stage.corrections, positions=positions)
    scheme = Segments if stage.scheme == "segments" else Recorded
    return scheme(count=stage.corrections, positions=positions)


def choose_solver(stage: Stage, model: DEQFlow) -> Solver:
    """The solver of the forward pass."""
    solvers: dict[str, Callable[[], Solver]] = {
        "plain": FixedPointIteration,
        "anderson": Anderson,
        "broyden": Broyden,
    }
    return model.defaults.solver if stage.solver == "model" else solvers[stage.solver]()


@dataclass(frozen=True)
class PenalizedTrajectory(Trajectory[S]):
    """A path, and the mean Jacobian penalty at its last point."""

    penalty: Tensor


@dataclass(frozen=True)
class Penalized:
    """A correction that also measures the Jacobian at the last point of the path.

    Attributes:
        inner: where losses are taken.
        seed: of the probe vector.
    """

    inner: Correction
    seed: int

    def follow(
        self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule
    ) -> PenalizedTrajectory[S]:
        """See ``Correction.follow``."""
        path = self.inner.follow(step, state, solver, gradient, stop)
        probes = torch.Generator(state[0].device).manual_seed(self.seed)
        penalty = jacobian_penalty(step, path.points[-1], generator=probes).mean()
        return PenalizedTrajectory(path.points, path.states, path.residual, penalty)
