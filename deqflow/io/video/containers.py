"""Frames of what FFmpeg reads: files, addresses and pipes; every frame that decodes, each with its time."""

import contextlib
import warnings
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

import av
from av.container import InputContainer
from av.stream import Discard, Disposition

from deqflow.errors import VideoError, VideoWarning
from deqflow.io.video.frames import MOST_PIXELS, Sound, VideoFrame, VideoSource, check_size, plausible_rate
from deqflow.io.video.pictures import deinterlace, display_matrix, is_turned, upright_rgb
from deqflow.io.video.seeking import frame_stamps
from deqflow.io.video.selection import WHOLE, Moment, Place, Span

Deinterlace = Literal["auto", "on", "off"]

_UNREADABLE = (av.FFmpegError, OSError, ValueError)

_PATIENCE = 64
"""Failures to read on, one after the other, after which the rest of a file is given up."""

_RUN_UP = 16
"""Frames before the one sought from which to decode: none is predicted from frames further behind it."""

_TAIL = 0.5
"""Seconds by which a file may be longer than its video."""

_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


@dataclass(frozen=True)
class Decoding:
    """How a container is read.

    Attributes:
        rate: frames per second instead of the stored times; None keeps those.
        stream: index of the stream; None chooses the best.
        deinterlace: "auto" treats frames that say that they are interlaced, "on" all, "off" none.
    """

    rate: Fraction | None = None
    stream: int | None = None
    deinterlace: Deinterlace = "auto"


def open_container(place: str | BinaryIO, name: str, how: Decoding, span: Span = WHOLE) -> VideoSource:
    """Open a video file or address, or a pipe, which can be read only once.

    Raises:
        VideoError: it cannot be read, is no video, holds no frames, or has no such stream.
    """
    reading = Reading(place, name, how)
    decoded = reading.decode()
    first = next(decoded, None)
    if first is None:
        reading.close()
        raise VideoError(_unreadable(place, name))
    begun = [] if isinstance(place, str) else [reading.frames(span, chain([first], decoded))]

    def read() -> Iterator[VideoFrame]:
        if begun:
            return begun.pop()
        if not isinstance(place, str):
            raise VideoError(f"{name} can be read only once")
        return Reading(place, name, how).frames(span)

    turned = is_turned(display_matrix(first))
    aspect = reading.stream.sample_aspect_ratio or Fraction(1)
    count = reading.announced or reading.expected
    source = VideoSource(
        name,
        float((how.rate or reading.rate) / span.stride),
        (first.width, first.height) if turned else (first.height, first.width),
        None if count is None else span.numbers(count, how.rate or reading.rate),
        read,
        pixel_aspect=1 / aspect if turned else aspect,
        time_base=1 / how.rate if how.rate else reading.time_base,
        files=(Path(place),) if isinstance(place, str) and Path(place).exists() else (),
        notes=tuple(reading.notes(first)),
        sound=reading.sound(first) if isinstance(place, str) else None,
    )
    if not begun:
        reading.close()
    return check_size(source)


def _unreadable(place: str | BinaryIO, name: str) -> str:
    pipe = "" if isinstance(place, str) or place.seekable() else "; through a pipe, send matroska or y4m"
    return f"{name} is not a video that FFmpeg can read, or has no frames{pipe}"


