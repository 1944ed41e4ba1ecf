"""What is minimized where flow is known: distances along the solver's path, and the losses made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deqflow.equilibrium import Trajectory
from deqflow.errors import ConfigError
from deqflow.estimator import DEQFlow
from deqflow.network.upsampling import extract_positions
from deqflow.step import FlowState
from deqflow.training.data import Batch
from deqflow.training.options import SupervisedOptions
from deqflow.training.starts import PenalizedTrajectory, StepRandomness, follow

MAX_FLOW = 400.0
"""Pixels that move further than this do not count, as published."""

RIGHT_PIXELS, RIGHT_SHARE = 1.0, 0.05
"""End-point error below which a flow counts as right: pixels, or a share of the true motion."""

HEAD_WEIGHT = 0.1
"""Of the uncertainty head's own loss: it meets no other gradient, only the limit on the norm of all."""


@dataclass(frozen=True)
class StepMetrics:
    """Of one training step: end-point error in pixels (NaN if none is known), residual in pixels per step."""

    epe: Tensor
    residual: Tensor


class CorrectionObjective(nn.Module):
    """Loss of a batch of pairs, as a module so that DistributedDataParallel can wrap it.

    Args:
        model: whose parameters are trained.
        options: what to minimize, and how it is differentiated.

    Raises:
        ConfigError: the loss is that of an uncertainty head, and the model has none.
    """

    def __init__(self, model: DEQFlow, options: SupervisedOptions) -> None:
        super().__init__()
        if options.loss == "mixture" and model.uncertainty is None:
            raise ConfigError(f"loss mixture needs a model with an uncertainty head, {model.name} has none")
        self.model, self.options = model, options

    def forward(self, batch: Batch, randomness: StepRandomness) -> tuple[Tensor, StepMetrics]:
        """Compute the loss over the pixels drawn, and what to report of the step."""
        options = self.options
        images = (batch.image1, batch.image2)
        path = follow(
            self.model,
            options,
            *images,
            randomness,
            bidirectional=batch.bidirectional,
            before=batch.before,
        )
        stride = randomness.stride(self.model.config)
        positions = randomness.positions(stride)
        predictions = [self._flow_at(state, positions, stride) for state in path.states]
        target, known = (extract_positions(part, stride, positions) for part in batch.ground_truth())
        finest = stride == self.model.config.stride
        loss = self._loss(path, predictions, target, known, positions if finest else None)
        if options.residual_weight:
            right = None
            if options.residual_where_right:
                right = right_cells(predictions[-1].detach(), target, known)
            loss = loss + options.residual_weight * residual_loss(path, stride, right)
        if isinstance(path, PenalizedTrajectory):
            loss = loss + options.jacobian_weight * path.penalty
        difference = predictions[-1].detach() - target
        error = torch.hypot(difference[:, :1], difference[:, 1:])
        epe = torch.where(known > 0, error, 0.0).sum() / known.sum()
        return loss, StepMetrics(epe, path.residual[:, 0].mean())

    def _flow_at(self, state: FlowState, positions: Tensor, stride: int) -> Tensor:
        """Return full-resolution flow (B, 2, K, H/s, W/s) of a state at K positions in each of its cells."""
        if stride < self.model.config.stride:
            return extract_positions(self.model.flow_at(state, scale=stride), stride, positions)
        return self.model.flow_at(state, positions, scale=stride)

    def _loss(
        self,
        path: Trajectory[FlowState],
        predictions: list[Tensor],
        target: Tensor,
        known: Tensor,
        positions: Tensor | None,
    ) -> Tensor:
        """Judge the flow along the path, and at the finest scale what the model says of its own errors."""
        options, head = self.options, self.model.uncertainty
        if head is not None and positions is not None and options.loss == "mixture":
            judged = [
                self.model.uncertainty_at(state.hidden, positions).negative_log_likelihood
                for state in path.states
            ]
            return correction_loss(predictions, target, known, options.gamma, judged)
        distance = DISTANCES["l1" if options.loss == "mixture" else options.loss]
        loss = correction_loss(predictions, target, known, options.gamma, distance)
        if head is None or positions is None:
            return loss
        verdict = self.model.uncertainty_at(path.states[-1].hidden.detach(), positions)
        calibration = correction_loss(
            [predictions[-1].detach()], target, known, 1.0, verdict.negative_log_likelihood
        )
        return loss + HEAD_WEIGHT * calibration

    @staticmethod
    def error_of(batch: Batch, flow: Tensor) -> Tensor:
        """Return the mean end-point error over the valid pixels of a batch; NaN if there are none."""
        distance = torch.where(batch.valid > 0, (flow - batch.flow).norm(dim=1, keepdim=True), 0.0)
        return distance.sum() / batch.valid.sum()


