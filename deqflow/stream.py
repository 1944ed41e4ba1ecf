"""Flow of a video, frame by frame: each solve starts where the last one ended, carried along the motion."""

from collections.abc import Iterable, Iterator
from itertools import islice
from os import PathLike
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deqflow.config import SolveOptions
from deqflow.equilibrium import Outcome
from deqflow.errors import VideoError
from deqflow.estimate import FlowEstimate
from deqflow.estimator import DEQFlow, EncodedFrame, PreparedPair
from deqflow.geometry import forward_splat
from deqflow.io import VideoFrame, VideoSource, open_video, shrink
from deqflow.io.frames import Frame
from deqflow.step import FlowState, carry

_THUMBNAIL = 64  # pixels of the longer side
_CUT_CORRELATION = 0.5
_CUT_DIFFERENCE = 8.0


class FlowStream:
    """Estimates flow between consecutive frames as they come.

    Every frame is encoded once. With ``reuse``, the fixed point of a pair starts the solve of the next
    (fixed-point reuse, Bai et al., CVPR 2022): motion mostly goes on, so fewer steps remain to the same
    tolerance. Frame t's state belongs to its pixels; with ``warp`` it is carried along its own flow
    to where those pixels are in frame t + 1. What is uncovered (holes) keeps the state that was there before.

    At a cut there is nothing to reuse: the solve starts as that of a first pair does (see `is_cut`). The flow
    across a cut is estimated all the same, so that there is always one estimate per pair of frames.

    Attributes:
        frames: how many frames have been pushed.
        reused: whether the last estimate started from the one before.
    """

    def __init__(
        self,
        model: DEQFlow,
        *,
        reuse: bool = True,
        warp: bool = True,
        detect_cuts: bool = True,
        **options: Unpack[SolveOptions],
    ) -> None:
        """Prepare a stream; ``options`` say how to solve, as in `DEQFlow.forward`."""
        self.model, self.settings = model, model.settings(**options)
        self.reuse, self.warp, self.detect_cuts = reuse, warp, detect_cuts
        self.frames = 0
        self.reused = False
        self._size: torch.Size | None = None
        self._frame: EncodedFrame | None = None
        self._state: FlowState | None = None

    def reset(self) -> None:
        """Forgets everything: the next frame is a first frame, of any size."""
        self._size = self._frame = self._state = None
        self.frames = 0
        self.reused = False

    @torch.inference_mode()
    def push(self, frame: Frame) -> FlowEstimate | None:
        """Takes the next frame and returns the flow from the one before to it; None for the first.

        Args:
            frame: path or array, as for `DEQFlow.estimate`.

        Raises:
            ImageError: the frame cannot be used.
            VideoError: its size is not that of the frames before.
        """
        image = self.model.to_tensor(frame, f"frame {self.frames + 1}")
        if self._size is not None and image.shape != self._size:
            raise VideoError(
                f"frame {self.frames + 1} is {image.shape[3]}x{image.shape[2]} pixels, "
                f"those before are {self._size[3]}x{self._size[2]}"
            )
        self._size = image.shape
        padding = self.model.padding(image)
        padded = padding.pad(image)
        # Without reuse every pair is solved at every scale; else ``solve`` encodes others when needed.
        scales = () if self.reuse else self.model.scales(padded, self.settings)
        encoded = self.model.encode(padded, scales)
        estimate = None
        if self._frame is not None:
            start = self._start(encoded)
            self.reused = start is not None
            solution = self.model.solve(PreparedPair(self._frame, encoded, padding), start, self.settings)
            estimate = self.model.decode(solution, padding)[0]
            # What diverged is no place to start from.
            self._state = None if estimate.outcome is Outcome.DIVERGED else estimate.state
        self._frame = encoded
        self.frames += 1
        return estimate

    def _start(self, new: EncodedFrame) -> FlowState | None:
        """Where to start the solve from the last frame to the new one; None for a cold start."""
        if not self.reuse or self._state is None or self._frame is None:
            return None
        start = carry(self._state) if self.warp else self._state
        if not self.detect_cuts:
            return start
        last, image = (_brightness(frame.image) for frame in (self._frame, new))
        return None if is_cut(last, image, start.flow) else start


