"""A video in segments: each a finished file of its own, joined in the end without encoding again."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer

from deqflow.errors import VideoError
from deqflow.io.files import Closing, ffmpeg_name
from deqflow.io.video.encoders import ENCODERS, LOSSLESS
from deqflow.io.video.frames import Image, Sound, VideoFrame
from deqflow.io.video.sound import SoundCopy
from deqflow.io.video.writer import Clock, VideoWriter


@dataclass(frozen=True)
class Segment:
    """A finished segment.

    Attributes:
        frames: time and duration of each, seconds.
        first: ticks from the beginning of the video to its first frame.
        last: the same to its last frame.
    """

    frames: tuple[tuple[Fraction, Fraction], ...]
    first: int
    last: int

    def stored(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        frames = [[str(time), str(duration)] for time, duration in self.frames]
        return {"frames": frames, "first": self.first, "last": self.last}

    @classmethod
    def read(cls, stored: dict[str, Any]) -> "Segment":
        """Return what `stored` was made of."""
        frames = tuple((Fraction(time), Fraction(duration)) for time, duration in stored["frames"])
        return cls(frames, int(stored["first"]), int(stored["last"]))


class SegmentedVideo(Closing):
    """Writes a video as `VideoWriter` does, in segments that `cut` ends; `close` joins them.

    Runs that are cut at the same frames write the same, whether they are broken off in between or not. GIF
    and WebP, which cannot be joined as they are, are kept without loss until the end and encoded then.

    Attributes:
        segments: those that are finished.
        frames_written: how many frames were taken, earlier segments included.
        notes: what could not be done, a sentence each.
    """

    def __init__(
        self,
        path: Path,
        file: Callable[[int], Path],
        fps: float,
        *,
        time_base: Fraction,
        pixel_aspect: Fraction,
        sound: Sound | None,
        segments: Sequence[Segment] = (),
    ) -> None:
        """Begin, or go on behind some segments.

        Args:
            path: of the whole video, as for `VideoWriter`; created by `close`.
            file: where a segment is, by its number from 1, without a suffix.
            fps: as for `VideoWriter`.
            time_base: as for `VideoWriter`.
            pixel_aspect: as for `VideoWriter`.
            sound: as for `VideoWriter`; it is copied when the segments are joined.
            segments: those that are there.
        """
        self.path, self._file, self._sound = path, file, sound
        self._settings: dict[str, Any] = {"fps": fps, "time_base": time_base, "pixel_aspect": pixel_aspect}
        self._whole = ENCODERS[path.suffix.lower()]
        self._joins = self._whole.joins
        self._tick = self._whole.tick or time_base
        self.segments = list(segments)
        self.frames_written = sum(len(segment.frames) for segment in segments)
        self.notes: list[str] = []
        self._writer: VideoWriter | None = None
        self._clock = Clock()
        if segments:
            self._clock = Clock(segments[0].frames[0][0], segments[-1].last)
        self._frames: list[tuple[Fraction, Fraction]] = []
        self._first = 0

    def write(self, frame: Image | VideoFrame) -> None:
        """Append a frame, as `VideoWriter.write`; it needs a time and a duration."""
        assert isinstance(frame, VideoFrame) and frame.duration is not None
        if self._writer is None:
            self._writer = self._open(len(self.segments) + 1)
            began = frame.time if self._clock.began is None else self._clock.began
            self._first = round((frame.time - began) / self._tick)
        self._writer.write(frame)
        self._frames.append((frame.time, frame.duration))
        self.frames_written += 1

    def _open(self, number: int) -> VideoWriter:
        if self._joins:
            return VideoWriter(self._place(number), **self._settings, clock=self._clock)
        fps, time_base = self._settings["fps"], self._settings["time_base"]
        return VideoWriter(self._place(number), fps, time_base=time_base, clock=self._clock, encoder=LOSSLESS)

    def _place(self, number: int) -> Path:
        path = self._file(number)
        return path.with_name(path.name + (self.path.suffix.lower() if self._joins else ".mkv"))

    def cut(self) -> None:
        """Finish the segment that is being written, if there is one: what follows goes to another file.

        Raises:
            VideoError: it cannot be written.
        """
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.close()
        if not self._frames:  # not even one could be written
            return
        last = self._first if self._clock.last is None else self._clock.last
        self.segments.append(Segment(tuple(self._frames), self._first, last))
        self._frames = []

    def close(self) -> None:
        """Finish the last segment and join all; without a frame there will be no file.

        Raises:
            VideoError: it cannot be written.
        """
        self.cut()
        if not self.segments:
            return
        try:
            if self._joins:
                self._join()
            else:
                self._encode()
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _encode(self) -> None:
        """Write the whole video from the pictures of the segments."""
        with VideoWriter(self.path, **self._settings) as writer:
            for number, segment in enumerate(self.segments, 1):
                with av.open(ffmpeg_name(self._place(number))) as file:
                    # After an error the file may hold a frame more than was noted.
                    for picture, place in zip(file.decode(video=0), segment.frames, strict=False):
                        image = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
                        writer.write(VideoFrame(image, place[0], 0, "", duration=place[1]))

    def _join(self) -> None:
        """Copy the packets of the segments, and those of the sound between them."""
        begins = self.segments[0].frames[0][0]
        with contextlib.ExitStack() as stack:
            output, copy = self._output(stack, begins)
            for number, segment in enumerate(self.segments, 1):
                for packet in self._packets(number, segment, output):
                    assert packet.pts is not None and packet.time_base is not None
                    self._copy_sound(output, copy, packet.pts * packet.time_base)
                    output.mux(packet)
            time, duration = self.segments[-1].frames[-1]
            self._copy_sound(output, copy, time + duration - begins)

    def _output(
        self, stack: contextlib.ExitStack, begins: Fraction
    ) -> tuple[OutputContainer, SoundCopy | None]:
        """Open the file, with sound if it takes it."""
        if self._sound is not None and self._whole.sound:
            with contextlib.ExitStack() as attempt:
                output = self._video(attempt)
                try:
                    copy = SoundCopy(self._sound, output, begins)
                    attempt.callback(copy.close)
                    output.start_encoding()
                    stack.push(attempt.pop_all())
                    return output, copy
                except (av.FFmpegError, ValueError):
                    suffix, codec = self.path.suffix, self._sound.codec
                    self.notes.append(
                        f"the sound is left out of {self.path}: {suffix} files do not take {codec}"
                    )
        return self._video(stack), None

    def _video(self, stack: contextlib.ExitStack) -> OutputContainer:
        output = stack.enter_context(
            av.open(ffmpeg_name(self.path), "w", format=self._whole.muxer, options=self._whole.muxing)
        )
        with av.open(ffmpeg_name(self._place(1))) as file:
            stream = output.add_stream_from_template(file.streams.video[0])
            stream.codec_context.framerate = Fraction(self._settings["fps"]).limit_denominator(86400)
        return output

    def _packets(self, number: int, segment: Segment, output: OutputContainer) -> Iterator[Any]:
        """Read the packets of a segment, at their times in the whole."""
        time, duration = segment.frames[-1]
        ends = time + duration - self.segments[0].frames[0][0]
        with av.open(ffmpeg_name(self._place(number))) as file:
            for packet in file.demux(video=0):
                if not packet.size or packet.pts is None or packet.time_base is None:
                    continue
                shift = round(segment.first * self._tick / packet.time_base)
                packet.dts = packet.pts = packet.pts + shift  # no encoder here reorders frames
                if packet.pts * packet.time_base >= segment.last * self._tick:
                    # Not every container says it of its last frame.
                    packet.duration = max(1, round(ends / packet.time_base) - packet.pts)
                packet.stream = output.streams.video[0]
                yield packet

    def _copy_sound(self, output: OutputContainer, copy: SoundCopy | None, until: Fraction) -> None:
        if copy is None:
            return
        try:
            for packet in copy.until(until):
                output.mux(packet)
        except (av.FFmpegError, ValueError) as error:
            note = f"the sound of {self.path} ends after {float(until):.1f} seconds: {error}"
            if not self.notes or not self.notes[-1].startswith(f"the sound of {self.path} ends"):
                self.notes.append(note)