def charbonnier(difference: Tensor) -> Tensor:
    """Return the generalized Charbonnier penalty ``(x^2 + eps^2)^0.45``, which lets outliers go.

    Source: Sun, Roth and Black, A Quantitative Analysis of Current Practices in Optical Flow, IJCV 2014.
    """
    return (difference.square() + 1e-3**2) ** 0.45


def robust(difference: Tensor) -> Tensor:
    """Return ``(|x| + 0.01)^0.4``, whose slope falls with the error: the pixels that can be right count most.

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
    distances: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]] = torch.abs,
) -> Tensor:
    """Weight the losses of the path's points, ``sum_i gamma^(n-1-i) mean(valid |prediction_i - flow|)``.

    Args:
        predictions: flows (B, 2, ...) in the order of the path.
        flow: (B, 2, ...) ground truth, pixels.
        valid: (B, 1, ...) float, 0 or 1.
        gamma: weight of a point relative to the next.
        distances: of each component; one for all points, or one for each.

    Source: Bai et al., CVPR 2022, eq. 8; the mean is over all pixels, as published.
    """
    valid = valid * (torch.hypot(flow[:, :1], flow[:, 1:]) < MAX_FLOW)  # a norm over two runs 30x slower
    flow = torch.where(valid > 0, flow, 0.0)
    if not isinstance(distances, Sequence):
        distances = [distances] * len(predictions)
    losses = [
        (valid * distance(prediction - flow)).mean()
        for prediction, distance in zip(predictions, distances, strict=True)
    ]
    weights = [gamma ** (len(losses) - 1 - index) for index in range(len(losses))]
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()


def residual_loss(path: Trajectory[FlowState], stride: int, counted: Tensor | None = None) -> Tensor:
    """Return the mean movement of the flow in the gradient steps of the last point, full-resolution pixels.

    Where an error cannot be told from the frames, the losses of the path pull to all sides and the flow
    wanders without end; this small constant pull lets it come to rest there.

    Args:
        path: points and states of a solve.
        stride: of their grid.
        counted: (B, H, W) bool, coarse pixels whose movement counts; the mean is over all of them all the
            same, so that none weighs more for it. None counts every one.
    """
    moved = stride * (path.states[-1].flow - path.points[-1].flow).norm(dim=1)
    return moved.mean() if counted is None else (moved * counted).mean()


def right_cells(prediction: Tensor, flow: Tensor, known: Tensor) -> Tensor:
    """Return which coarse pixels (B, H, W) are right, at every known place looked at and at one at least.

    Right is an end-point error below a pixel or 5 % of the true motion, whichever is more. A residual loss on
    the others would reward a state that comes to rest at a wrong flow.

    Args:
        prediction: (B, 2, K, H, W), pixels, at K places inside each coarse pixel.
        flow: (B, 2, K, H, W) ground truth.
        known: (B, 1, K, H, W) float, 0 or 1.
    """
    error = torch.hypot(*(prediction - flow).unbind(dim=1))
    allowed = (RIGHT_SHARE * torch.hypot(*flow.unbind(dim=1))).clamp_min(RIGHT_PIXELS)
    told = known[:, 0] > 0
    return ((error < allowed) | ~told).all(dim=1) & told.any(dim=1)
