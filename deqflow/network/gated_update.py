"""Update operators: one evaluation of what the solver drives to its fixed point."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.errors import ConfigError
from deqflow.network.positions import by_position
from deqflow.network.sizes import require_sizes


class Update(NamedTuple):
    """New hidden (B, C, H, W) and the change of flow (B, 2, H, W) in pixels of this grid, float32."""

    hidden: Tensor
    delta: Tensor


class RowConv2d(nn.Conv2d):
    """A convolution with a 1xN kernel of (B, C, H, W) in channels_last memory.

    The gradient of depthwise rows takes a CPU five times as long as that of columns, so where there will be
    one, every row of the frame is seen as a sample with one column, in the same memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        if not torch.is_grad_enabled():
            return super().forward(x)
        batch, _, height, width = x.shape
        columns = x.permute(0, 2, 3, 1).reshape(batch * height, width, 1, -1).permute(0, 3, 1, 2)
        kernel = self.weight.transpose(2, 3)
        padding, dilation = self.padding[::-1], self.dilation[::-1]
        out = F.conv2d(columns, kernel, self.bias, padding=padding, dilation=dilation, groups=self.groups)
        return out.permute(0, 2, 3, 1).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


class GatedStripUpdate(nn.Module):
    """A gated recurrent unit whose gates see a wide neighborhood through depthwise strip convolutions.

    The gate keeps the hidden state a convex combination of its past and a bounded candidate, which is what
    makes iterating it well behaved; a row and a column of depthwise weights with 1x1 convolutions around them
    do a 3x3 ConvGRU's mixing at a seventh of its multiplications and carry information three positions a step
    instead of one.

    Args:
        hidden: channels of the hidden state.
        context: channels of the context.
        correlation: channels of the lookup.
        motion: channels of the encoded motion.
        mixed: channels between the two 1x1 convolutions of the gates.
        kernel: length of the depthwise strips.
        minimum_gate: least share of the hidden state that a step replaces by the candidate, in [0, 1).
            A gate that closes makes any state a fixed point; bounded from below, ``h + g (c(h) - h)`` has the
            fixed points of the candidate ``c`` alone.
    """

    def __init__(
        self,
        *,
        hidden: int = 96,
        context: int = 64,
        correlation: int = 196,
        motion: int = 64,
        mixed: int = 192,
        kernel: int = 7,
        minimum_gate: float = 0.0,
    ) -> None:
        super().__init__()
        self.minimum_gate = minimum_gate
        self.correlation_encoder = nn.Linear(correlation, 96)
        self.flow_encoder = nn.Conv2d(2, 32, 7, padding=3)
        self.motion_encoder = nn.Linear(96 + 32, motion)
        width = hidden + motion
        reach = kernel // 2
        row = RowConv2d(width, width, (1, kernel), padding=(0, reach), groups=width)
        column = nn.Conv2d(width, width, (kernel, 1), padding=(reach, 0), groups=width)
        self.spatial = nn.Sequential(row, column)
        self.expand = nn.Linear(width, mixed)
        self.inject = nn.Conv2d(context, mixed, 3, padding=1)
        self.gates = nn.Linear(mixed, 2 * hidden)
        displacement = nn.Conv2d(hidden, 2, 3, padding=1)
        self.flow_head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), displacement)
        with torch.no_grad():
            for strip in (row, column):
                # Near the identity, so that a position starts by listening to itself.
                strip.weight.normal_(std=0.5 / kernel**0.5).view(width, kernel)[:, reach].add_(1.0)
                nn.init.zeros_(strip.get_parameter("bias"))
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            displacement.weight.mul_(0.2)
            nn.init.zeros_(displacement.get_parameter("bias"))

    def prepare(self, context: Tensor) -> Tensor:
        """Return the context's share of the gates, (B, H, W, mixed): constant over a solve, so computed once.

        The bias of the product that it is added to is in it. Channels come last so that selecting samples
        keeps that memory layout, in the gradient as well.
        """
        injected = self.inject(context) + self.expand.bias[:, None, None]
        return injected.permute(0, 2, 3, 1)

    def forward(
        self,
        hidden: Tensor,
        flow: Tensor,
        correlation: Tensor,
        prepared: Tensor,
        active: Tensor | None = None,
    ) -> Update:
        """One evaluation.

        Args:
            hidden: (B, hidden, H, W).
            flow: (B, 2, H, W) in pixels of this grid.
            correlation: (B, correlation, H, W), looked up at ``flow``.
            prepared: (N, H, W, mixed) from ``prepare``.
            active: (B,) which of these N samples are given; None means all.
        """
        injected = prepared if active is None else prepared[active]
        # As the state's hidden is: one tensor in another memory format would make all after it convert.
        moved = F.relu_(self.flow_encoder(flow.contiguous(memory_format=torch.channels_last)))
        row, column = self.spatial  # by themselves: a sequence holds on to its input until the end
        spread = column(row(by_position(self._joined, hidden, correlation, moved)))
        hidden = by_position(self._gated, hidden, spread, injected.permute(0, 3, 1, 2))
        return Update(hidden, self.flow_head[2](by_position(self.flow_head[:2], hidden)).float())

    def _joined(self, hidden: Tensor, correlation: Tensor, moved: Tensor) -> Tensor:
        """Return hidden and motion at some positions, (N, hidden + motion)."""
        seen = F.relu_(self.correlation_encoder(correlation))
        motion = F.relu_(self.motion_encoder(torch.cat((seen, moved), dim=1)))
        return torch.cat((hidden, motion), dim=1)

    def _gated(self, hidden: Tensor, spread: Tensor, injected: Tensor) -> Tensor:
        """Return the new hidden at some positions, from what is around them (N, hidden + motion)."""
        mixed = torch.addmm(injected, spread, self.expand.weight.t())  # the bias is in what is injected
        mixed = F.silu(mixed, inplace=not torch.is_grad_enabled())
        gate, candidate = self.gates(mixed).to(hidden.dtype).chunk(2, dim=1)
        # tanh(x) = 2 sigmoid(2x) - 1, in a quarter of its time on a CPU.
        candidate = 2 * torch.sigmoid(2 * candidate) - 1
        gate = torch.sigmoid(gate)
        if self.minimum_gate > 0:
            gate = self.minimum_gate + (1 - self.minimum_gate) * gate
        return torch.lerp(hidden, candidate, gate)


@dataclass(frozen=True, kw_only=True)
class GatedStripConfig:
    """Sizes of a ``GatedStripUpdate``; its arguments of the same names say more."""

    motion: int = 64
    mixed: int = 192
    kernel: int = 7
    minimum_gate: float = 0.0
    kind: str = field(default="gated-strips", init=False)

    def __post_init__(self) -> None:
        require_sizes("update operator", motion=self.motion, mixed=self.mixed, kernel=self.kernel)
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel of the update operator must be odd, not {self.kernel}")
        gate = self.minimum_gate
        if isinstance(gate, bool) or not isinstance(gate, int | float) or not 0 <= gate < 1:
            raise ConfigError(
                f"minimum_gate of the update operator must be at least 0 and below 1, not {gate!r}"
            )

    def build(self, *, hidden: int, context: int, correlation: int) -> GatedStripUpdate:
        """Return the update operator, for these numbers of channels."""
        return GatedStripUpdate(
            hidden=hidden,
            context=context,
            correlation=correlation,
            motion=self.motion,
            mixed=self.mixed,
            kernel=self.kernel,
            minimum_gate=self.minimum_gate,
        )
