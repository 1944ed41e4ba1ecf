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
        VideoError: the source cannot be read, has no two neighboring frames or frames of different sizes.
        ImageError: a frame that cannot be used.
    """
    view: dict[str, Any] = {
        "start": start, "end": end, "stride": stride, "roi": roi, "resize": resize,
        "stream": stream, "deinterlace": deinterlace,
    }  # fmt: skip
    asked = [name for name, value in view.items() if value not in (None, 1, "auto")]
    if isinstance(source, str | PathLike | int):
        source = open_video(source, **view, max_frames=max_frames, max_side=max_side)
    elif asked:
        raise ConfigError(f"{asked[0]} is for a video that is opened here: give it to open_video")
    name = source.name if isinstance(source, VideoSource) else "the video"
    frames: Iterable[VideoFrame | NDArray[Any]] = source
    if isinstance(source, VideoSource):
        frames = source.frames()
    flows = FlowStream(model, reuse=reuse, check=check, detect_cuts=detect_cuts, **options)
    count = pairs = 0
    for frame in islice(frames, max_frames):
        count += 1
        if take(flows, frame, max_side):
            pairs += 1
            yield flows.forward() if direction == "forward" else flows.backward()
    check_enough_frames(count, pairs, name)


def take(stream: FlowStream, frame: VideoFrame | NDArray[Any], max_side: int | None = None) -> bool:
    """Let a stream take the next frame of a video; return whether the one before it is its neighbor.

    Args:
        stream: forgets what it knows where there is a gap before the frame.
        frame: the next.
        max_side: scale it down to this many pixels on the longer side.
    """
    if isinstance(frame, VideoFrame):
        if not frame.follows:
            stream.reset()
        frame = frame.image
    image = np.asarray(frame)
    return stream.take(image if max_side is None else shrink(image, max_side))


def check_enough_frames(frames: int, pairs: int, name: str) -> None:
    """Raise VideoError unless some of a video's frames were pairs of neighbors: there is no flow else."""
    if frames < 2:
        found = "only one frame" if frames else "no frames"
        raise VideoError(f"{name} has {found}, flow needs at least two")
    if not pairs:
        raise VideoError(f"{name} has no two neighboring frames")
