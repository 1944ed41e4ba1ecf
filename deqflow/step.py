"""What the solver iterates for a pair at one scale: the state, the step, and how far a step moved."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.network import Correlation


class FlowState(NamedTuple):
    """What the solver iterates: hidden (B, C, H/s, W/s) and flow (B, 2, H/s, W/s) in pixels of that grid.

    The stride s is that of the scale that is solved.
    """

    hidden: Tensor
    flow: Tensor

    def where(self, mask: Tensor, other: "FlowState") -> "FlowState":
        """Return this state where the mask (B, 1, H/s, W/s) is true, ``other`` elsewhere."""
        hidden = torch.where(mask, self.hidden, other.hidden).contiguous(memory_format=torch.channels_last)
        return FlowState(hidden, torch.where(mask, self.flow, other.flow))

    def enlarged(self, factor: int, size: tuple[int, int]) -> "FlowState":
        """Return the state on a grid ``factor`` times as fine, cut to ``size`` (height, width)."""
        height, width = size
        hidden, flow = (
            F.interpolate(part, scale_factor=factor, mode="bilinear")[..., :height, :width]
            for part in (self.hidden, factor * self.flow)
        )
        return FlowState(hidden.contiguous(memory_format=torch.channels_last), flow.contiguous())

    def reduced_flow(self, factor: int) -> Tensor:
        """Return the flow on a grid ``factor`` times as coarse, of cells' means."""
        return F.avg_pool2d(self.flow, factor, ceil_mode=True) / factor

    def near(self, flow: Tensor, distance: float) -> "FlowState":
        """Return the state with another flow where that is no farther away in pixels of the grid; NaN is."""
        close = (flow - self.flow).norm(dim=1, keepdim=True) <= distance
        return self._replace(flow=torch.where(close, flow, self.flow))

    def fitted(self, start: "FlowState") -> "FlowState":
        """Return the state on the device and in the type of another start of the same solve."""
        hidden, flow = self.hidden.to(start.hidden), self.flow.to(start.flow)
        if torch.is_grad_enabled() and (hidden.is_inference() or flow.is_inference()):
            hidden, flow = hidden.clone(), flow.clone()  # autograd takes no tensors of inference mode
        return FlowState(hidden, flow)


@dataclass(frozen=True)
class Movement:
    """The residual of a solve: how far one step moved each sample, ``movement(new, old)`` -> (B, 3).

    Columns: RMS and 99.9th percentile over the frame of the flow's change in full-resolution pixels, and the
    change of hidden relative to its norm.

    Attributes:
        stride: full-resolution pixels per pixel of the state's grid.
    """

    stride: int

    def __call__(self, new: FlowState, old: FlowState) -> Tensor:
        """Measure a step from ``old`` to ``new``."""
        change = self.stride * torch.hypot(*(new.flow - old.flow).float().unbind(dim=1)).flatten(1)
        beyond = change.shape[1] - max(1, round(0.999 * change.shape[1])) + 1
        peak = change.topk(beyond, dim=1).values[:, -1]
        # Over all dimensions at once: flattening hidden, whose channels lie last in memory, would copy it.
        moved = torch.linalg.vector_norm((new.hidden - old.hidden).float(), dim=(1, 2, 3))
        size = torch.linalg.vector_norm(new.hidden.float(), dim=(1, 2, 3)).clamp_min(1e-12)
        return torch.stack((change.square().mean(dim=1).sqrt(), peak, moved / size), dim=1)


class UpdateStep:
    """The step function of one pair at one scale: ``step(state)``, the pair's correlation and context inside.

    Attributes:
        correlation: of the two frames.
        start: where a solve starts without a better idea.
    """

    def __init__(
        self,
        update: nn.Module,
        correlation: Correlation,
        prepared: Any,
        start: FlowState,
        *,
        attach_flow: bool = False,
    ) -> None:
        self.update, self.correlation, self.prepared = update, correlation, prepared
        self.start, self.attach_flow = start, attach_flow

    def __call__(self, state: FlowState, active: Tensor | None = None) -> FlowState:
        """One evaluation of the update operator for the samples ``active`` (None: all)."""
        flow = state.flow if self.attach_flow else state.flow.detach()
        hidden, delta = self.update(
            state.hidden, flow, self.correlation.lookup(flow, active), self.prepared, active
        )
        return FlowState(hidden, flow + delta)
