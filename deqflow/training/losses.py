"""What training minimises."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deqflow.devices import autocast
from deqflow.equilibrium import OneStep, Path, Recorded
from deqflow.estimator import STRIDE, DEQFlow, FlowState
from deqflow.network.upsampling import extract_cells

MAX_FLOW = 400.0
"""Pixels that move further than this do not count, as published."""


def correction_loss(predictions: Sequence[Tensor], flow: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Weighted L1 over the points of the path, ``sum_i gamma^(n-1-i) mean(valid |prediction_i - flow|)``.

    Args:
        predictions: flows (B, 2, ...) in the order of the path.
        flow: (B, 2, ...) ground truth, pixels.
        valid: (B, 1, ...) float, 0 or 1.
        gamma: weight of a point relative to the next.

    Source: Bai et al., CVPR 2022, eq. 8; the mean is over all pixels, as published.
    """
    valid = valid * (flow.norm(dim=1, keepdim=True) < MAX_FLOW)
    flow = torch.where(valid > 0, flow, 0.0)
    losses = [(valid * (prediction - flow).abs()).mean() for prediction in predictions]
    weights = [gamma ** (len(losses) - 1 - index) for index in range(len(losses))]
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()


def stillness_loss(path: Path[FlowState]) -> Tensor:
    """Mean movement of the flow in the gradient steps of the last point, full-resolution pixels.

    Where an error cannot be told from the frames, the losses of the path pull to all sides and the flow
    wanders without end; this small constant pull lets it come to rest there.
    """
    return STRIDE * (path.states[-1].flow - path.points[-1].flow).norm(dim=1).mean()


@dataclass(frozen=True)
class StepMetrics:
    """Of one training step: end-point error in pixels and the residual in pixels per solver step."""

    epe: Tensor
    residual: Tensor


class CorrectionObjective(nn.Module):
    """Loss of a batch of pairs, as a module so that DistributedDataParallel can wrap it."""

    def __init__(self, model: DEQFlow, *, corrections: int, gamma: float, stillness: float) -> None:
        super().__init__()
        self.model = model
        self.correction = Recorded(count=corrections)
        self.gamma, self.stillness = gamma, stillness

    def forward(
        self, image1: Tensor, image2: Tensor, flow: Tensor, valid: Tensor, chosen: Tensor, steps: int
    ) -> tuple[Tensor, StepMetrics]:
        """Loss over the chosen pixels.

        Args:
            image1: (B, 3, H, W) of 0..255.
            image2: (B, 3, H, W).
            flow: (B, 2, H, W).
            valid: (B, 1, H, W) float.
            chosen: (K,) places inside an 8x8 cell, see ``ConvexUpsampling.cells``.
            steps: solver steps.
        """
        path = self.model.trajectory(
            image1,
            image2,
            correction=self.correction,
            gradient=OneStep(),
            solver=self.model.defaults.solver,
            steps=steps,
        )
        with autocast(image1.device, self.model.precision):
            predictions = [
                self.model.upsample.cells(state.hidden, state.flow, chosen) for state in path.states
            ]
        target, known = extract_cells(flow, STRIDE, chosen), extract_cells(valid, STRIDE, chosen)
        loss = correction_loss(predictions, target, known, self.gamma) + self.stillness * stillness_loss(path)
        error = (predictions[-1].detach() - target).norm(dim=1, keepdim=True)
        epe = torch.where(known > 0, error, 0.0).sum() / known.sum().clamp_min(1)
        return loss, StepMetrics(epe, path.residual[:, 0].mean())
