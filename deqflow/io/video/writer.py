"""Frames to a video that every player shows."""

from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from deqflow.errors import VideoError
from deqflow.io.video.frames import Image


class VideoWriter:
    """Writes frames to an mp4 (H.264, yuv420p) that every player shows.

    A context manager: leaving it, also by an exception or Ctrl-C, finishes the file. Should the process be
    killed, the file plays up to about the last half second: it grows in fragments, which closing turns into
    an ordinary mp4. Sides of odd length get one more row or column, which H.264 needs.
    """

    def __init__(self, path: str | PathLike[str], fps: float, *, quality: int = 18) -> None:
        """Creates the file.

        Args:
            path: ending in .mp4; replaced if it exists.
            fps: frames per second.
            quality: x264's constant rate factor, 0 (lossless) to 51; 18 is visually lossless.

        Raises:
            VideoError: the suffix is not .mp4 or the file cannot be created.
        """
        self.path = Path(path)
        self.frames_written = 0
        if self.path.suffix.lower() != ".mp4":
            raise VideoError(f"cannot write {self.path}: expected a name ending in .mp4")
        options = {"movflags": "hybrid_fragmented+frag_keyframe", "flush_packets": "1"}
        try:
            self.path.open("wb").close()  # PyAV itself would only find out at the first frame
            self._container = av.open(str(self.path), "w", options=options)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"cannot write {self.path}: {error.strerror or error}") from error
        rate = Fraction(fps).limit_denominator(1001)
        # zerolatency: nothing waits in the encoder, so an interrupted file has (nearly) all its frames.
        encoder = {"crf": str(quality), "preset": "medium", "tune": "zerolatency"}
        self._stream = self._container.add_stream("libx264", rate=rate, options=encoder)
        self._stream.gop_size = max(1, round(fps / 2))
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        # BT.709, said in the file: unlabelled video is shown in different colours by different players.
        codec.colorspace = codec.color_range = codec.color_primaries = codec.color_trc = 1

    def write(self, frame: Image) -> None:
        """Appends a frame, uint8 RGB (H, W, 3), of the size of the first.

        Raises:
            VideoError: another shape or type.
        """
        height, width = frame.shape[:2]
        if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
            raise VideoError(f"expected uint8 (H, W, 3) to write, got {frame.dtype} {frame.shape}")
        even = (height + height % 2, width + width % 2)
        if not self.frames_written:
            self._stream.height, self._stream.width = even
        if even != (self._stream.height, self._stream.width):
            raise VideoError(f"frame {self.frames_written + 1} of {self.path} differs in size from the first")
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(padded, "rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,  # PyAV never ends its pool of threads, and a later fork would hang on it
        )
        self._container.mux(self._stream.encode(picture))
        self.frames_written += 1

    def close(self) -> None:
        """Finishes the file; without a frame nothing can be finished and the file is removed."""
        if self.frames_written:
            self._container.mux(self._stream.encode())
        self._container.close()
        if not self.frames_written:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
