"""How a stage finds the points that losses are taken on, and how each is differentiated."""

from collections.abc import Callable
from dataclasses import dataclass, replace

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
from deqflow.step import FlowState
from deqflow.training.batch import StepRandomness
from deqflow.training.options import Stage
from deqflow.training.starts import wrong_state


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


def follow(
    model: DEQFlow,
    stage: Stage,
    image1: Tensor,
    image2: Tensor,
    randomness: StepRandomness,
    correction: Correction,
    *,
    bidirectional: bool,
) -> Trajectory[FlowState]:
    """The points of a batch's solve that losses are taken on, from where the step's randomness says.

    Args:
        model: whose parameters are trained.
        stage: how a point is differentiated.
        image1: (B, 3, H, W) of 0..255.
        image2: (B, 3, H, W).
        randomness: of this step.
        correction: where the points are.
        bidirectional: the states are those of 2B pairs, the way back after the way there.
    """
    solver = choose_solver(stage, model)
    coarse = replace(
        model.defaults,
        steps=randomness.solver_steps,
        tolerance=0.0,
        solver=solver,
        scales=(2 * model.config.stride, model.config.stride),
    )
    scales = model.scales(image1, coarse) if randomness.coarse_start else ()
    start = None
    if randomness.wrong_start is not None:
        wrong = randomness.wrong_start
        start = wrong_state(model, image1, image2, wrong, solver, bidirectional=bidirectional)
    pair = model.prepare(image1, image2, scales=scales, bidirectional=bidirectional)
    return model.trajectory(
        pair,
        model.coarse_start(pair, coarse) if scales else start,
        correction=correction,
        gradient=choose_gradient(stage),
        solver=solver,
        steps=randomness.solver_steps,
        attach_flow=stage.attach_flow,
    )


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
