"""Distances between flows, and the losses made of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deqflow.equilibrium import Trajectory
from deqflow.step import FlowState

MAX_FLOW = 400.0
"""Pixels that move further than this do not count, as published."""

RIGHT_PIXELS, RIGHT_SHARE = 1.0, 0.05
"""End-point error below which a flow counts as right: pixels, or a share of the true motion."""


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
    distances: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]] = torch.abs,
) -> Tensor:
    """Weighted loss over the points of the path, ``sum_i gamma^(n-1-i) mean(valid |prediction_i - flow|)``.

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
    """Mean movement of the flow in the gradient steps of the last point, full-resolution pixels.

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
    """Coarse pixels (B, H, W) whose flow is right: at every known place looked at, and at one at least.

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
