"""The update operator of RAFT and DEQ-Flow: motion encoder, convolutional GRU, flow head."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqflow.network.attention import GlobalAggregation, GlobalAttention
from deqflow.network.gated_update import Update
from deqflow.network.sizes import require_choice, require_sizes
from deqflow.network.weight_norm import Filters, PlainConv2d, WeightNormConv2d, collect_filters


class MotionEncoder(nn.Module):
    """What the lookup and the flow say about motion; the flow itself is appended.

    Args:
        seen: channels of the lookup.
        correlation: widths of the convolutions of the lookup: a 1x1, then 3x3 ones.
        flow: widths of the convolutions of the flow: a 7x7, then a 3x3 one.
        out_channels: of the result, the flow's two included.
        conv: class of the convolutions.
    """

    def __init__(
        self,
        seen: int,
        *,
        correlation: tuple[int, ...],
        flow: tuple[int, int],
        out_channels: int,
        conv: type[PlainConv2d],
    ) -> None:
        super().__init__()
        widths = (seen, *correlation)
        self.correlation = nn.ModuleList(
            conv(before, width, 1 if index == 0 else 3)
            for index, (before, width) in enumerate(zip(widths, correlation, strict=False))
        )
        self.flow = nn.ModuleList((conv(2, flow[0], 7), conv(flow[0], flow[1], 3)))
        self.merge = conv(correlation[-1] + flow[1], out_channels - 2, 3)

    def forward(self, correlation: Tensor, flow: Tensor, filters: Filters) -> Tensor:
        """Lookup (B, seen, H, W) and flow (B, 2, H, W) -> (B, out, H, W)."""
        moved = flow
        for layer in self.correlation:
            correlation = F.relu(layer(correlation, filters))
        for layer in self.flow:
            moved = F.relu(layer(moved, filters))
        motion = F.relu(self.merge(torch.cat((correlation, moved), dim=1), filters))
        return torch.cat((motion, flow.to(motion.dtype)), dim=1)


class ConvGRU(nn.Module):
    """A gated recurrent unit of convolutions over (hidden, context, motion).

    The context is the same at every step. A convolution being linear, its share is computed once.

    Args:
        hidden: channels of the hidden state.
        context: channels of the context.
        motion: channels of everything that changes from step to step.
        kernel: of the convolutions, (rows, columns).
        conv: class of the convolutions.
    """

    def __init__(
        self, hidden: int, context: int, motion: int, *, kernel: tuple[int, int], conv: type[PlainConv2d]
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.sizes = [hidden, context, motion]
        self.update = conv(sum(self.sizes), hidden, kernel)
        self.reset = conv(sum(self.sizes), hidden, kernel)
        self.candidate = conv(sum(self.sizes), hidden, kernel)

    def prepare(self, context: Tensor, filters: Filters) -> "PreparedGRU":
        """Everything that is constant over a solve."""
        layers = (self.update, self.reset, self.candidate)
        weight = torch.cat([filters[layer] for layer in layers])
        hidden, still, motion = weight.split(self.sizes, dim=1)
        bias = torch.cat([layer.get_parameter("bias") for layer in layers])
        injected = F.conv2d(context, still, bias, padding=self.update.padding)
        moving = torch.cat((hidden, motion), dim=1)
        return PreparedGRU(injected, moving[: 2 * self.hidden], moving[2 * self.hidden :])

    def forward(
        self, hidden: Tensor, motion: Tensor, prepared: "PreparedGRU", active: Tensor | None
    ) -> Tensor:
        """Return the new hidden (B, hidden, H, W), in the dtype of the old."""
        injected = prepared.injected if active is None else prepared.injected[active]
        padding = self.update.padding
        gates = F.conv2d(torch.cat((hidden.to(motion.dtype), motion), dim=1), prepared.gates, padding=padding)
        update, reset = torch.sigmoid(gates + injected[:, : 2 * self.hidden]).to(hidden.dtype).chunk(2, dim=1)
        kept = torch.cat(((reset * hidden).to(motion.dtype), motion), dim=1)
        candidate = F.conv2d(kept, prepared.candidate, padding=padding) + injected[:, 2 * self.hidden :]
        return torch.lerp(hidden, torch.tanh(candidate).to(hidden.dtype), update)


class PreparedGRU(NamedTuple):
    """The context's share of update gate, reset gate and candidate, and the filters of what changes."""

    injected: Tensor
    gates: Tensor
    candidate: Tensor


