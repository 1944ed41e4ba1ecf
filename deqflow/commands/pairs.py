"""Two frames and the flow between them, as the commands for stills and video solve, show and record it."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deqflow.commands.video_record import FlowRecord, PairRecord
from deqflow.io import VideoFrame
from deqflow.visualize import ShownPair

if TYPE_CHECKING:
    from deqflow.estimate import FlowEstimate
    from deqflow.stream import Direction, FlowStream

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Solved:
    """The flow of a pair in one direction, and what it cost.

    Attributes:
        estimate: the flow.
        milliseconds: that it took.
        cost: see `FlowRecord`.
        reused: whether it started from the pair before.
        afresh: share of cells that did not.
        movement: (H, W), how far one more step would move it; None if nobody asked.
        occlusion: bool (H, W), what the other direction says is hidden; None if nobody asked.
    """

    estimate: "FlowEstimate"
    milliseconds: float
    cost: float
    reused: bool
    afresh: float
    movement: NDArray[np.float32] | None = None
    occlusion: NDArray[np.bool_] | None = None

    def numbers(self) -> dict[str, NDArray[Any]]:
        """Return what can be written as numbers, by kind."""
        known = {
            "flow": self.estimate.flow,
            "uncertainty": self.estimate.uncertainty,
            "occlusion": self.occlusion,
        }
        return {kind: array for kind, array in known.items() if array is not None}

    def record(self) -> FlowRecord:
        """Return what frames.csv says of it."""
        estimate = self.estimate
        length = np.hypot(estimate.flow[..., 0], estimate.flow[..., 1])
        return FlowRecord(
            evaluations=dict(estimate.evaluations),
            cost=self.cost,
            residual=estimate.residual,
            uncertainty=None if estimate.uncertainty is None else float(estimate.uncertainty.mean()),
            milliseconds=self.milliseconds,
            outcome=estimate.outcome.name.lower().replace("_", " "),
            reused=self.reused,
            afresh=self.afresh,
            mean_motion=float(length.mean()),
            max_motion=float(length.max()),
            occluded=None if self.occlusion is None else float(self.occlusion.mean()),
        )


@dataclass(frozen=True)
class Pair:
    """Two frames and the flow between them.

    Attributes:
        frame: the first, shown until the second comes.
        second: the image of the second.
        solved: by direction, those that are to be written.
        cut: whether the two show different scenes.
        duplicate: whether they are equal.
        cold: the first direction solved from zero; None if that is not compared.
    """

    frame: VideoFrame
    second: Image
    solved: Mapping["Direction", Solved]
    cut: bool
    duplicate: bool
    cold: Solved | None = None

    def record(self) -> PairRecord:
        """Return what frames.csv says of it."""
        record = PairRecord(
            frame=self.frame.number,
            time=float(self.frame.time),
            cut=self.cut,
            duplicate=self.duplicate,
            flows={direction: solved.record() for direction, solved in self.solved.items()},
        )
        if self.cold is None:
            return record
        gap = next(iter(self.solved.values())).estimate.flow - self.cold.estimate.flow
        return replace(
            record,
            cold_cost=self.cold.cost,
            cold_milliseconds=self.cold.milliseconds,
            difference=float(np.hypot(gap[..., 0], gap[..., 1]).mean()),
        )

    def shown(self, direction: "Direction", scale: float, *, legend: bool = False) -> ShownPair:
        """Return it as the renderings take it, the flow starting from its ``frame1``."""
        solved = self.solved[direction]
        frames = (self.frame.image, self.second)
        first, second = frames if direction == "forward" else frames[::-1]
        return ShownPair(
            first,
            second,
            solved.estimate.flow,
            scale,
            occlusion=solved.occlusion,
            uncertainty=solved.estimate.uncertainty,
            movement=solved.movement,
            cut=self.cut,
            legend=legend,
        )


def push(
    stream: "FlowStream",
    frame: VideoFrame | Image,
    directions: "tuple[Direction, ...]",
    wanted: Collection[str] = (),
) -> "dict[Direction, Solved]":
    """Let a stream take a frame and return the flow between it and its neighbor before, if it has one.

    Args:
        stream: encodes and solves.
        frame: the next.
        directions: to solve.
        wanted: "movement" and "occlusion", if somebody asks for them; what else is in it is there anyway.
    """
    from deqflow.video import take

    began = time.perf_counter()
    paired = take(stream, frame)
    encoding = time.perf_counter() - began
    found: dict[Direction, Solved] = {}
    if not paired:
        return found
    for direction in directions:
        began = time.perf_counter()
        estimate = stream.forward() if direction == "forward" else stream.backward()
        milliseconds = 1000 * (time.perf_counter() - began + (0 if found else encoding))
        cost, reused, afresh = stream.cost, stream.reused, stream.afresh
        movement = stream.movement(direction) if "movement" in wanted else None
        found[direction] = Solved(estimate, milliseconds, cost, reused, afresh, movement)
    if "occlusion" in wanted:
        for direction, solved in found.items():
            found[direction] = replace(solved, occlusion=stream.occlusion(direction))
    return found
