"""Correlation computed where it is looked up: memory linear in the number of positions."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deqflow.devices import working_set
from deqflow.network.correlation.windows import WindowGrid, Windows, copy_runs, feature_pyramid, interpolate

BLOCKS = (8, 4, 2, 1)
"""Queries a side of the blocks that share a patch: the largest whose windows lie close enough together."""

SLACK = 1
"""Positions by which windows of a block may spread further than those of a constant flow."""


@dataclass(frozen=True)
class _Patch:
    """The part of every level of frame 2 that blocks of one size are compared with, a square on each.

    Attributes:
        block: queries a side of the block.
        sides: (L,) positions a side on each level.
        first: (L,) which position of the patch is the first of each level.
        level: (P,) level of each position of the patch.
        offset: (P,) where each lies in the map, from the first of its level.
    """

    block: int
    sides: Tensor
    first: Tensor
    level: Tensor
    offset: Tensor


def _sides(block: int, taps: int, levels: int) -> list[int]:
    if block == 1:
        return [taps] * levels
    return [taps + math.ceil((block - 1) / 2**level) + SLACK for level in range(levels)]


def _patch(block: int, sides: list[int], strides: list[int], device: torch.device) -> _Patch:
    squares = torch.tensor([side**2 for side in sides])
    offsets = [
        (torch.arange(side)[:, None] * stride + torch.arange(side)).flatten()
        for side, stride in zip(sides, strides, strict=True)
    ]
    return _Patch(
        block,
        torch.tensor(sides, device=device),
        (squares.cumsum(0) - squares).to(device),
        torch.arange(len(sides)).repeat_interleave(squares).to(device),
        torch.cat(offsets).to(device),
    )


class OnDemandCorrelation:
    """Correlation whose products are made at each lookup: memory linear in the number of positions.

    Windows of neighboring queries overlap nearly everywhere. Queries are taken in square blocks; a block and
    the patch of frame 2 that covers all its windows make one small matrix product at integer positions, from
    which each query copies its window and interpolates once, which is exact because correlation is linear.
    Blocks whose windows lie too far apart for the patch, as at a motion boundary, are split, at last into
    single queries. Blocks go through in portions that stay in the processor's cache.

    Args:
        features1: (B, C, H, W) of frame 1.
        features2: (B, C, H, W) of frame 2.
        levels: number of scales.
        radius: the window has (2 radius + 1)^2 entries.
    """

    def __init__(self, features1: Tensor, features2: Tensor, *, levels: int = 4, radius: int = 3) -> None:
        channels, self.height, self.width = features1.shape[1:]
        device = features1.device
        pyramid = feature_pyramid(features2, levels)
        self._windows = WindowGrid(pyramid, radius)
        self.channels = levels * (2 * radius + 1) ** 2
        taps = self._windows.taps
        sides = {block: _sides(block, taps, levels) for block in BLOCKS}
        # All levels lie in one map of feature vectors, column by column because the window runs so, with
        # zeros around each level: windows begin at most `taps` before it and patches end beyond it.
        maps, strides, bases, base = [], [], [], 0
        for index, level in enumerate(pyramid):
            beyond = max(reach[index] for reach in sides.values())
            columns = F.pad(level.permute(0, 3, 2, 1), (0, 0, taps, beyond, taps, beyond))
            strides.append(columns.shape[2])
            bases.append(base + taps * strides[-1] + taps)
            base += columns.shape[1] * columns.shape[2]
            maps.append(columns.flatten(1, 2))
        self._map_size = base
        queries = (features1 / math.sqrt(channels)).permute(0, 2, 3, 1)
        self._queries = _cast(queries.reshape(-1, channels))
        self._map = _cast(torch.cat(maps, dim=1).flatten(0, 1))
        self._bases, self._strides = torch.tensor(bases, device=device), torch.tensor(strides, device=device)
        self._patches = [_patch(block, sides[block], strides, device) for block in BLOCKS]
        self._blocks = _blocks(self.height, self.width, BLOCKS[0], device)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the features of both frames."""
        return self._queries.untyped_storage().nbytes() + self._map.untyped_storage().nbytes()

    def lookup(self, flow: Tensor, active: Tensor | None = None) -> Tensor:
        """Return the correlations around where ``flow`` points; see ``Correlation.lookup``."""
        batch, area = flow.shape[0], self.height * self.width
        windows = self._windows.around(flow)
        samples = torch.arange(batch, device=flow.device)
        sources = samples if active is None else active
        blocks = (self._blocks + area * samples.view(-1, 1, 1, 1)).flatten(0, 1)
        portions = self._portions(blocks, windows.start)
        seen: Tensor
        if torch.is_grad_enabled():
            order, parts = [], []
            for block, patch in portions:
                order.append(block.flatten())
                parts.append(self._seen(block, patch, windows, sources))
            where = torch.empty(batch * area, dtype=torch.long, device=flow.device)
            together = torch.cat(order)
            where[together] = torch.arange(len(together), device=flow.device)
            seen = torch.cat(parts).index_select(0, where)
        else:
            seen = torch.empty(batch * area, self.channels, device=flow.device)
            for block, patch in portions:
                seen[block.flatten()] = self._seen(block, patch, windows, sources)
        # Positions first, channels last: this view is an NCHW tensor in channels_last memory, without a copy.
        return seen.view(batch, self.height, self.width, -1).permute(0, 3, 1, 2)

    def _portions(self, blocks: Tensor, start: Tensor) -> list[tuple[Tensor, _Patch]]:
        """Return blocks (n, queries) that fit into the patch beside them, together every query."""
        portions = []
        for index, patch in enumerate(self._patches):
            fitting = blocks.flatten(1)
            if patch.block > 1:
                corners = start[fitting]
                spread = corners.amax(dim=1) - corners.amin(dim=1) + self._windows.taps
                fits = (spread <= patch.sides[:, None]).flatten(1).all(dim=1)
                fitting, blocks = fitting[fits], blocks[~fits]
                half = self._patches[index + 1].block
                ratio = patch.block // half
                blocks = blocks.view(-1, ratio, half, ratio, half).transpose(2, 3).reshape(-1, half, half)
            if len(fitting):
                # In a graph each portion would have a gradient of the whole map: `_Products` takes them all.
                at_once = len(fitting) if torch.is_grad_enabled() else self._at_once(patch)
                portions += [(part, patch) for part in fitting.split(at_once)]
        return portions

    def _at_once(self, patch: _Patch) -> int:
        """Return how many blocks go through together."""
        positions = len(patch.level)
        features = positions * self._map.shape[1] * self._map.element_size()
        products = positions * patch.block**2 * self._map.element_size()
        return max(1, working_set(self._map.device) // (features + products))

    def _seen(self, blocks: Tensor, patch: _Patch, windows: Windows, sources: Tensor) -> Tensor:
        """Return what the queries of ``blocks`` (n, k) see, (n * k, channels)."""
        count, queries = blocks.shape
        area, taps = self.height * self.width, self._windows.taps
        source = sources[blocks[:, :1] // area]
        corners = windows.start[blocks]  # (n, k, L, 2)
        origin = corners.amin(dim=1)
        base = source * self._map_size + self._bases + origin[..., 0] * self._strides + origin[..., 1]
        around = base.index_select(1, patch.level) + patch.offset
        asked = blocks % area + source * area
        if torch.is_grad_enabled():
            products: Tensor = _Products.apply(self._queries, self._map, asked, around, self._at_once(patch))
        else:
            products = _products(self._queries, self._map, asked, around)
        left, top = (corners - origin[:, None]).unbind(dim=3)
        rows = len(patch.level) * torch.arange(count * queries, device=blocks.device).view(count, queries, 1)
        first = rows + patch.first + left * patch.sides + top
        columns = patch.sides[:, None] * torch.arange(taps, device=blocks.device)
        values = copy_runs(products.flatten(), (first[..., None] + columns).flatten(), taps)
        fraction = windows.fraction[blocks].reshape(-1, 2)
        return interpolate(values.view(-1, taps, taps).float(), fraction).view(-1, self.channels)


def _products(queries: Tensor, vectors: Tensor, asked: Tensor, around: Tensor) -> Tensor:
    """Return the products (n, k, P) of queries, by their numbers (n, k), with vectors, by theirs (n, P)."""
    return F.embedding(asked, queries) @ F.embedding(around, vectors).transpose(1, 2)


class _Products(torch.autograd.Function):
    """``_products`` in portions of so many blocks, whose vectors are gathered anew for the gradient.

    Kept for it they would be hundreds of megabytes a lookup. Gradients are summed in the precision of the
    features, whatever that of the products.
    """

    @staticmethod
    def forward(queries: Tensor, vectors: Tensor, asked: Tensor, around: Tensor, at_once: int) -> Tensor:
        """Return the products (n, k, P), in the precision of autocast."""
        tables = _cast(queries), _cast(vectors)
        portions = zip(asked.split(at_once), around.split(at_once), strict=True)
        return torch.cat([_products(*tables, *portion) for portion in portions])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what goes in."""
        *tensors, ctx.at_once = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the queries and of the vectors; they can be differentiated in turn."""
        queries, vectors, *numbers = ctx.saved_tensors
        tables = [table.to(gradient.dtype) for table in (queries, vectors)]
        sums = [torch.zeros_like(table) for table in (queries, vectors)]
        for portion in zip(*(part.split(ctx.at_once) for part in (gradient, *numbers)), strict=True):
            products, asked, around = portion
            found = products @ F.embedding(around, tables[1]), products.mT @ F.embedding(asked, tables[0])
            for total, number, part in zip(sums, (asked, around), found, strict=True):
                total.index_add_(0, number.flatten(), part.flatten(0, 1).to(total.dtype))
        return (*sums, None, None, None)


def _cast(features: Tensor) -> Tensor:
    """Return features as autocast multiplies them, once; with a graph as they are, for a float32 gradient."""
    device = features.device.type
    if torch.is_grad_enabled() or not torch.is_autocast_enabled(device):
        return features
    return features.to(torch.get_autocast_dtype(device))


def _blocks(height: int, width: int, side: int, device: torch.device) -> Tensor:
    """Return the positions of a grid in blocks (n, side, side); those at the edge repeat its last ones."""
    rows, columns = (
        torch.arange(size + -size % side, device=device).clamp_max(size - 1).view(-1, side)
        for size in (height, width)
    )
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten(0, 1)
