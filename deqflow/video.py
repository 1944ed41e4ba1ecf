"""Flow of a whole video, in one call."""

from collections.abc import Iterable, Iterator
from itertools import islice
from os import PathLike
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from deqflow.config import SolveOptions
from deqflow.errors import ConfigError, VideoError
from deqflow.estimate import FlowEstimate
from deqflow.estimator import DEQFlow
from deqflow.io import Deinterlace, VideoFrame, VideoSource, open_video, shrink
from deqflow.stream import Direction, FlowStream


def estimate_video(
    source: str | PathLike[str] | int | VideoSource | Iterable[NDArray[Any]],
    model: DEQFlow,
    *,
    reuse: bool = True,
    check: bool = True,
    detect_cuts: bool = True,
    direction: Direction = "forward",
    max_frames: int | None = None,
    max_side: int | None = None,
    start: str | float | None = None,
    end: str | float | None = None,
    stride: int = 1,
    roi: tuple[int, int, int, int] | None = None,
    resize: tuple[int, int] | None = None,
    stream: int | None = None,
    deinterlace: Deinterlace = "auto",
    **options: Unpack[SolveOptions],
) -> Iterator[FlowEstimate]:
    """Estimate the flow of every consecutive pair of frames, lazily.

    Args:
        source: a video as for `deqflow.io.open_video`, or the frames themselves. There is no pair across a
            gap in numbered images.
        model: the estimator.
        reuse: start each solve from the one before; see `FlowStream`.
        check: trust a start only where it explains the frames.
        detect_cuts: drop the state of a pair across a cut.
        direction: whether flow leads from a frame to the next or from that back.
        max_frames: read no more frames than this.
        max_side: scale frames down to this many pixels on the longer side; the flow is of the scaled frames.
        start: of a video to be opened, where to begin, and so on to ``deinterlace``: see
            `deqflow.io.open_video`.
        end: where to stop.
        stride: take every so many frames.
        roi: left, top, width and height of the part of every frame to read.
        resize: width and height to scale frames to.
        stream: index of the video stream.
        deinterlace: whether to.
        options: how to solve, as in `DEQFlow.forward`.

    Raises:
        ConfigError: one of the arguments from ``start`` on, with a source that is open already.
        VideoError: the source cannot be read, has fewer than two frames or frames of different sizes.
        ImageError: a frame that cannot be used.
    """
    view: dict[str, Any] = {
        "start": start, "end": end, "stride": stride, "roi": roi, "resize": resize,
        "stream": stream, "deinterlace": deinterlace,
    }  # fmt: skip
    frames: VideoSource | Iterable[NDArray[Any]]
    if isinstance(source, str | PathLike | int):
        frames = open_video(source, **view, max_frames=max_frames, max_side=max_side)
    else:
        frames = source
        asked = [name for name, value in view.items() if value not in (None, 1, "auto")]
        if asked:
            raise ConfigError(f"{asked[0]} is for a video that is opened here: give it to open_video")
    name = frames.name if isinstance(frames, VideoSource) else "the video"
    flows = FlowStream(model, reuse=reuse, check=check, detect_cuts=detect_cuts, **options)
    count = 0
    timed = frames.frames() if isinstance(frames, VideoSource) else frames
    for frame in islice(timed, max_frames):
        count += 1
        if isinstance(frame, VideoFrame) and not frame.follows:
            flows.reset()
        array = frame.image if isinstance(frame, VideoFrame) else np.asarray(frame)
        if flows.take(array if max_side is None else shrink(array, max_side)):
            yield flows.forward() if direction == "forward" else flows.backward()
    check_enough_frames(count, name)


def check_enough_frames(count: int, name: str) -> None:
    """Raise VideoError unless there were two frames, between which there can be flow."""
    if count < 2:
        found = "only one frame" if count else "no frames"
        raise VideoError(f"{name} has {found}, flow needs at least two")