class Reading:
    """One pass over a container."""

    def __init__(self, place: str | BinaryIO, name: str, how: Decoding) -> None:
        """Open it; raises VideoError if it is no video or has no such stream."""
        self.place, self.name, self.how = place, name, how
        self._open()
        self.announced: int = self.stream.frames
        self.time_base = self.stream.time_base or Fraction(1, av.time_base)
        self.rate = plausible_rate(self.stream.average_rate, self.stream.guessed_rate)
        self.clock = Clock(self.stream.start_time, self.rate, how.rate)
        self.seconds = self._duration()

    def _open(self) -> None:
        self.errors = self.frame_count = self.discarded = 0
        self.complete = False
        try:
            self.container = av.open(self.place, "r", metadata_errors="replace")
        except _UNREADABLE as error:
            raise VideoError(_unreadable(self.place, self.name)) from error
        try:
            self.stream = choose_stream(self.container, self.name, self.how.stream)
        except VideoError:
            self.close()
            raise
        for other in self.container.streams:
            if other is not self.stream:
                other.discard = Discard.all
        self.decoder = _decoder(self.stream)
        self.decoder.options = {"max_pixels": str(MOST_PIXELS)}

    @property
    def expected(self) -> int | None:
        """How many frames the duration has room for; None if it is not known."""
        return None if self.seconds is None else max(1, round(self.seconds * self.rate))

    def _duration(self) -> Fraction | None:
        if self.stream.duration is not None:
            return self.stream.duration * self.time_base
        if self.container.duration is not None:
            return Fraction(self.container.duration, av.time_base)
        return None

    def notes(self, first: av.VideoFrame) -> Iterator[str]:
        """Say what was chosen for the user."""
        others = [other for other in _moving(self.container) if other is not self.stream]
        if others and self.how.stream is None:
            sizes = ", ".join(f"stream {s.index} ({s.width}x{s.height})" for s in (self.stream, *others))
            yield f"{self.name} has several videos, {sizes}: taking the first of these"
        if first.interlaced_frame and self.how.deinterlace == "auto":
            yield f"{self.name} is interlaced: deinterlacing it"

    def sound(self, first: av.VideoFrame) -> Sound | None:
        """Return where the sound is that goes with the frames; none if their times are forced."""
        stream = self.container.streams.best("audio", self.stream)
        if stream is None or stream.codec_context is None or self.how.rate is not None:
            return None
        start = self.stream.start_time if self.stream.start_time is not None else first.pts
        return Sound(
            str(self.container.name), stream.index, (start or 0) * self.time_base, stream.codec_context.name
        )

    def close(self) -> None:
        """Close the container."""
        self.container.close()

    def frames(self, span: Span, decoded: Iterator[av.VideoFrame] | None = None) -> Iterator[VideoFrame]:
        """Convert the frames of a span, and say at the end what was damaged; ``decoded`` has been begun."""
        first = 1
        try:
            if decoded is None:
                decoded, first = self._begin(span.start)
            pictures = enumerate(deinterlace(decoded, self.how.deinterlace), first)
            places = (Place(self.clock.time(frame, number), number, frame) for number, frame in pictures)
            for time, number, frame, _ in span.pick(places, self.name):
                yield VideoFrame(upright_rgb(frame), time, number, f"frame {number} of {self.name}")
        finally:
            self.close()
            self._warn(complete=self.complete and first == 1)

    def _begin(self, start: Moment | None) -> tuple[Iterator[av.VideoFrame], int]:
        """Return decoded frames from some frame at or before ``start``, and its number."""
        stamps = frame_stamps(str(self.place), self.stream) if start is not None else None
        if not stamps or start is None:
            return self.decode(), 1
        if start.number is not None or self.how.rate is not None:
            index = start.number_at(self.how.rate or self.rate) - 1
        else:
            index = bisect_left(stamps, stamps[0] + (start.seconds or 0) / self.time_base)
        index = min(index, len(stamps) - 1) - _RUN_UP
        if index <= 0:
            return self.decode(), 1
        with contextlib.suppress(av.FFmpegError):
            self.container.seek(stamps[index], stream=self.stream)
            self.decoder.flush_buffers()
            decoded = self.decode()
            first = next(decoded, None)
            if first is not None and first.pts is not None:
                found = bisect_left(stamps, first.pts)
                if found <= index and stamps[found] == first.pts:
                    self.clock.start = stamps[0]
                    return chain([first], decoded), found + 1
        self.close()  # it cannot be sought in, or not exactly
        self._open()
        return self.decode(), 1

    def decode(self) -> Iterator[av.VideoFrame]:
        """Decode frame by frame, going on behind what is damaged.

        The decoder is not flushed after an error: what it holds are good frames, and it conceals better what
        refers to a lost one than it could without any.
        """
        for packet in self._packets():
            self.discarded += packet is not None and packet.is_discard
            try:
                frames = self.decoder.decode(packet if packet and packet.size else None)
            except (av.FFmpegError, ValueError):
                self.errors += 1
                continue
            for frame in frames:
                frame.time_base = frame.time_base or self.time_base
                self.frame_count += 1
                self.errors += frame.is_corrupt
                yield frame
        self.complete = True

    def _packets(self) -> "Iterator[av.Packet[av.VideoStream] | None]":
        """Yield the packets of the stream; None, which empties the decoder, where a file breaks off."""
        failures = 0
        while failures < _PATIENCE:
            try:
                for packet in self.container.demux(self.stream):
                    failures = 0
                    if packet.size or packet.dts is None:  # empty with a time: a dropped frame, not the end
                        yield packet
                return
            except av.FFmpegError:
                failures += 1
                self.errors += failures == 1
        yield None

    def _warn(self, *, complete: bool) -> None:
        missing = complete and self.announced - self.discarded > self.frame_count
        ends, seconds = float(self.clock.end), float(self.seconds or 0)
        # Sound often goes on a little longer than the picture.
        early = complete and not self.announced and seconds - ends > max(_TAIL, 0.05 * seconds)
        if not (self.errors or missing or early):
            return
        of = f" of {self.announced} announced" if self.announced else ""
        end = f", it ends after {ends:.1f} of {seconds:.1f} announced seconds" if early else ""
        warnings.warn(
            f"{self.name} is damaged: {self.frame_count}{of} frames read, {self.errors} decoding errors{end}",
            VideoWarning,
            stacklevel=2,
        )


