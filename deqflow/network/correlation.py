"""All-pairs correlation and its lookup (Teed and Deng, RAFT, 2020, sec. 3.2)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deqflow.geometry import coordinate_grid


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
        total.index_add_(0, index, gradient.flatten().float())
        return total.to(ctx.dtype), None, None


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
        columns, self._sizes, self._bases = [], [], []
        base = self.taps  # the matrix starts with zeros: windows that miss a level altogether read them
        columns.append(features2.new_zeros(batch, channels, base))
        for _ in range(levels):
            h, w = features2.shape[-2:]
            self._sizes.append((h, w))
            self._bases.append(base)
            padded = F.pad(features2.transpose(2, 3), (0, self.taps)).flatten(2)
            columns.append(padded)
            base += padded.shape[2]
            # A level may run out of rows on small frames; nothing is seen there then.
            features2 = F.avg_pool2d(features2, 2) if min(h, w) > 1 else features2[:, :, :0, :0]
        queries = features1.flatten(2).transpose(1, 2) / math.sqrt(channels)
        self.row_length = base
        self._flat = (queries @ torch.cat(columns, dim=2)).flatten()

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
        batch, positions, taps = flow.shape[0], self.height * self.width, self.taps
        centre = flow + coordinate_grid(self.height, self.width, device=flow.device)
        x, y = centre[:, 0].flatten(), centre[:, 1].flatten()
        samples = torch.arange(batch, device=flow.device) if active is None else active
        origin = (
            samples[:, None] * positions + torch.arange(positions, device=flow.device)
        ) * self.row_length
        starts, fractions = [], []
        offsets = torch.arange(taps, device=flow.device) - self.radius
        for level, ((h, w), base) in enumerate(zip(self._sizes, self._bases, strict=True)):
            # Far outside is as good as just outside; clamping keeps NaN and huge values out of the index.
            at_x = torch.nan_to_num(x / 2**level).clamp(-taps, w + taps)
            at_y = torch.nan_to_num(y / 2**level).clamp(-taps, h + taps)
            left, top = at_x.floor(), at_y.floor()
            fractions.append(torch.stack((at_x - left, at_y - top), dim=1))
            column = left.long()[:, None] + offsets
            row = (top.long() - self.radius).clamp(-taps, h)[:, None]
            inside = (column >= 0) & (column < w)
            starts.append(torch.where(inside, base + column * (h + taps) + row, 0))
        start = torch.stack(starts, dim=1) + origin.flatten()[:, None, None]
        values = _WindowRows.apply(self._flat, start.flatten(), taps)
        values = values.view(-1, self.levels, taps, taps).float()
        fraction = torch.stack(fractions, dim=1)[..., None]
        values = torch.lerp(values[..., :-1], values[..., 1:], fraction[:, :, 1:])
        values = torch.lerp(values[:, :, :-1], values[:, :, 1:], fraction[:, :, :1])
        # Positions first, channels last: this view is an NCHW tensor in channels_last memory, without a copy.
        return values.reshape(batch, self.height, self.width, -1).permute(0, 3, 1, 2)
