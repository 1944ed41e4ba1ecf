"""The correlation in few standard operations, for runtimes that know no others, and to check the variants."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from deqflow.geometry import coordinate_grid


class GridSampledCorrelation:
    """Correlation as it is defined: a volume for every level, each read by ``grid_sample``.

    It is the form that models are exported with, takes as much memory as all pairs, and is slow.

    Args:
        features1: (B, C, H, W) of frame 1.
        features2: (B, C, H, W) of frame 2.
        levels: number of scales.
        radius: the window has (2 radius + 1)^2 entries.
    """

    def __init__(self, features1: Tensor, features2: Tensor, *, levels: int = 4, radius: int = 3) -> None:
        batch, channels, height, width = features1.shape
        device = features1.device
        self.channels = levels * (2 * radius + 1) ** 2
        queries = features1.flatten(2).transpose(1, 2) / math.sqrt(channels)
        volume = (queries @ features2.flatten(2)).float().view(batch, height * width, height, width)
        self._volumes = [volume]
        for _ in range(levels - 1):
            volume = self._volumes[-1]
            # A level may run out of rows on small frames; nothing is seen there then.
            enough = min(volume.shape[2:]) > 1
            self._volumes.append(F.avg_pool2d(volume, 2) if enough else volume[..., :0, :0])
        self._grid = coordinate_grid(height, width, device=device)
        offset = torch.arange(-radius, radius + 1, device=device, dtype=torch.float32)
        self._window = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), dim=-1).view(1, -1, 2)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the volumes."""
        return sum(volume.nbytes for volume in self._volumes)

    def lookup(self, flow: Tensor, active: Tensor | None = None) -> Tensor:
        """Return the correlations around where ``flow`` points; see ``Correlation.lookup``."""
        batch, _, height, width = flow.shape
        # Far outside is as good as just outside, and NaN would be read as some place inside.
        far = 4.0 * (height + width)
        center = torch.nan_to_num(flow + self._grid, nan=0.0).clamp(-far, far)
        center = center.permute(0, 2, 3, 1).reshape(batch * height * width, 1, 2)
        seen = []
        for level, volume in enumerate(self._volumes):
            if volume.shape[2] == 0:
                seen.append(flow.new_zeros(batch * height * width, self._window.shape[1]))
                continue
            chosen = volume if active is None else volume[active]
            rows, columns = volume.shape[2:]
            at = center / 2**level + self._window
            # As grid_sample wants positions, -1 and 1 at the outer edges of the outer pixels.
            x, y = (
                (2 * part + 1) / size - 1 for part, size in zip(at.unbind(2), (columns, rows), strict=True)
            )
            place = torch.stack((x, y), dim=2).unsqueeze(1)
            found = F.grid_sample(
                chosen.reshape(-1, 1, rows, columns), place, padding_mode="zeros", align_corners=False
            )
            seen.append(found.flatten(1))
        return torch.cat(seen, dim=1).view(batch, height, width, -1).permute(0, 3, 1, 2)
