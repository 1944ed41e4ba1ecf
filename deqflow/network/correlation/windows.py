"""Windows of a lookup: where they lie on every level, how they are copied and interpolated."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deqflow.geometry import coordinate_grid


def feature_pyramid(features: Tensor, levels: int) -> list[Tensor]:
    """Return features (B, C, H, W) at ``levels`` scales, by 2x2 averages that drop an odd edge."""
    pyramid = [features]
    while len(pyramid) < levels:
        features = pyramid[-1]
        # A level may run out of rows on small frames; nothing is seen there then.
        enough = min(features.shape[-2:]) > 1
        pyramid.append(F.avg_pool2d(features, 2) if enough else features[:, :, :0, :0])
    return pyramid


class Windows(NamedTuple):
    """Windows of N positions on L levels, x before y.

    Attributes:
        start: (N, L, 2) integer position of the first entry, from -taps (all before the level) to the level's
            size (all beyond it).
        fraction: (N, L, 2) how far, in 0..1, each entry lies towards the next.
    """

    start: Tensor
    fraction: Tensor


class WindowGrid:
    """Windows around where a flow points on every level of a pyramid.

    Args:
        pyramid: features of frame 2 on every level, the finest first.
        radius: a window has (2 radius + 1)^2 entries, each between integer positions, of which there is one
            more a side: ``taps``.
    """

    def __init__(self, pyramid: list[Tensor], radius: int) -> None:
        self.radius, self.taps = radius, 2 * radius + 2
        height, width = pyramid[0].shape[-2:]
        device = pyramid[0].device
        self.sizes = torch.tensor([level.shape[:-3:-1] for level in pyramid], device=device)
        self._scales = torch.tensor([[0.5**level] for level in range(len(pyramid))], device=device)
        self._grid = coordinate_grid(height, width, device=device)

    def around(self, flow: Tensor) -> Windows:
        """Return the windows of every position of ``flow`` (B, 2, H, W), N = B * H * W."""
        # Far outside is as good as just outside; clamping keeps NaN and huge values out of the index.
        center = torch.nan_to_num(flow + self._grid).permute(0, 2, 3, 1).reshape(-1, 1, 2)
        at = torch.minimum((center * self._scales).clamp_min(-self.taps), self.sizes + float(self.taps))
        corner = at.floor()
        start = torch.minimum((corner.long() - self.radius).clamp_min(-self.taps), self.sizes)
        return Windows(start, at - corner)


def copy_runs(flat: Tensor, starts: Tensor, length: int) -> Tensor:
    """Return runs (N, length) of consecutive values of ``flat``, beginning at ``starts`` (N,)."""
    runs: Tensor = _Runs.apply(flat, starts, length)
    return runs


class _Runs(torch.autograd.Function):
    """Copies runs of ``length`` consecutive values out of a flat tensor.

    Overlapping rows as one strided view make the lookup a plain row copy, five times faster on a CPU than
    gathering single values; the price is this hand-written backward pass.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, starts: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(starts)
        ctx.length, ctx.size, ctx.dtype = length, flat.numel(), flat.dtype
        rows = flat.as_strided((flat.numel() - length + 1, length), (1, 1))
        return rows.index_select(0, starts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (starts,) = ctx.saved_tensors
        index = (starts[:, None] + torch.arange(ctx.length, device=starts.device)).flatten()
        total = torch.zeros(ctx.size, dtype=torch.float32, device=gradient.device)
        total.scatter_add_(0, index, gradient.flatten().float())
        return total.to(ctx.dtype), None, None


def interpolate(values: Tensor, fraction: Tensor) -> Tensor:
    """Return (N, taps - 1, taps - 1) entries between ``values`` (N, taps, taps), columns of a window by rows.

    Args:
        values: correlations at integer positions.
        fraction: (N, 2) of ``Windows``.
    """
    across, down = fraction.unbind(dim=1)
    entries: Tensor = _Interpolated.apply(values, across, down)
    return entries


class _Interpolated(torch.autograd.Function):
    """Values (N, taps, taps) between their rows, the last dimension, and between their columns.

    Its backward pass fills two tensors in place, where the chain of slices and interpolations that it stands
    for takes seven. It is made of differentiable operations, so that it has a gradient in turn.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, across: Tensor, down: Tensor) -> Tensor:
        ctx.save_for_backward(across, down, values if ctx.needs_input_grad[1] else None)
        return _between(_between(values, down, 2), across, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        (gradient,) = gradients
        across, down, values = ctx.saved_tensors
        columns = _shared_out(gradient, across, 1)
        whole = _shared_out(columns, down, 2)
        if values is None:
            return whole, None, None
        moved_across = (gradient * _between(values, down, 2).diff(dim=1)).sum(dim=(1, 2))
        moved_down = (columns * values.diff(dim=2)).sum(dim=(1, 2))
        return whole, moved_across, moved_down


def _between(values: Tensor, place: Tensor, dim: int) -> Tensor:
    """Interpolate between each entry along ``dim`` and the next."""
    last = values.shape[dim] - 1
    return torch.lerp(values.narrow(dim, 0, last), values.narrow(dim, 1, last), place[:, None, None])


def _shared_out(gradient: Tensor, place: Tensor, dim: int) -> Tensor:
    """Return the transpose of ``_between``."""
    place, length = place[:, None, None], gradient.shape[dim]
    shape = list(gradient.shape)
    shape[dim] += 1
    total = gradient.new_zeros(shape)
    total.narrow(dim, 0, length).addcmul_(gradient, 1 - place)
    total.narrow(dim, 1, length).addcmul_(gradient, place)
    return total
