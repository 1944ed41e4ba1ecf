"""What training minimises."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from deqflow.devices import autocast
from deqflow.equilibrium import (
    Anderson,
    Broyden,
    Correction,
    FixedPointIteration,
    Gradient,
    Implicit,
    NeumannPhantom,
    OneStep,
    Path,
    Phantom,
    Recorded,
    Segments,
    Solver,
    Step,
    StoppingRule,
    Unrolled,
    jacobian_penalty,
)
from deqflow.equilibrium.state import S
from deqflow.estimator import STRIDE, DEQFlow, FlowState
from deqflow.network.upsampling import extract_cells
from deqflow.training.batch import Batch, Draws
from deqflow.training.options import Stage

MAX_FLOW = 400.0
"""Pixels that move further than this do not count, as published."""


def charbonnier(difference: Tensor) -> Tensor:
    """Generalised Charbonnier penalty ``(x^2 + eps^2)^0.45``, which lets outliers go.

    Source: Sun, Roth and Black, A Quantitative Analysis of Current Practices in Optical Flow, IJCV 2014.
    """
    return (difference.square() + 1e-3**2) ** 0.45


def robust(difference: Tensor) -> Tensor:
    """``(|x| + 0.01)^0.4``, whose slope falls with the error: the pixels that can be right count most.

    Source: Sun et al., PWC-Net, CVPR 2018, eq. 2, for fine-tuning.
    """
    return (difference.abs() + 0.01) ** 0.4


DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": torch.abs,
    "charbonnier": charbonnier,
    "robust": robust,
}


def correction_loss(
    predictions: Sequence[Tensor],
    flow: Tensor,
    valid: Tensor,
    gamma: float,
    distance: Callable[[Tensor], Tensor] = torch.abs,
) -> Tensor:
    """Weighted loss over the points of the path, ``sum_i gamma^(n-1-i) mean(valid |prediction_i - flow|)``.

    Args:
        predictions: flows (B, 2, ...) in the order of the path.
        flow: (B, 2, ...) ground truth, pixels.
        valid: (B, 1, ...) float, 0 or 1.
        gamma: weight of a point relative to the next.
        distance: of each component.

    Source: Bai et al., CVPR 2022, eq. 8; the mean is over all pixels, as published.
    """
    valid = valid * (torch.hypot(flow[:, :1], flow[:, 1:]) < MAX_FLOW)  # a norm over two runs 30x slower
    flow = torch.where(valid > 0, flow, 0.0)
    losses = [(valid * distance(prediction - flow)).mean() for prediction in predictions]
    weights = [gamma ** (len(losses) - 1 - index) for index in range(len(losses))]
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()


def stillness_loss(path: Path[FlowState]) -> Tensor:
    """Mean movement of the flow in the gradient steps of the last point, full-resolution pixels.

    Where an error cannot be told from the frames, the losses of the path pull to all sides and the flow
    wanders without end; this small constant pull lets it come to rest there.
    """
    return STRIDE * (path.states[-1].flow - path.points[-1].flow).norm(dim=1).mean()


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
class PenalisedPath(Path[S]):
    """A path, and the mean Jacobian penalty at its last point."""

    penalty: Tensor


@dataclass(frozen=True)
class Penalised:
    """A correction that also measures the Jacobian at the last point of the path.

    Attributes:
        inner: where losses are taken.
        seed: of the probe vector.
    """

    inner: Correction
    seed: int

    def follow(
        self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule
    ) -> PenalisedPath[S]:
        """See ``Correction.follow``."""
        path = self.inner.follow(step, state, solver, gradient, stop)
        probes = torch.Generator(state[0].device).manual_seed(self.seed)
        penalty = jacobian_penalty(step, path.points[-1], generator=probes).mean()
        return PenalisedPath(path.points, path.states, path.residual, penalty)


@dataclass(frozen=True)
class StepMetrics:
    """Of one training step: end-point error in pixels and the residual in pixels per solver step."""

    epe: Tensor
    residual: Tensor


class CorrectionObjective(nn.Module):
    """Loss of a batch of pairs, as a module so that DistributedDataParallel can wrap it.

    Args:
        model: whose parameters are trained.
        stage: what to minimise, and how it is differentiated.
    """

    def __init__(self, model: DEQFlow, stage: Stage) -> None:
        super().__init__()
        self.model, self.stage = model, stage
        self.correction, self.gradient = choose_correction(stage), choose_gradient(stage)
        self.solver = choose_solver(stage, model)
        if stage.attach_flow is not None:
            model.config = replace(model.config, attach_flow=stage.attach_flow)

    def forward(self, batch: Batch, draws: Draws) -> tuple[Tensor, StepMetrics]:
        """Loss over the pixels drawn."""
        stage = self.stage
        correction: Correction = self.correction
        if draws.probe is not None:
            correction = Penalised(correction, draws.probe)
        path = self.model.trajectory(
            batch.image1,
            batch.image2,
            correction=correction,
            gradient=self.gradient,
            solver=self.solver,
            steps=draws.solver_steps,
            coarse_levels=draws.coarse_levels,
        )
        with autocast(batch.image1.device, self.model.precision):
            predictions = [
                self.model.upsample.cells(state.hidden, state.flow, draws.cells) for state in path.states
            ]
        target, known = (extract_cells(part, STRIDE, draws.cells) for part in (batch.flow, batch.valid))
        loss = correction_loss(predictions, target, known, stage.gamma, DISTANCES[stage.loss])
        if stage.stillness:
            loss = loss + stage.stillness * stillness_loss(path)
        if isinstance(path, PenalisedPath):
            loss = loss + stage.jacobian_weight * path.penalty
        difference = predictions[-1].detach() - target
        error = torch.hypot(difference[:, :1], difference[:, 1:])
        epe = torch.where(known > 0, error, 0.0).sum() / known.sum().clamp_min(1)
        return loss, StepMetrics(epe, path.residual[:, 0].mean())
