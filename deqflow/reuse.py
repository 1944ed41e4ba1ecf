"""Fixed-point reuse on video: a state is carried to the next frame, and checked there cell by cell.

A fixed point depends on where its solve started as soon as motion changes (Anil et al., NeurIPS 2022), so a
carried state is a proposal. It is held against the frames before it is trusted: where the carried flow
explains the new frame worse than the last flow explained the last one, or worse than no motion does, the
solve starts afresh.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deqflow.geometry import backward_warp, forward_splat
from deqflow.pair import PreparedPair
from deqflow.step import FlowState

WORSE_THAN_BEFORE = 0.5
"""Rise of the matching distance over that of the last fixed point from which a cell starts afresh."""

WORSE_THAN_STILL = 0.3
"""The same over that of no motion. Both were tuned on rendered motions."""

MOST_AFRESH = 0.5
"""Share of failed cells, of those that could be checked, beyond which nothing of a state is used."""

LOST = 24
"""Side, in full-resolution pixels, of a block of failed cells for which coarser scales are asked."""

LOST_BEFORE_FINER = 32
"""The same where a finer scale follows with carried flow of its own: it would have to make all its steps."""

CHECK_COST = 0.8
"""What checking a start, measuring the point found and carrying it take, in evaluations at the same scale: so
much time on a CPU in bfloat16, at 640x360."""

UNSETTLED = 0.1
"""Movement of the flow in the last evaluation, RMS in pixels, above which (and above twice the tolerance) a
long solve has found no fixed point, and nothing to start from."""

LONG = 16
"""Evaluations of a long solve: a shorter one may not have had time to settle, and is gone on with."""

UNMATCHED = 1.0
"""Median matching distance of a fixed point above which the two frames show different scenes."""


@dataclass(frozen=True)
class Matching:
    """Matching features of both frames of a pair, to tell how unlike what a flow brings together is.

    Attributes:
        first: (B, C, h, w) of frame 1, each channel less its mean over the frame, of unit spread.
        second: the same of frame 2.
    """

    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, pair: PreparedPair, stride: int) -> "Matching":
        """Center and scale the features of a pair encoded at ``stride``: not all encoders see to it."""
        found = []
        for frame in (pair.first, pair.second):
            features = frame.features[stride].matching.float()
            features = features - features.mean(dim=(2, 3), keepdim=True)
            scale = torch.rsqrt(features.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-6)
            # Planes of channels, as a warped frame has them: the two are combined several times faster so.
            found.append((features * scale).contiguous())
        return cls(*found)

    def distance(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """How unlike the features are that a flow brings together, from 0; about 1.5 where nothing matches.

        Args:
            flow: (B, 2, h, w) in pixels of the grid.

        Returns:
            The distance (B, 1, h, w), and bool (B, 1, h, w), true where the flow stays inside the frame.
        """
        warped, inside = backward_warp(self.second, flow)
        return _unlike(self.first, warped), inside

    def still(self) -> Tensor:
        """Return the distance (B, 1, h, w) of no motion."""
        return _unlike(self.first, self.second)


def _unlike(first: Tensor, second: Tensor) -> Tensor:
    """Mean square of the difference of centered features (B, C, h, w) over their size, (B, 1, h, w)."""
    product = (first * second).mean(dim=1, keepdim=True)
    size = (first.square().mean(dim=1, keepdim=True) + second.square().mean(dim=1, keepdim=True)) / 2
    # Rounding may leave less than nothing of equal features; where nothing is seen, nothing differs.
    return 2 * (size - product).clamp_min(0) / (size + 0.2)


@dataclass(frozen=True)
class CarriedState:
    """The fixed point of a pair at the pixels of its second frame, where the next pair begins.

    Attributes:
        state: hidden and flow, both carried along the flow; in holes that of their surroundings.
        found: (B, 1, h, w) bool, false in holes: cells that were uncovered.
        distance: (B, 1, h, w) matching distance at the fixed point, carried along.
        finer: (B, 2, h', w') flow of a finer scale that was solved after it, carried along, NaN in holes.
    """

    state: FlowState
    found: Tensor
    distance: Tensor
    finer: Tensor | None = None

    @classmethod
    def along(cls, state: FlowState, distance: Tensor, onward: Tensor) -> "CarriedState":
        """Carry a state, with the matching distance of its flow, by ``onward`` (B, 2, h, w) grid pixels."""
        parts = torch.cat((state.flow, distance, state.hidden.float()), dim=1)
        carried, found = _carried(parts, onward)
        flow, distance, hidden = filled(carried, found).split([2, 1, state.hidden.shape[1]], dim=1)
        hidden = hidden.to(state.hidden.dtype).contiguous(memory_format=torch.channels_last)
        return cls(FlowState(hidden, flow), found, distance)

    def checked(self, matching: Matching) -> tuple[Tensor, Tensor]:
        """Where the state does not explain a pair, and where that could be told, (B, 1, h, w) bool each.

        A lone cell is taken for noise. Nothing can be told of holes, and of what leaves the frame.
        """
        moved, inside = matching.distance(self.state.flow)
        still = matching.still()
        worse = (moved > self.distance + WORSE_THAN_BEFORE) | (moved > still + WORSE_THAN_STILL)
        seen = inside & self.found
        return blocks(worse & seen, 2), seen


def carry(state: FlowState) -> FlowState:
    """Return a state carried along its own flow, see ``CarriedState``."""
    return CarriedState.along(state, torch.zeros_like(state.flow[:, :1]), state.flow).state


def carried_flow(flow: Tensor, onward: Tensor) -> Tensor:
    """Return a flow (B, 2, h, w) carried by ``onward``, both in grid pixels; NaN in holes."""
    carried, found = _carried(flow, onward)
    return torch.where(found, carried, torch.nan)


def _carried(values: Tensor, onward: Tensor) -> tuple[Tensor, Tensor]:
    """Return values (B, C, h, w) carried by ``onward``, and where there are any, (B, 1, h, w) bool."""
    carried, weight = forward_splat(values, onward)
    return carried, weight > 0.5  # below half a cell it is mostly the blurred rim of a hole


def filled(values: Tensor, known: Tensor) -> Tensor:
    """Values (B, C, h, w) with what is not known (B, 1, h, w) filled from around it, coarse to fine."""
    if min(values.shape[2:]) < 2 or bool(known.all()):
        return torch.where(known, values, 0) if not bool(known.any()) else values
    weight = known.to(values.dtype)
    size = values.shape[2:]
    share = F.avg_pool2d(weight, 2, ceil_mode=True)
    coarse = F.avg_pool2d(values * weight, 2, ceil_mode=True) / share.clamp_min(1e-6)
    around = F.interpolate(filled(coarse, share > 0), size, mode="bilinear")
    return torch.where(known, values, around)


def blocks(cells: Tensor, side: int) -> Tensor:
    """Which cells (B, 1, h, w) belong to a block of ``side`` times ``side`` (or the grid's side)."""
    side = min(side, *cells.shape[2:])
    whole = -F.max_pool2d(-cells.float(), side, stride=1)
    return F.max_pool2d(F.pad(whole, (side - 1,) * 4), side, stride=1) > 0


def nearly_equal(pair: PreparedPair) -> bool:
    """Whether frame 2 is frame 1 once more, but for noise: no 8x8 block has changed by more than 2 levels."""
    difference = (pair.first.image - pair.second.image).mean(dim=1, keepdim=True)
    return float(F.avg_pool2d(difference, 8).abs().max()) <= 2.0
