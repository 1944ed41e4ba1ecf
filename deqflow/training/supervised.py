"""The objective of a stage whose flow is known."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deqflow.equilibrium import Correction, Trajectory
from deqflow.errors import ConfigError
from deqflow.estimator import DEQFlow
from deqflow.network.upsampling import extract_positions
from deqflow.step import FlowState
from deqflow.training.batch import Batch, StepRandomness
from deqflow.training.losses import DISTANCES, correction_loss, residual_loss, right_cells
from deqflow.training.options import Stage
from deqflow.training.paths import (
    Penalized,
    PenalizedTrajectory,
    choose_correction,
    follow,
)

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
        stage: what to minimise, and how it is differentiated.
    """

    def __init__(self, model: DEQFlow, stage: Stage) -> None:
        super().__init__()
        if stage.loss == "mixture" and model.uncertainty is None:
            raise ConfigError(f"loss mixture needs a model with an uncertainty head, {model.name} has none")
        self.model, self.stage = model, stage
        self.correction = choose_correction(stage)

    def forward(self, batch: Batch, randomness: StepRandomness) -> tuple[Tensor, StepMetrics]:
        """Loss over the pixels drawn."""
        stage = self.stage
        correction: Correction = self.correction
        if randomness.probe is not None:
            correction = Penalized(correction, randomness.probe)
        path = follow(
            self.model,
            stage,
            batch.image1,
            batch.image2,
            randomness,
            correction,
            bidirectional=batch.bidirectional,
        )
        positions, stride = randomness.subpixel_positions, self.model.config.stride
        predictions = [self.model.flow_at(state, positions) for state in path.states]
        target, known = (extract_positions(part, stride, positions) for part in batch.ground_truth())
        loss = self._loss(path, predictions, target, known, positions)
        if stage.residual_weight:
            right = None
            if stage.residual_where_right:
                right = right_cells(predictions[-1].detach(), target, known)
            loss = loss + stage.residual_weight * residual_loss(path, stride, right)
        if isinstance(path, PenalizedTrajectory):
            loss = loss + stage.jacobian_weight * path.penalty
        difference = predictions[-1].detach() - target
        error = torch.hypot(difference[:, :1], difference[:, 1:])
        epe = torch.where(known > 0, error, 0.0).sum() / known.sum()
        return loss, StepMetrics(epe, path.residual[:, 0].mean())

    def _loss(
        self,
        path: Trajectory[FlowState],
        predictions: list[Tensor],
        target: Tensor,
        known: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Of the flow along the path, and of what the model says of its own errors."""
        stage, head = self.stage, self.model.uncertainty
        if head is not None and stage.loss == "mixture":
            judged = [
                self.model.uncertainty_at(state.hidden, positions).negative_log_likelihood
                for state in path.states
            ]
            return correction_loss(predictions, target, known, stage.gamma, judged)
        loss = correction_loss(predictions, target, known, stage.gamma, DISTANCES[stage.loss])
        if head is None:
            return loss
        verdict = self.model.uncertainty_at(path.states[-1].hidden.detach(), positions)
        calibration = correction_loss(
            [predictions[-1].detach()], target, known, 1.0, verdict.negative_log_likelihood
        )
        return loss + HEAD_WEIGHT * calibration
