"""Milliseconds per frame of video: solved anew and from the last fixed point, beside RAFT-small and DIS."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deqflow import zoo
from deqflow.devices import stopwatch
from deqflow.estimator import DEQFlow
from deqflow.evaluation.baselines import dis_flow
from deqflow.stream import FlowStream
from deqflow.tables import markdown

Image = NDArray[np.uint8]

BASELINE, ITERATIONS = "raft-small", 12
"""The recurrent model beside ours, and its iterations on video."""

WARM_UP = 2
"""Pairs of a clip that do not count: nothing is carried to the first, and kernels are chosen in it."""


class FrameTiming(NamedTuple):
    """What a way takes per pair of frames.

    Attributes:
        milliseconds: of each pair.
        cost: evaluations of the 1/8 grid, mean, coarse solves and checks counted; NaN of ways without such.
    """

    milliseconds: list[float]
    cost: float


def time_video(model: DEQFlow, frames: Sequence[Image], size: tuple[int, int]) -> dict[str, FrameTiming]:
    """Time all ways on a clip, frame by frame in turns: a machine whose speed drifts slows all of them alike.

    Args:
        model: in evaluation mode; RAFT-small, with random weights, computes in its precision.
        frames: uint8 RGB, at least four.
        size: height and width that they are resized to.
    """
    recurrent = zoo.create(BASELINE).to(model.device).eval().requires_grad_(False)
    recurrent.precision = model.precision
    streams = {
        f"{model.name}, solved anew": FlowStream(model, reuse=False),
        f"{model.name}, with reuse": FlowStream(model),
        f"{BASELINE}, {ITERATIONS} iterations": FlowStream(
            recurrent, reuse=False, steps=ITERATIONS, tolerance=0.0, detect_cuts=False
        ),
    }
    last: list[Image] = []

    def dis(image: Image) -> None:
        if last:
            dis_flow(last[0], image)
        last[:] = [image]

    ways: dict[str, Callable[[Image], object]] = {name: stream.push for name, stream in streams.items()}
    ways["DIS"] = dis
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in streams}
    clock = stopwatch(torch.device(model.device))
    for number, frame in enumerate(frames):
        image = np.asarray(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        for name, push in ways.items():
            next(clock)
            push(image)
            seconds = next(clock)
            if number > WARM_UP:
                milliseconds[name].append(1000 * seconds)
                if name in streams:
                    costs[name].append(streams[name].cost)
    return {
        name: FrameTiming(times, fmean(costs[name]) if name in costs else float("nan"))
        for name, times in milliseconds.items()
    }


def video_table(found: Mapping[tuple[int, int], Mapping[str, FrameTiming]]) -> str:
    """Return a Markdown table of medians, a row per size and way."""
    rows = []
    for (height, width), ways in found.items():
        for name, timing in ways.items():
            cost = "" if np.isnan(timing.cost) else f"{timing.cost:.1f}"
            rows.append([f"{width}x{height}", name, f"{median(timing.milliseconds):.0f}", cost])
    return "\n".join(markdown(["frame", "way", "ms per frame, median", "cost"], rows))