class Clock:
    """Times of frames from the timestamps of a stream, which may be absent or go back.

    Attributes:
        end: when the last frame ends, seconds, by the timestamps.

    Args:
        start: timestamp at which the stream begins, if it says.
        rate: frames per second to assume where timestamps fail.
        forced: frames per second instead of all timestamps.
    """

    def __init__(self, start: int | None, rate: Fraction, forced: Fraction | None) -> None:
        self.start, self.rate, self.forced = start, rate, forced
        self.last: Fraction | None = None
        self.end = Fraction(0)

    def time(self, frame: av.VideoFrame, number: int) -> Fraction:
        """Return the time of the next frame, seconds from the start, later than the one before."""
        stamp = frame.dts if frame.pts is None else frame.pts
        time: Fraction | None = None
        if stamp is not None and frame.time_base is not None:
            if self.start is None or (self.last is None and stamp < self.start):
                self.start = stamp
            time = (stamp - self.start) * frame.time_base
        if time is None or (self.last is not None and time <= self.last):
            time = Fraction(0) if self.last is None else self.last + 1 / self.rate
        self.last = time
        self.end = time + max(1 / self.rate, (frame.duration or 0) * (frame.time_base or 0))
        return (number - 1) / self.forced if self.forced else time


def choose_stream(container: InputContainer, name: str, index: int | None) -> av.VideoStream:
    """Return the stream of a container to read: the one asked for, else the largest that moves.

    Raises:
        VideoError: there is no such stream, or no video that can be decoded.
    """
    videos = [stream for stream in container.streams.video if stream.codec_context is not None]
    if index is not None:
        for stream in videos:
            if stream.index == index:
                return stream
        held = ", ".join(f"{stream.index} ({stream.type})" for stream in container.streams)
        raise VideoError(f"{name} has no video stream {index}, it holds {held or 'no streams'}")
    if not videos:
        raise VideoError(f"{name} has no video that FFmpeg can decode")
    return max(
        _moving(container) or videos,
        key=lambda stream: (
            stream.frames != 1,
            stream.width * stream.height,
            bool(stream.disposition & Disposition.default),
            -stream.index,
        ),
    )


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    """Return the decoder of a stream; of VP8 and VP9 with alpha, the one that does not leave it out."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return stream.codec_context
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    return decoder


def _moving(container: InputContainer) -> list[av.VideoStream]:
    return [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & _STILLS
    ]
