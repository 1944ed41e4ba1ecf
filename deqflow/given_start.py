"""Where a solve over several scales is asked to start, and what each of its scales makes of that."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from deqflow.errors import ConfigError
from deqflow.pair import EncodedFrame
from deqflow.step import FlowState

AGREED = 0.8
"""Pixels between the carried flow of the finest scale and that of the scale before within which it is started
from: beyond it motion has changed there, and the coarser one has followed."""

CHANGED = 0.15
"""Pixels by which a coarser scale's solve must move carried flow, over a neighborhood, for motion to have
changed there: less is its own noise; twice as much counts in full. Tuned on programs and rendered motions."""

NEIGHBORHOOD = 9
"""Side of such a neighborhood in cells."""


@dataclass(frozen=True)
class GivenStart:
    """A start of one of the scales of a solve.

    Attributes:
        state: the start.
        scale: whose size it has.
        enters: the scale that begins with it: its own, or a coarser one, which takes its flow alone.
        trusted: (B, 1, H/s, W/s) bool, the cells that start from it; None is all.
        finer: (B, 2, H/f, W/f) flow to start from at the finest scale, NaN where unknown.
    """

    state: FlowState
    scale: int
    enters: int
    trusted: Tensor | None = None
    finer: Tensor | None = None

    @classmethod
    def of(
        cls,
        state: FlowState,
        first: EncodedFrame,
        scales: Sequence[int],
        hidden: int,
        trusted: Tensor | None = None,
        finer: Tensor | None = None,
    ) -> "GivenStart":
        """Return the start of whichever of the scales, coarse to fine, a state has the size of.

        Raises:
            ConfigError: there is none for the first frame, or the state's ``hidden`` channels are others.
        """
        sizes = {scale: first.features[scale].matching.shape[2:] for scale in reversed(scales)}
        fitting = [scale for scale, size in sizes.items() if size == state.flow.shape[2:]]
        own = fitting[0] if fitting else scales[-1]
        for name, channels in (("flow", 2), ("hidden", hidden)):
            found, wanted = tuple(getattr(state, name).shape), (len(first.image), channels, *sizes[own])
            if found != wanted:
                raise ConfigError(f"state is for a {name} of {found}, these frames need {wanted}")
        return cls(state, own, scales[0] if trusted is None else own, trusted, finer)

    def at(self, scale: int, start: FlowState, *, finest: bool) -> FlowState:
        """Return where to start at a scale that would else begin with ``start``."""
        if scale == self.enters:
            fitted = self.state.fitted(start)
            if scale > self.scale:  # the hidden state of another grid would hold on to a flow that is wrong
                fitted = FlowState(start.hidden, fitted.reduced_flow(scale // self.scale))
            start = fitted if self.trusted is None else fitted.where(self.trusted, start)
        if finest and self.finer is not None:
            start = start.near(self.finer, AGREED / scale)
        return start

    def after(self, scale: int, found: FlowState) -> "GivenStart":
        """Return what is left for finer scales when one has been solved."""
        if scale != self.scale or self.finer is None:
            return self
        return replace(self, finer=following(self.finer, self.state.flow, found.flow, scale))


def following(finer: Tensor, carried: Tensor, found: Tensor, stride: int) -> Tensor:
    """Return the carried flow of a finer scale, moved as the solve of a coarser one has moved its own.

    Motion that turns, zooms or accelerates is ahead of what is carried. The coarser scale follows it, but
    knows less of the details; so only the smooth part of how far it moved is taken from there.

    Args:
        finer: (B, 2, h', w') carried flow, h' and w' multiples of the coarser grid's.
        carried: (B, 2, h, w) what the solve of the coarser scale began with.
        found: (B, 2, h, w) where it ended.
        stride: of the coarser scale.
    """
    change = F.avg_pool2d(
        found - carried, NEIGHBORHOOD, stride=1, padding=NEIGHBORHOOD // 2, count_include_pad=False
    )
    moved = stride * change.norm(dim=1, keepdim=True)
    change = change * ((moved - CHANGED) / CHANGED).clamp(0, 1)
    factor = finer.shape[2] // carried.shape[2]
    return finer + factor * F.interpolate(change, finer.shape[2:], mode="bilinear")
