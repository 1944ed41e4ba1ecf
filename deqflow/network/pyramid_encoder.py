"""Frames to features at several strides, from one encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.errors import ConfigError
from deqflow.network.encoder import RELU_GAIN, ResidualBlock, StandardizedConv2d, center_and_scale
from deqflow.network.sizes import require_sizes


class PyramidEncoder(nn.Module):
    """Features and context at strides that double, fused from coarse to fine.

    A 7x7 stem of stride 2 keeps what is a pixel or two wide; residual stages follow, each at twice the stride
    of the one before. On the way back a coarser level is added to the next finer one, so that fine features
    know what they belong to (Lin et al., Feature Pyramid Networks, CVPR 2017).

    Args:
        stem: channels at stride 2.
        widths: channels of the stages at strides 4, 8, 16, ...
        depths: residual blocks in each.
        fused: channels of every level after fusion.
        features: channels of the matching features of every level.
        context: channels of the context of every level.
    """

    def __init__(
        self,
        *,
        stem: int = 32,
        widths: Sequence[int] = (64, 96, 128),
        depths: Sequence[int] = (2, 2, 2),
        fused: int = 96,
        features: int = 128,
        context: int = 64,
    ) -> None:
        super().__init__()
        self.stem = StandardizedConv2d(3, stem, 7, stride=2)
        # Neighboring pixels are alike, so zero-mean filters see little of an image's spread.
        nn.init.constant_(self.stem.gain, 4.0)
        before = (stem, *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(before[level], width, stride=2),
                *(ResidualBlock(width, width) for _ in range(depths[level] - 1)),
            )
            for level, width in enumerate(widths)
        )
        self.lateral = nn.ModuleList(StandardizedConv2d(width, fused, 1) for width in widths)
        self.smooth = nn.ModuleList(ResidualBlock(fused, fused) for _ in widths[:-1])
        self.feature_heads = nn.ModuleList(nn.Conv2d(fused, features, 1) for _ in widths)
        self.context_heads = nn.ModuleList(
            nn.Sequential(ResidualBlock(fused, fused), nn.Conv2d(fused, context, 1)) for _ in widths
        )

    def forward(self, image: Tensor, count: int | None = None) -> tuple[tuple[Tensor, Tensor], ...]:
        """Image (B, 3, H, W) in -1..1 -> features and trunk, (B, C, H/s, W/s) each, coarse strides first.

        ``count`` levels, the coarsest, are fused at all; None is every one.
        """
        levels, x = [], F.relu_(self.stem(image, RELU_GAIN))
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        found: list[tuple[Tensor, Tensor]] = []
        fused: Tensor | None = None
        for level in range(len(levels) - 1, -1, -1)[:count]:
            own = self.lateral[level](levels[level], RELU_GAIN)
            if fused is None:
                fused = F.relu(own)
            else:
                size = own.shape[2:]
                coarser = F.interpolate(fused, scale_factor=2.0, mode="bilinear")[..., : size[0], : size[1]]
                fused = self.smooth[level](F.relu(own + coarser))
            trunk = center_and_scale(fused)
            found.append((center_and_scale(self.feature_heads[level](trunk)), trunk))
        return tuple(found)

    def context(self, trunk: Tensor, level: int) -> tuple[Tensor, None]:
        """Context (B, C, H/s, W/s) from the trunk of a level, 0 the coarsest; hidden starts at zeros."""
        return F.relu(self.context_heads[-1 - level](trunk)), None


@dataclass(frozen=True, kw_only=True)
class PyramidEncoderConfig:
    """Sizes of a ``PyramidEncoder``; its arguments of the same names say more."""

    stem: int = 32
    widths: tuple[int, ...] = (64, 96, 128)
    depths: tuple[int, ...] = (2, 2, 2)
    fused: int = 96
    kind: str = field(default="pyramid", init=False)

    def __post_init__(self) -> None:
        require_sizes("encoder", stem=self.stem, widths=self.widths, depths=self.depths, fused=self.fused)
        if len(self.widths) != len(self.depths) or not self.widths:
            raise ConfigError(
                f"the encoder needs as many depths as widths, not {self.depths} and {self.widths}"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the levels, coarse to fine."""
        return tuple(4 * 2**level for level in reversed(range(len(self.widths))))

    def build(self, *, features: int, context: int, hidden: int) -> PyramidEncoder:
        """Return the encoder, for these numbers of channels."""
        return PyramidEncoder(
            stem=self.stem,
            widths=self.widths,
            depths=self.depths,
            fused=self.fused,
            features=features,
            context=context,
        )
