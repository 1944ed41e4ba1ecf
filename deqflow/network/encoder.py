"""Frames to features at an eighth of their resolution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.network.sizes import require_sizes

# A ReLU of unit-variance input has this much less than unit spread; folding it into the convolutions keeps
# the signal's scale through depth without looking at activations (Brock et al., NFNets, 2021, sec. 2).
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))


class StandardizedConv2d(nn.Conv2d):
    """Convolution whose filters have zero mean and unit norm, times a learned gain per output channel.

    It stands in for a normalization of the activations, whose backward pass costs more than the convolutions
    around it on a CPU, and depends on the weights only, so a batch of one behaves as any other.

    Source: Qiao et al., Weight Standardization, 2019; scaled as in Brock et al., NFNets, 2021.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2)
        self.gain = nn.Parameter(torch.ones(out_channels))
        self._kept: tuple[list[Any], list[Tensor], tuple[Tensor, Tensor]] | None = None
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.get_parameter("bias"))

    def standardized(self) -> Tensor:
        """Return the effective filters, shaped as ``weight``."""
        flat = self.weight.flatten(1)
        flat = flat - flat.mean(dim=1, keepdim=True)
        scale = self.gain[:, None] * torch.rsqrt(flat.square().sum(dim=1, keepdim=True) + 1e-8)
        return (flat * scale).view_as(self.weight)

    def forward(self, x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Convolve (B, C, H, W); the result is scaled through the filters, which are smaller than it."""
        return self._conv_forward(x, *self._folded(scale))

    def _folded(self, scale: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return filters and bias, scaled; of frozen parameters they are made once, in autocast's dtype."""
        bias = self.get_parameter("bias")
        sources = [part for part in (self.weight, self.gain, bias, scale) if isinstance(part, Tensor)]
        made_anew = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if made_anew or any(part.requires_grad or part.is_inference() for part in sources):
            return scale * self.standardized(), scale * bias
        device = self.weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight.dtype
        # The parameters are held on to, so that no others can come to lie where they lay.
        state = [dtype, scale, *((id(part), part.data_ptr(), part._version) for part in sources)]
        if self._kept is None or self._kept[0] != state:
            folded = (scale * self.standardized()).to(dtype), (scale * bias).to(dtype)
            self._kept = state, sources, folded
        return self._kept[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # a copy makes its own


def center_and_scale(x: Tensor) -> Tensor:
    """Each channel's mean over the frame removed, then the sample divided by its overall spread.

    Without it a constant part shared by all positions swamps the correlation of what tells them apart.
    """
    x = x.float()
    x = x - x.mean(dim=(2, 3), keepdim=True)
    return x * torch.rsqrt(x.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-4)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the branch starts small, so that depth is harmless at first."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = StandardizedConv2d(in_channels, out_channels, 3, stride=stride)
        self.conv2 = StandardizedConv2d(out_channels, out_channels, 3)
        self.branch_scale = nn.Parameter(torch.tensor(0.5))
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same else StandardizedConv2d(in_channels, out_channels, 1, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        # In place, which a convolution's gradient allows: memory traffic costs as much as arithmetic here.
        y = F.relu_(self.conv1(x, RELU_GAIN))
        return F.relu_(self.conv2(y, self.branch_scale).add_(self.shortcut(x)))


class SharedEncoder(nn.Module):
    """One trunk for matching features and context.

    A 7x7 stem of stride 4, residual stages at strides 4 and 8, then a 1x1 head for features and a residual
    block with a 1x1 head for context. One trunk for both saves a third of the encoding of a pair, and on
    video a frame is encoded once.

    Args:
        widths: channels of the two stages.
        depths: residual blocks in each.
        features: channels of the matching features.
        context: channels of the context.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (48, 96),
        depths: Sequence[int] = (2, 3),
        features: int = 128,
        context: int = 64,
    ) -> None:
        super().__init__()
        self.stem = StandardizedConv2d(3, widths[0], 7, stride=4)
        # Neighboring pixels are alike, so zero-mean filters see little of an image's spread.
        nn.init.constant_(self.stem.gain, 4.0)
        blocks: list[nn.Module] = [ResidualBlock(widths[0], widths[0]) for _ in range(depths[0])]
        blocks.append(ResidualBlock(widths[0], widths[1], stride=2))
        blocks.extend(ResidualBlock(widths[1], widths[1]) for _ in range(depths[1] - 1))
        self.stages = nn.Sequential(*blocks)
        self.feature_head = nn.Conv2d(widths[1], features, 1)
        self.context_head = nn.Sequential(
            ResidualBlock(widths[1], widths[1]), nn.Conv2d(widths[1], context, 1)
        )

    def forward(self, image: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Image (B, 3, H, W) in -1..1 -> features (B, F, H/8, W/8), trunk (B, C, H/8, W/8); one stride."""
        trunk = center_and_scale(self.stages(F.relu_(self.stem(image, RELU_GAIN))))
        return ((center_and_scale(self.feature_head(trunk)), trunk),)

    def context(self, trunk: Tensor, level: int = 0) -> tuple[Tensor, None]:
        """Context (B, C, H/8, W/8) of a frame from its trunk; only the first frame of a pair needs it.

        The second value is where hidden starts: None, at zeros.
        """
        return F.relu(self.context_head(trunk)), None


@dataclass(frozen=True, kw_only=True)
class SharedEncoderConfig:
    """Sizes of a ``SharedEncoder``.

    Attributes:
        widths: channels of the stages at strides 4 and 8.
        depths: residual blocks in each stage.
    """

    widths: tuple[int, int] = (48, 96)
    depths: tuple[int, int] = (2, 3)
    kind: str = field(default="shared", init=False)
    strides: ClassVar[tuple[int, ...]] = (8,)

    def __post_init__(self) -> None:
        require_sizes("encoder", widths=self.widths, depths=self.depths)

    def build(self, *, features: int, context: int, hidden: int) -> SharedEncoder:
        """Return the encoder, for these numbers of channels."""
        return SharedEncoder(widths=self.widths, depths=self.depths, features=features, context=context)