def is_cut(last: Tensor, new: Tensor, flow: Tensor) -> bool:
    """Whether a new scene begins: the new frame resembles neither the last nor where its motion leads.

    Both comparisons are made on thumbnails. It is a cut if their correlation is below 0.5 and they differ by
    more than 8 gray levels on average. (Correlation, as it is blind to flashes and exposure. Neighbouring
    frames of ordinary video stay above 0.9, fast motion at ten frames per second above 0.7; 95 % of unrelated
    pairs are below 0.4. A start from the wrong state mostly costs some steps: the solver still iterates.)

    Args:
        last: brightness 0..255 on the flow's grid, (1, 1, h, w).
        new: the same of the new frame.
        flow: (1, 2, h, w), expected to lead from the last to the new frame.
    """
    moved, weight = forward_splat(last, flow)
    predicted = torch.where(weight > 0.5, moved, last)
    return all(_differ(old, new) for old in (last, predicted))


def _differ(first: Tensor, second: Tensor) -> bool:
    height, width = first.shape[-2:]
    factor = max(1.0, max(height, width) / _THUMBNAIL)
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    a, b = (F.adaptive_avg_pool2d(image, size).flatten() for image in (first, second))
    if float((a - b).abs().mean()) <= _CUT_DIFFERENCE:
        return False
    a, b = a - a.mean(), b - b.mean()
    correlation = float(a @ b / (a.norm() * b.norm()).clamp_min(1e-6))
    return correlation < _CUT_CORRELATION


def _brightness(image: Tensor) -> Tensor:
    return F.avg_pool2d(image.mean(1, keepdim=True), 8)


def estimate_video(
    source: str | PathLike[str] | int | VideoSource | Iterable[NDArray[Any]],
    model: DEQFlow,
    *,
    reuse: bool = True,
    warp: bool = True,
    detect_cuts: bool = True,
    max_frames: int | None = None,
    max_side: int | None = None,
    **options: Unpack[SolveOptions],
) -> Iterator[FlowEstimate]:
    """Estimates the flow of every consecutive pair of frames, lazily.

    Args:
        source: a video as for `deqflow.io.open_video`, or the frames themselves. There is no pair across a
            gap in numbered images.
        model: the estimator.
        reuse: start each solve from the one before; see `FlowStream`.
        warp: carry the reused state along the motion.
        detect_cuts: start anew at cuts.
        max_frames: read no more frames than this.
        max_side: scale frames down to this many pixels on the longer side; the flow is of the scaled frames.
        options: how to solve, as in `DEQFlow.forward`.

    Raises:
        VideoError: the source cannot be read, has fewer than two frames or frames of different sizes.
        ImageError: a frame that cannot be used.
    """
    frames = open_video(source) if isinstance(source, str | PathLike | int) else source
    name = frames.name if isinstance(frames, VideoSource) else "the video"
    stream = FlowStream(model, reuse=reuse, warp=warp, detect_cuts=detect_cuts, **options)
    count = 0
    timed = frames.frames() if isinstance(frames, VideoSource) else frames
    for frame in islice(timed, max_frames):
        count += 1
        if isinstance(frame, VideoFrame) and not frame.follows:
            stream.reset()
        array = frame.image if isinstance(frame, VideoFrame) else np.asarray(frame)
        estimate = stream.push(array if max_side is None else shrink(array, max_side))
        if estimate is not None:
            yield estimate
    check_enough_frames(count, name)


def check_enough_frames(count: int, name: str) -> None:
    """Raises VideoError unless there were two frames, between which there can be flow."""
    if count < 2:
        found = "only one frame" if count else "no frames"
        raise VideoError(f"{name} has {found}, flow needs at least two")
