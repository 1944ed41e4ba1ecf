"""All-pairs correlation and its lookup (Teed and Deng, RAFT, 2020, sec. 3.2)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deqflow.geometry import coordinate_grid

LARGEST_EXACT = 2**28
"""Products of a pair that are kept in float32, 1 GiB; more are halved."""

CHUNK = 2**24
"""Products that are computed at once then."""


class _WindowRows(torch.autograd.Function):
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
    """The transpose of ``_between``."""
    place, length = place[:, None, None], gradient.shape[dim]
    shape = list(gradient.shape)
    shape[dim] += 1
    total = gradient.new_zeros(shape)
    total.narrow(dim, 0, length).addcmul_(gradient, 1 - place)
    total.narrow(dim, 1, length).addcmul_(gradient, place)
    return total


def _products(queries: Tensor, columns: Tensor) -> Tensor:
    """``queries @ columns``, (B, N, C) by (B, C, M); a large result without a graph is float16.

    It takes up most of the memory of a large pair, and is only ever interpolated in.
    """
    batch, rows, _ = queries.shape
    row = columns.shape[2]
    if torch.is_grad_enabled() or batch * rows * row <= LARGEST_EXACT or queries.element_size() <= 2:
        return queries @ columns
    result = queries.new_empty(batch, rows, row, dtype=torch.float16)
    at_once = max(1, CHUNK // (batch * row))
    for start in range(0, rows, at_once):
        result[:, start : start + at_once] = queries[:, start : start + at_once] @ columns
    return result


class CorrelationPyramid:
    """Inner products of every feature of frame 1 with every feature of frame 2, at several scales of frame 2.

    Averages of products are products with averages, so the pyramid is built from pooled features, and all
    levels lie in one matrix (B, N, M): a row holds what one position of frame 1 sees. Within a level frame 2
    runs column by column, because the window does, and every column ends in zeros, so that a window reaching
    over the border reads zeros and needs no mask.

    Args:
        features1: (B, C, H, W) of frame 1.
        features2: (B, C, H, W) of frame 2.
        levels: number of scales; level l halves frame 2 l times (2x2 averages, an odd edge dropped).
        radius: the window has (2 radius + 1)^2 positions.
    """

    def __init__(self, features1: Tensor, features2: Tensor, *, levels: int = 4, radius: int = 3) -> None:
        batch, channels, self.height, self.width = features1.shape
        self.levels, self.radius = levels, radius
        self.taps = 2 * radius + 2
        device = features1.device
        sizes, bases, columns = [], [], []
        base = self.taps  # the matrix starts with zeros: windows that miss a level altogether read them
        columns.append(features2.new_zeros(batch, channels, base))
        for _ in range(levels):
            h, w = features2.shape[-2:]
            sizes.append((w, h))
            bases.append(base)
            padded = F.pad(features2.transpose(2, 3), (0, self.taps)).flatten(2)
            columns.append(padded)
            base += padded.shape[2]
            # A level may run out of rows on small frames; nothing is seen there then.
            features2 = F.avg_pool2d(features2, 2) if min(h, w) > 1 else features2[:, :, :0, :0]
        queries = features1.flatten(2).transpose(1, 2) / math.sqrt(channels)
        self._flat = _products(queries, torch.cat(columns, dim=2)).flatten()
        # What every lookup needs: where positions of frame 1 are, where their rows of the matrix start, and
        # of each level its share of the resolution, size and place in a row.
        positions = torch.arange(batch * self.height * self.width, device=device)
        self._origins = (base * positions).view(batch, -1)
        self._grid = coordinate_grid(self.height, self.width, device=device)
        self._scales = torch.tensor([[0.5**level] for level in range(levels)], device=device)
        self._sizes = torch.tensor(sizes, device=device)
        self._bases = torch.tensor(bases, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole volume."""
        return self._flat.untyped_storage().nbytes()

    def lookup(self, flow: Tensor, active: Tensor | None = None) -> Tensor:
        """Correlations in the window around where ``flow`` points, on every level.

        Args:
            flow: (b, 2, H, W) in pixels of this grid.
            active: (b,) indices of these samples in the batch; None means all.

        Returns:
            (b, levels * (2 radius + 1)^2, H, W) float32, bilinear, zeros outside; channel
            ``l (2r+1)^2 + (dx+r) (2r+1) + (dy+r)``, the published order.
        """
        taps, radius = self.taps, self.radius
        # Far outside is as good as just outside; clamping keeps NaN and huge values out of the index.
        centre = torch.nan_to_num(flow + self._grid).permute(0, 2, 3, 1).reshape(-1, 1, 2)
        at = torch.minimum((centre * self._scales).clamp_min(-taps), self._sizes + float(taps))
        corner = at.floor()
        fraction = at - corner
        left, top = corner.long().unbind(dim=2)
        width, height = self._sizes.unbind(dim=1)
        origin = (self._origins if active is None else self._origins[active]).view(-1, 1)
        row = torch.minimum((top - radius).clamp_min(-taps), height)
        offsets = torch.arange(-radius, taps - radius, device=flow.device)
        stride = height + taps
        first = origin + self._bases + left * stride + row
        left = left[..., None]
        inside = (offsets >= -left) & (offsets < width[:, None] - left)
        start = torch.where(inside, first[..., None] + stride[:, None] * offsets, origin[..., None])
        across, down = fraction.flatten(0, 1).unbind(dim=1)
        values = _WindowRows.apply(self._flat, start.flatten(), taps).view(-1, taps, taps)
        values = _Interpolated.apply(values.float(), across, down)
        # Positions first, channels last: this view is an NCHW tensor in channels_last memory, without a copy.
        return values.reshape(flow.shape[0], self.height, self.width, -1).permute(0, 3, 1, 2)
