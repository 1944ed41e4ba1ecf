"""What the solver iterates for a pair of frames: the state, the step, and how far a step moved the state."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.geometry import forward_splat
from deqflow.network import CorrelationPyramid

STRIDE = 8
"""Pixels of a frame per pixel of the grid that the equilibrium lives on."""


class FlowState(NamedTuple):
    """What the solver iterates: hidden (B, C, H/8, W/8) and flow (B, 2, H/8, W/8) in pixels of that grid."""

    hidden: Tensor
    flow: Tensor

    def doubled(self, height: int, width: int) -> "FlowState":
        """The state of frames twice as large, whose grid is (height, width); what is beyond is cut off."""
        hidden, flow = (
            F.interpolate(part, scale_factor=2, mode="bilinear")[..., :height, :width]
            for part in (self.hidden, 2 * self.flow)
        )
        return FlowState(hidden.contiguous(memory_format=torch.channels_last), flow.contiguous())


def carry(state: FlowState) -> FlowState:
    """Carry a state along its own flow to the pixels of the next frame; holes keep what was there."""
    carried, weight = forward_splat(torch.cat((state.flow, state.hidden.float()), 1), state.flow)
    # Below half a pixel's weight it is mostly the blurred rim of a hole.
    found = weight > 0.5
    flow = torch.where(found, carried[:, :2], state.flow)
    hidden = torch.where(found, carried[:, 2:], state.hidden.float()).to(state.hidden.dtype)
    return FlowState(hidden.contiguous(memory_format=torch.channels_last), flow)


class FrameFeatures(NamedTuple):
    """An encoded frame: matching features (B, C, H/8, W/8), and the trunk that its context is made from.

    The trunk has the features' resolution, or is the frame in -1..1 where a network of its own makes the
    context, so that the second frame of a pair does not go through it. The frame itself (B, 3, H, W), of
    0..255, is kept for solves that start from the flow at half the size.
    """

    features: Tensor
    trunk: Tensor
    image: Tensor


def movement(new: FlowState, old: FlowState) -> Tensor:
    """How far one step moved each sample, (B, 3).

    Columns: RMS and 99.9th percentile over the frame of the flow's change in full-resolution pixels, and the
    change of hidden relative to its norm.
    """
    change = STRIDE * torch.linalg.vector_norm((new.flow - old.flow).float(), dim=1).flatten(1)
    rank = max(1, round(0.999 * change.shape[1]))
    peak = change.kthvalue(rank, dim=1).values
    moved = torch.linalg.vector_norm((new.hidden - old.hidden).float().flatten(1), dim=1)
    size = torch.linalg.vector_norm(new.hidden.float().flatten(1), dim=1).clamp_min(1e-12)
    return torch.stack((change.square().mean(dim=1).sqrt(), peak, moved / size), dim=1)


class UpdateStep:
    """The step function of one pair: ``step(state)``, with the correlation and context of the pair inside.

    Attributes:
        start: where a solve starts without a better idea.
    """

    def __init__(
        self,
        update: nn.Module,
        correlation: CorrelationPyramid,
        prepared: Any,
        start: FlowState,
        *,
        attach_flow: bool,
    ) -> None:
        self.update, self.correlation, self.prepared = update, correlation, prepared
        self.start, self.attach_flow = start, attach_flow

    def __call__(self, state: FlowState, active: Tensor | None = None) -> FlowState:
        """One evaluation of the update operator for the samples ``active`` (None: all)."""
        flow = state.flow if self.attach_flow else state.flow.detach()
        seen = self.correlation.lookup(flow, active)
        hidden, delta = self.update(state.hidden, flow, seen, self.prepared, active)
        return FlowState(hidden, flow + delta)