class Prepared(NamedTuple):
    """What is constant over a solve: the effective filters, each GRU's share, the attention (N, P, P)."""

    filters: Filters
    gru: list[PreparedGRU]
    attention: Tensor | None


class GRUUpdate(nn.Module):
    """The published update operator (Teed and Deng, 2020, sec. 3.3; Bai et al., 2022; Jiang et al., 2021).

    Args:
        config: inner sizes.
        hidden: channels of the hidden state.
        context: channels of the context.
        correlation: channels of the lookup.
    """

    def __init__(self, config: "GRUConfig", *, hidden: int, context: int, correlation: int) -> None:
        super().__init__()
        conv = WeightNormConv2d if config.weight_norm else PlainConv2d
        self.motion = MotionEncoder(
            correlation,
            correlation=config.correlation,
            flow=config.flow,
            out_channels=config.motion,
            conv=conv,
        )
        self.attention = GlobalAttention(context) if config.attention else None
        self.aggregation = GlobalAggregation(config.motion, conv=conv) if config.attention else None
        changing = config.motion * (2 if config.attention else 1)
        self.gru = nn.ModuleList(
            ConvGRU(hidden, context, changing, kernel=kernel, conv=conv) for kernel in config.kernels
        )
        self.flow_head = nn.ModuleList((conv(hidden, config.head, 3), conv(config.head, 2, 3)))

    def prepare(self, context: Tensor) -> Prepared:
        """Everything that is constant over a solve, from context (N, C, H, W)."""
        filters = collect_filters(self)
        attention = None if self.attention is None else self.attention(context)
        context = context.to(next(iter(filters.values())).dtype)
        return Prepared(filters, [unit.prepare(context, filters) for unit in self.units()], attention)

    def forward(
        self,
        hidden: Tensor,
        flow: Tensor,
        correlation: Tensor,
        prepared: Prepared,
        active: Tensor | None = None,
    ) -> Update:
        """One evaluation.

        Args:
            hidden: (B, hidden, H, W).
            flow: (B, 2, H, W) in pixels of this grid.
            correlation: (B, correlation, H, W), looked up at ``flow``.
            prepared: of N samples, from ``prepare``.
            active: (B,) which of these N samples are given; None means all.
        """
        motion = self.motion(correlation, flow, prepared.filters)
        if self.aggregation is not None and prepared.attention is not None:
            together = self.aggregation(motion, prepared.attention, prepared.filters, active)
            motion = torch.cat((motion, together.to(motion.dtype)), dim=1)
        for unit, constants in zip(self.units(), prepared.gru, strict=True):
            hidden = unit(hidden, motion, constants, active)
        wide = F.relu(self.flow_head[0](hidden, prepared.filters))
        return Update(hidden, self.flow_head[1](wide, prepared.filters).float())

    def units(self) -> list[ConvGRU]:
        """Return the recurrent units, in the order in which they update hidden."""
        return [unit for unit in self.gru if isinstance(unit, ConvGRU)]


@dataclass(frozen=True, kw_only=True)
class GRUConfig:
    """Inner sizes of a ``GRUUpdate``.

    Attributes:
        correlation: widths of the motion encoder's convolutions of the lookup.
        flow: widths of its two convolutions of the flow.
        motion: channels of the encoded motion, the flow's two included.
        head: width of the flow head.
        kernels: (rows, columns) of each GRU, in the order in which they update hidden.
        attention: aggregate motion globally (GMA).
        weight_norm: every convolution but the attention's has weight norm.
    """

    correlation: tuple[int, ...] = (256, 192)
    flow: tuple[int, int] = (128, 64)
    motion: int = 128
    head: int = 256
    kernels: tuple[tuple[int, int], ...] = ((1, 5), (5, 1))
    attention: bool = False
    weight_norm: bool = False
    kind: str = field(default="gru", init=False)

    def __post_init__(self) -> None:
        require_sizes(
            "update operator",
            correlation=self.correlation,
            flow=self.flow,
            motion=self.motion - 2,
            head=self.head,
        )
        for kernel in self.kernels:
            require_sizes("update operator", kernels=kernel)
            require_choice(
                "update operator", "sides of kernels modulo 2", tuple(k % 2 for k in kernel), ((1, 1),)
            )
        for name in ("attention", "weight_norm"):
            require_choice("update operator", name, getattr(self, name), (True, False))

    def build(self, *, hidden: int, context: int, correlation: int) -> GRUUpdate:
        """Return the update operator, for these numbers of channels."""
        return GRUUpdate(self, hidden=hidden, context=context, correlation=correlation)
