"""All-pairs correlation and its lookup (Teed and Deng, RAFT, 2020, sec. 3.2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from deqflow.network.correlation.windows import WindowGrid, copy_runs, feature_pyramid, interpolate


class AllPairsCorrelation:
    """Correlation whose products are all made in advance: memory square in the number of positions.

    Averages of products are products with averages, so the pyramid is built from pooled features, and all
    levels lie in one matrix (B, N, M): a row holds what one position of frame 1 sees. Within a level frame 2
    runs column by column, because the window does, and every column ends in zeros, so that a window reaching
    over the border reads zeros and needs no mask.

    Args:
        features1: (B, C, H, W) of frame 1.
        features2: (B, C, H, W) of frame 2.
        levels: number of scales.
        radius: the window has (2 radius + 1)^2 entries.
    """

    def __init__(self, features1: Tensor, features2: Tensor, *, levels: int = 4, radius: int = 3) -> None:
        batch, channels, self.height, self.width = features1.shape
        pyramid = feature_pyramid(features2, levels)
        self._windows = WindowGrid(pyramid, radius)
        self.channels = levels * (2 * radius + 1) ** 2
        taps = self._windows.taps
        bases = []
        base = taps  # the matrix starts with zeros: windows that miss a level altogether read them
        columns = [features2.new_zeros(batch, channels, base)]
        for level in pyramid:
            bases.append(base)
            columns.append(F.pad(level.transpose(2, 3), (0, taps)).flatten(2))
            base += columns[-1].shape[2]
        queries = features1.flatten(2).transpose(1, 2) / math.sqrt(channels)
        self._flat = (queries @ torch.cat(columns, dim=2)).flatten()
        # What every lookup needs: where the rows of the matrix start, and in a row the levels.
        device = features1.device
        positions = torch.arange(batch * self.height * self.width, device=device)
        self._origins = (base * positions).view(batch, -1)
        self._bases = torch.tensor(bases, device=device)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the whole volume."""
        return self._flat.untyped_storage().nbytes()

    def lookup(self, flow: Tensor, active: Tensor | None = None) -> Tensor:
        """Return the correlations around where ``flow`` points; see ``Correlation.lookup``."""
        taps = self._windows.taps
        start, fraction = self._windows.around(flow)
        left, top = start.unbind(dim=2)
        width, height = self._windows.sizes.unbind(dim=1)
        origin = (self._origins if active is None else self._origins[active]).view(-1, 1)
        columns = torch.arange(taps, device=flow.device)
        stride = height + taps
        first = origin + self._bases + left * stride + top
        left = left[..., None]
        inside = (columns >= -left) & (columns < width[:, None] - left)
        run = torch.where(inside, first[..., None] + stride[:, None] * columns, origin[..., None])
        values = copy_runs(self._flat, run.flatten(), taps).view(-1, taps, taps)
        entries = interpolate(values.float(), fraction.flatten(0, 1))
        # Positions first, channels last: this view is an NCHW tensor in channels_last memory, without a copy.
        return entries.reshape(flow.shape[0], self.height, self.width, -1).permute(0, 3, 1, 2)
