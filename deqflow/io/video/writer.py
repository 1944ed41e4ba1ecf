"""Frames to a video that every player shows, or to numbered images, each at its time."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from deqflow.errors import VideoError
from deqflow.io.files import Closing, ffmpeg_name
from deqflow.io.images import write_image
from deqflow.io.video.encoders import ENCODERS, Encoder, Palette
from deqflow.io.video.frames import Image, Sound, VideoFrame
from deqflow.io.video.sound import SoundCopy

FRAME_SUFFIX = ".png"
"""Of an output that is a series of images rather than one file."""

OUTPUT_SUFFIXES = (*ENCODERS, FRAME_SUFFIX)


class FrameWriter(Protocol):
    """Takes frames one after the other; a context manager that finishes what was written, however it ends."""

    frames_written: int
    notes: list[str]

    def write(self, frame: Image | VideoFrame) -> None:
        """Append a frame."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish."""


@dataclass
class Clock:
    """The time of a video, which may go on over several files.

    Attributes:
        began: time of the first frame; None before it.
        last: ticks from there to the last frame; None before the first.
    """

    began: Fraction | None = None
    last: int | None = None


class VideoWriter(Closing):
    """Writes a video: H.264 as .mp4, .mov or .mkv, VP9 as .webm, or an animated .gif or .webp.

    A context manager: leaving it, also by an exception or Ctrl-C, finishes the file. Should the process be
    killed, all but .webp plays up to about the last half second. Where the encoder needs even sides, odd ones
    get one more row or column.

    Attributes:
        frames_written: how many frames were taken.
        notes: what could not be done, a sentence each.
        clock: the time at which it is.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        fps: float,
        *,
        quality: int = 18,
        time_base: Fraction | None = None,
        pixel_aspect: Fraction = Fraction(1),
        sound: Sound | None = None,
        clock: "Clock | None" = None,
        encoder: Encoder | None = None,
    ) -> None:
        """Create the file.

        Args:
            path: its suffix is one of those above; replaced if it exists.
            fps: frames per second of frames without a time.
            quality: x264's constant rate factor, 0 (lossless) to 51, or what comes near it elsewhere; 18 is
                visually lossless.
            time_base: unit of the times, which the file then keeps exactly if it can; without it, one frame.
            pixel_aspect: width of a pixel over its height, as it is to be shown; where the file cannot say
                it, frames are made as wide as they are to be shown.
            sound: sound to copy, where the file can hold it.
            clock: the one of the whole video, if this is a part of it.
            encoder: how to write the file; None takes what its suffix says.

        Raises:
            VideoError: another suffix, or the file cannot be created.
        """
        self.path = Path(path)
        self.frames_written = 0
        self.notes: list[str] = []
        suffix = self.path.suffix.lower()
        if encoder is None and suffix not in ENCODERS:
            raise VideoError(f"cannot write {self.path}: expected a name ending in {', '.join(ENCODERS)}")
        self._encoder = encoder or ENCODERS[suffix]
        self._fps = Fraction(fps).limit_denominator(1001 if fps >= 1 else 86400)
        self._tick = self._encoder.tick or time_base or 1 / self._fps
        self.clock = clock or Clock()
        self._quality, self._aspect, self._sound = quality, pixel_aspect, sound
        self._first = 0
        self._end = Fraction(0)
        self._copy: SoundCopy | None = None
        self._palette: Palette | None = None
        with self._writing():
            self.path.open("wb").close()  # PyAV itself would only find out at the first frame
            self._open()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VideoError(f"cannot write {self.path}: {error.strerror or error}") from error
        except av.FFmpegError as error:
            raise VideoError(f"cannot write {self.path}{self._size()}: {error.strerror or error}") from error

    def _size(self) -> str:
        """Say how large frames are: most encoders have a limit, and say nothing of it."""
        if not self.frames_written:
            return ""
        return f", {self._stream.width}x{self._stream.height} pixels in {self._encoder.codec}"

    def _open(self) -> None:
        how = self._encoder
        self._container = av.open(ffmpeg_name(self.path), "w", format=how.muxer, options=how.muxing)
        options = how.options(self._quality)
        stream = self._container.add_stream(how.codec, rate=self._fps, options=options)
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        self._stream.pix_fmt = how.pixels
        codec = self._stream.codec_context
        codec.time_base = self._tick
        if how.pixels == "yuv420p":
            self._stream.gop_size = max(1, round(self._fps / 2))
            codec.sample_aspect_ratio = self._aspect
            # BT.709, said in the file: unlabeled video is shown in different colors by different players.
            codec.colorspace = codec.color_range = codec.color_primaries = codec.color_trc = 1

    def write(self, frame: Image | VideoFrame) -> None:
        """Append a frame.

        Args:
            frame: uint8 RGB (H, W, 3), of the size of the first. With a time it is shown then, where that of
                the first is the beginning of the file; without one, a frame later than the one before.

        Raises:
            VideoError: another shape or type, or the file cannot be written on.
        """
        if not isinstance(frame, VideoFrame):
            frame = VideoFrame(frame, self.frames_written / self._fps, self.frames_written + 1, "")
        image = frame.image
        height, width = image.shape[:2]
        if image.dtype != np.uint8 or image.shape != (height, width, 3):
            raise VideoError(f"expected uint8 (H, W, 3) to write, got {image.dtype} {image.shape}")
        if self._aspect != 1 and not self._encoder.aspect:
            width = max(1, round(width * self._aspect))
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        if self._encoder.even:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        size = image.shape[:2]
        if not self.frames_written:
            self._begin(size, frame.time)
        if size != (self._stream.height, self._stream.width):
            raise VideoError(f"frame {self.frames_written + 1} of {self.path} differs in size from the first")
        assert self.clock.began is not None
        at = frame.time - self.clock.began
        self.frames_written += 1
        self._end = at + (frame.duration or 1 / self._fps)
        stamp = round(at / self._tick)
        if self.clock.last is not None and stamp < self.clock.last + self._encoder.shortest:
            return
        self.clock.last = stamp
        with self._writing():
            self._copy_sound(at)
            duration = max(self._encoder.shortest, round(self._end / self._tick) - stamp)
            self._encode(image, stamp - self._first, duration)

    def _begin(self, size: tuple[int, ...], time: Fraction) -> None:
        """Add the sound, whose place in time is known now, and write the header."""
        if self.clock.began is None:
            self.clock.began = time
        self._first = round((time - self.clock.began) / self._tick)
        self._stream.height, self._stream.width = size
        if self._encoder.codec == "gif":
            self._palette = Palette(size[1], size[0], self._tick)
        if self._sound is None or not self._encoder.sound:
            return
        try:
            self._copy = SoundCopy(self._sound, self._container, time)
            self._container.start_encoding()
            return
        except (av.FFmpegError, ValueError):
            suffix, codec = self.path.suffix, self._sound.codec
            self.notes.append(f"the sound is left out of {self.path}: {suffix} files do not take {codec}")
        if self._copy is not None:
            self._copy.close()
            self._copy = None
        self._container.close()  # a stream may have been added
        self._open()
        self._stream.height, self._stream.width = size

    def _encode(self, frame: Image, stamp: int, duration: int) -> None:
        picture = av.VideoFrame.from_ndarray(frame, "rgb24")
        video = self._encoder.pixels == "yuv420p"
        if self._palette is None:
            picture = picture.reformat(
                format=self._encoder.pixels,
                dst_colorspace=Colorspace.ITU709 if video else None,
                dst_color_range=ColorRange.MPEG if video else None,
                threads=1,  # PyAV never ends its pool of threads, and a later fork would hang on it
            )
        picture.pts, picture.time_base = stamp, self._tick
        for ready in self._palette.reduce(picture) if self._palette else (picture,):
            for packet in self._stream.encode(ready):
                packet.duration = duration
                self._container.mux(packet)

    def _copy_sound(self, until: Fraction) -> None:
        if self._copy is None:
            return
        try:
            for packet in self._copy.until(until):
                self._container.mux(packet)
        except (av.FFmpegError, ValueError) as error:
            self.notes.append(f"the sound of {self.path} ends after {float(until):.1f} seconds: {error}")
            self._copy.close()
            self._copy = None

    def close(self) -> None:
        """Finish the file; without a frame nothing can be finished and the file is removed.

        Raises:
            VideoError: it cannot be written.
        """
        with self._writing():
            if self.frames_written:
                self._copy_sound(self._end)
                self._container.mux(self._stream.encode())
            if self._copy is not None:
                self._copy.close()
            self._container.close()
        if not self.frames_written:
            self.path.unlink(missing_ok=True)


class ImageWriter:
    """Writes frames to numbered images: ``name.png`` stands for ``name_000001.png`` and so on.

    Attributes:
        frames_written: how many.
        notes: none.
    """

    def __init__(self, path: Path, place: Callable[[Path], Path] = Path) -> None:
        """Begin; ``place`` says where a file is written that is to be at a path."""
        self.path, self._place = path, place
        self.frames_written = 0
        self.notes: list[str] = []

    @staticmethod
    def file(path: Path, number: int) -> Path:
        """Return the image of a frame."""
        return path.with_name(f"{path.stem}_{number:06d}{path.suffix}")

    def write(self, frame: Image | VideoFrame) -> None:
        """Write a frame; without a number of its own it gets the next one."""
        self.frames_written += 1
        if not isinstance(frame, VideoFrame):
            frame = VideoFrame(frame, Fraction(0), self.frames_written, "")
        write_image(self._place(self.file(self.path, frame.number)), frame.image)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to finish."""
