"""From an eighth of the resolution to all of it."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.network.positions import by_position
from deqflow.network.sizes import require_sizes


class ConvexUpsampling(nn.Module):
    """Every full-resolution pixel is a learned convex combination of the 3x3 coarse flows around it.

    Source: Teed and Deng, RAFT, 2020, sec. 3.3 and appendix.

    Args:
        hidden: channels of the hidden state.
        width: channels of the mask head.
        factor: upsampling factor.
    """

    def __init__(self, *, hidden: int = 96, width: int = 128, factor: int = 8) -> None:
        super().__init__()
        self.factor = factor
        self.mask = nn.Sequential(
            nn.Conv2d(hidden, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 9 * factor**2, 1)
        )

    def forward(self, hidden: Tensor, flow: Tensor) -> Tensor:
        """Flow (B, 2, H, W) in coarse pixels -> (B, 2, H * factor, W * factor) in fine pixels."""
        fine = self.at_positions(hidden, flow)
        batch, _, height, width = flow.shape
        fine = fine.view(batch, 2, self.factor, self.factor, height, width).permute(0, 1, 4, 2, 5, 3)
        return fine.reshape(batch, 2, height * self.factor, width * self.factor)

    def at_positions(self, hidden: Tensor, flow: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the fine flows sorted by their place inside a coarse pixel, float32.

        Training takes its loss on a random few of the ``factor``^2 places: an unbiased estimate of the loss
        over all pixels at a fraction of what full-resolution maps cost.

        Args:
            hidden: (B, hidden, H, W).
            flow: (B, 2, H, W) in coarse pixels.
            positions: (K,) subpixel positions ``factor * row + column``; None means all.

        Returns:
            (B, 2, K, H, W) in fine pixels.
        """
        last = self.mask[2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        weight, bias = (part.unflatten(0, (9, -1)) for part in (last.weight.flatten(1), last.bias))
        if positions is not None:
            weight, bias = weight[:, positions], bias[:, positions]

        def combined(features: Tensor, around: Tensor) -> Tensor:
            """Features (N, width), flows around (N, 2 * 9) -> fine flows (N, 2 * K)."""
            logits = 0.25 * F.linear(features, weight.flatten(0, 1), bias.flatten())
            mask = torch.softmax(logits.float().unflatten(1, (1, 9, -1)), dim=2)
            return (mask * around.view(-1, 2, 9, 1)).sum(dim=2).flatten(1)

        around = F.unfold(self.factor * flow.float(), 3, padding=1).unflatten(2, flow.shape[2:])
        return by_position(combined, self.mask[:2](hidden), around).unflatten(1, (2, -1))


class BilinearUpsampling(nn.Module):
    """Bilinear interpolation between the corners of the frame, without parameters (RAFT-small).

    Args:
        factor: upsampling factor.
    """

    def __init__(self, *, factor: int = 8) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, hidden: Tensor, flow: Tensor) -> Tensor:
        """Flow (B, 2, H, W) in coarse pixels -> (B, 2, H * factor, W * factor) in fine pixels."""
        size = (self.factor * flow.shape[2], self.factor * flow.shape[3])
        return F.interpolate(self.factor * flow.float(), size, mode="bilinear", align_corners=True)

    def at_positions(self, hidden: Tensor, flow: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the fine flows by position inside a coarse pixel, as ``ConvexUpsampling.at_positions``."""
        if positions is None:
            positions = torch.arange(self.factor**2, device=flow.device)
        return extract_positions(self(hidden, flow), self.factor, positions)


@dataclass(frozen=True, kw_only=True)
class ConvexConfig:
    """Sizes of a ``ConvexUpsampling``.

    Attributes:
        width: channels of its mask head.
    """

    width: int = 128
    kind: str = field(default="convex", init=False)

    def __post_init__(self) -> None:
        require_sizes("upsampling", width=self.width)

    def build(self, *, hidden: int, factor: int) -> ConvexUpsampling:
        """Return the upsampling, by ``factor``."""
        return ConvexUpsampling(hidden=hidden, width=self.width, factor=factor)


@dataclass(frozen=True, kw_only=True)
class BilinearConfig:
    """A ``BilinearUpsampling``; it has no sizes."""

    kind: str = field(default="bilinear", init=False)

    def build(self, *, hidden: int, factor: int) -> BilinearUpsampling:
        """Return the upsampling, by ``factor``."""
        return BilinearUpsampling(factor=factor)


def extract_positions(full: Tensor, factor: int, positions: Tensor) -> Tensor:
    """Pixels (B, C, H, W) at these positions of every coarse pixel, (B, C, K, H / factor, W / factor)."""
    batch, channels, height, width = full.shape
    blocks = full.view(batch, channels, height // factor, factor, width // factor, factor)
    blocks = blocks.permute(0, 1, 3, 5, 2, 4).reshape(
        batch, channels, factor**2, height // factor, width // factor
    )
    return blocks[:, :, positions]
