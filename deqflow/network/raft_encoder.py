"""The encoders of RAFT and DEQ-Flow: one network for matching features, another for context."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.network.sizes import require_choice, require_sizes

Norm = Callable[[int], nn.Module]


def _instance_norm(channels: int) -> nn.Module:
    # One group per channel is an instance norm, and keeps the channels_last memory format on a CPU.
    return nn.GroupNorm(channels, channels, affine=False)


def _no_norm(channels: int) -> nn.Module:
    return nn.Identity()


NORMS: dict[str, Norm] = {"instance": _instance_norm, "batch": nn.BatchNorm2d, "none": _no_norm}


def _relu_before_sum(x: Tensor) -> Tensor:
    """ReLU of which the graph keeps a mask of bytes; a sum does not keep the result either.

    An eighth less of a network's activations is kept so. Like ReLU it lets NaN through.
    """
    return torch.where(x <= 0, 0.0, x) if x.requires_grad else F.relu(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., 2016; both followed by norm and ReLU in RAFT)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm1 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = norm(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = _relu_before_sum(self.norm2(self.conv2(y)))
        return F.relu(self.shortcut(x) + y)


class BottleneckBlock(nn.Module):
    """A 3x3 convolution between two 1x1, a quarter as wide, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        inner = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, inner, 1)
        self.norm1 = norm(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1)
        self.norm2 = norm(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1)
        self.norm3 = norm(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = _relu_before_sum(self.norm3(self.conv3(y)))
        return F.relu(self.shortcut(x) + y)


BLOCKS: dict[str, type[ResidualBlock | BottleneckBlock]] = {
    "residual": ResidualBlock,
    "bottleneck": BottleneckBlock,
}


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    """In both published networks a stage that keeps its resolution also keeps its width."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride=stride), norm(out_channels))


class ResidualNet(nn.Module):
    """A 7x7 stem of stride 2, three stages of two blocks (strides 2, 4 and 8) and a 1x1 head.

    Args:
        block: of the stages.
        widths: channels of the stages; the stem has those of the first.
        out_channels: of the head.
        norm: after every convolution but the head.
    """

    def __init__(
        self,
        *,
        block: type[ResidualBlock | BottleneckBlock],
        widths: tuple[int, int, int],
        out_channels: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 7, stride=2, padding=3)
        self.stem_norm = norm(widths[0])
        before = (widths[0], *widths)
        blocks: list[nn.Module] = []
        for stage, width in enumerate(widths):
            blocks.append(block(before[stage], width, stride=1 if stage == 0 else 2, norm=norm))
            blocks.append(block(width, width, stride=1, norm=norm))
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Conv2d(widths[-1], out_channels, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out, H/8, W/8)."""
        out: Tensor = self.head(self.stages(F.relu(self.stem_norm(self.stem(image)))))
        return out


class SeparateEncoders(nn.Module):
    """A network for matching features (instance norm) and one for context, which frame 1 alone goes through.

    Args:
        net: builds a network from ``out_channels`` and ``norm``.
        features: channels of the matching features.
        context: channels of the context.
        context_norm: of the context network.
        hidden: further channels of the context network, from which hidden starts; 0 starts it at zeros.
    """

    def __init__(
        self,
        net: Callable[..., ResidualNet],
        *,
        features: int,
        context: int,
        context_norm: Norm,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.feature_net = net(out_channels=features, norm=_instance_norm)
        self.context_net = net(out_channels=hidden + context, norm=context_norm)

    def forward(self, image: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Image (B, 3, H, W) in -1..1 -> features (B, F, H/8, W/8), image for ``context``; one stride."""
        return ((self.feature_net(image), image),)

    def context(self, image: Tensor, level: int = 0) -> tuple[Tensor, Tensor | None]:
        """Context (B, C, H/8, W/8) of a frame, and where hidden starts (B, hidden, H/8, W/8) or None."""
        out = self.context_net(image)
        start = torch.tanh(out[:, : self.hidden]) if self.hidden else None
        return F.relu(out[:, self.hidden :]), start


@dataclass(frozen=True, kw_only=True)
class SeparateEncodersConfig:
    """Sizes of ``SeparateEncoders``.

    Attributes:
        block: of both networks, ``residual`` or ``bottleneck``.
        widths: channels at strides 2, 4 and 8.
        context_norm: ``batch``, ``instance`` or ``none``.
        starts_hidden: whether the context network also says where hidden starts (RAFT) or it starts at zeros.
    """

    block: str = "residual"
    widths: tuple[int, int, int] = (64, 96, 128)
    context_norm: str = "batch"
    starts_hidden: bool = False
    kind: str = field(default="separate", init=False)
    strides: ClassVar[tuple[int, ...]] = (8,)

    def __post_init__(self) -> None:
        require_sizes("encoder", widths=self.widths)
        require_choice("encoder", "block", self.block, tuple(BLOCKS))
        require_choice("encoder", "context_norm", self.context_norm, tuple(NORMS))
        require_choice("encoder", "starts_hidden", self.starts_hidden, (True, False))

    def build(self, *, features: int, context: int, hidden: int) -> SeparateEncoders:
        """Return the encoders, for these numbers of channels."""
        return SeparateEncoders(
            partial(ResidualNet, block=BLOCKS[self.block], widths=self.widths),
            features=features,
            context=context,
            context_norm=NORMS[self.context_norm],
            hidden=hidden if self.starts_hidden else 0,
        )
