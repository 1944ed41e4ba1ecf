"""Video in and out: any file FFmpeg reads, image sequences and webcams to frames; frames to mp4."""

import contextlib
import glob
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import cv2
import imageio.v3 as iio
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from deqflow.errors import VideoError
from deqflow.io.files import natural_key
from deqflow.io.images import IMAGE_SUFFIXES, SMALLEST_SIDE, quiet_opencv, read_image

Frame = NDArray[np.uint8]

SEQUENCE_FPS = 25.0
"""Assumed of image sequences, which do not say."""


@dataclass(frozen=True)
class VideoSource:
    """Frames in order, uint8 RGB (H, W, 3), all of one size; iterating again starts over (not for a webcam).

    Attributes:
        name: what to call the source in a message.
        fps: frames per second.
        size: (height, width).
        frame_count: how many frames are announced; None if unknown. Files sometimes announce wrongly.
        read: starts reading, one frame at a time.
    """

    name: str
    fps: float
    size: tuple[int, int]
    frame_count: int | None
    read: Callable[[], Iterator[Frame]]

    def __iter__(self) -> Iterator[Frame]:
        """Reads from the start; raises VideoError at a frame that is broken or has another size."""
        with contextlib.closing(self.read()) as frames:  # type: ignore[type-var]
            for index, frame in enumerate(frames):
                if frame.shape[:2] != self.size:
                    (height, width), found = self.size, frame.shape
                    raise VideoError(
                        f"frame {index + 1} of {self.name} is {found[1]}x{found[0]} pixels, "
                        f"those before are {width}x{height}"
                    )
                yield frame


def open_video(source: str | PathLike[str] | int, *, fps: float | None = None) -> VideoSource:
    """Opens a source of frames.

    Args:
        source: a video file (anything FFmpeg reads, also a URL), a folder of images, a pattern of images
            (``frames/*.png`` or ``frames/%04d.png``), or the index of a webcam (an int or its digits).
            Images are taken in natural order (2 before 10). Rotation stored in a video is applied.
        fps: frames per second, instead of what the source says (image sequences: 25).

    Raises:
        VideoError: nothing there, not a video, no frames, or frames below 16 pixels.
    """
    if fps is not None and not fps > 0:
        raise VideoError(f"frames per second must be positive, got {fps:g}")
    path = Path(str(source))
    if isinstance(source, int) or (str(source).isdecimal() and not path.exists()):
        opened = _open_webcam(int(str(source)), fps)
    elif path.is_dir():
        images = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
        opened = open_images(images, f"the folder {path}", fps)
    elif not path.exists() and re.search(r"[*?\[]|%0?\d*d", str(path)):
        pattern = re.sub(r"%0?\d*d", "[0-9]*", str(path))
        opened = open_images([Path(match) for match in glob.glob(pattern)], f"the pattern {path}", fps)
    else:
        opened = _open_file(str(source), fps)
    if min(opened.size) < SMALLEST_SIDE:
        height, width = opened.size
        raise VideoError(
            f"{opened.name} has frames of {width}x{height} pixels, "
            f"expected at least {SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )
    return opened


def open_images(paths: list[Path], name: str = "the image sequence", fps: float | None = None) -> VideoSource:
    """Makes a video of image files, in natural order of their names."""
    paths = sorted(paths, key=natural_key)
    if not paths:
        raise VideoError(f"{name} holds no images (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    height, width = read_image(paths[0]).shape[:2]
    return VideoSource(
        name, fps or SEQUENCE_FPS, (height, width), len(paths), lambda: (read_image(path) for path in paths)
    )


def _open_file(name: str, fps: float | None) -> VideoSource:
    if "://" not in name:
        try:
            Path(name).open("rb").close()
        except OSError as error:
            raise VideoError(f"cannot read {name}: {error.strerror or error}") from error
    try:
        with iio.imopen(name, "r", plugin="pyav") as file:
            metadata = file.metadata()
            announced, height, width = file.properties().shape[:3]
            turns = _quarter_turns(file.metadata(index=0))  # decodes the first frame: there is one
    except _READ_ERRORS as error:
        raise VideoError(f"{name} is not a video that FFmpeg can read, or has no frames") from error
    size = (width, height) if turns % 2 else (height, width)
    rate = fps or float(metadata.get("fps") or SEQUENCE_FPS)
    return VideoSource(name, rate, size, announced or None, lambda: _read_file(name, turns))


# imageio says OSError for what no plugin opens and lets IndexError through for a file with sound only.
_READ_ERRORS = (av.FFmpegError, OSError, IndexError, StopIteration, ValueError)


def _read_file(name: str, turns: int) -> Iterator[Frame]:
    try:
        with iio.imopen(name, "r", plugin="pyav") as file:
            for frame in file.iter():
                yield np.ascontiguousarray(np.rot90(frame, turns))
    except _READ_ERRORS as error:
        raise VideoError(f"{name} breaks off or is damaged: {error}") from error


def _quarter_turns(metadata: dict[str, Any]) -> int:
    """How many counter-clockwise quarter turns show a frame upright, from FFmpeg's display matrix."""
    matrix = metadata.get("DISPLAYMATRIX")
    if matrix is None or len(matrix) < 36:
        return 0
    # Nine integers, of which the first two, (cos, sin) of a clockwise angle up to scale, tell the turn.
    cosine, sine = (float(value) for value in np.frombuffer(matrix, np.int32, count=2))
    return -round(float(np.degrees(np.arctan2(sine, cosine))) / 90) % 4


def _open_webcam(index: int, fps: float | None) -> VideoSource:
    with quiet_opencv():
        camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise VideoError(f"no file is named {index} and no webcam has this index")
        done, frame = camera.read()
        if not done:
            raise VideoError(f"webcam {index} gives no frames")
        rate = fps or camera.get(cv2.CAP_PROP_FPS) or SEQUENCE_FPS
    finally:
        camera.release()
    height, width = frame.shape[:2]
    return VideoSource(f"webcam {index}", rate, (height, width), None, lambda: _read_webcam(index))


def _read_webcam(index: int) -> Iterator[Frame]:
    camera = cv2.VideoCapture(index)
    try:
        while True:
            done, frame = camera.read()
            if not done:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # type: ignore[misc]
    finally:
        camera.release()


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
        # PyAV directly: imageio's writer has no way to set the encoder's options.
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

    def write(self, frame: Frame) -> None:
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
