"""One door to every kind of source."""

import stat
from os import PathLike
from pathlib import Path

from deqflow.errors import VideoError
from deqflow.io.files import ffmpeg_name
from deqflow.io.video.animations import is_animation, open_animation
from deqflow.io.video.containers import Decoding, Deinterlace, open_container
from deqflow.io.video.frames import VideoSource, forced_rate
from deqflow.io.video.selection import Moment, Span, View, view_source
from deqflow.io.video.sequences import is_pattern, open_folder, open_pattern
from deqflow.io.video.webcam import open_webcam


def open_video(
    source: str | PathLike[str] | int,
    *,
    fps: float | None = None,
    stream: int | None = None,
    deinterlace: Deinterlace = "auto",
    start: str | float | None = None,
    end: str | float | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    roi: tuple[int, int, int, int] | None = None,
    resize: tuple[int, int] | None = None,
    max_side: int | None = None,
) -> VideoSource:
    """Open a source of frames.

    Args:
        source: a video file (anything FFmpeg reads, also a URL); a folder of images, or a pattern of their
            names (``frames/*.png`` or ``frames/%04d.png``), in natural order (2 before 10); ``-`` for
            standard input, or a named pipe; or the index of a webcam (an int or its digits).
        fps: frames per second, instead of the times that the source gives (image sequences: 25).
        stream: index of the video stream; without it, the largest that is not an attached picture.
        deinterlace: "auto" for the frames that say that they are interlaced, "on" for all, "off" for none.
        start: where to begin: seconds, ``1:02:03.5`` or, as ``300f``, the number of a frame. Files are
            sought in, not decoded from their beginning.
        end: where to stop, before the frame that is there.
        stride: take every so many frames.
        max_frames: take no more frames than this.
        roi: left, top, width and height of the part of every frame to read, pixels.
        resize: width and height to scale frames to; as they are shown, they keep their shape.
        max_side: instead, scale frames down to this many pixels on the longer side.

    Raises:
        VideoError: nothing there, not a video, no frames, frames below 16 pixels, or a wrong argument.
        ImageError: the first image of a sequence cannot be read.
    """
    rate = None if fps is None else forced_rate(fps)
    begin, until = (None if moment is None else Moment.parse(moment) for moment in (start, end))
    span = Span(begin, until, stride, max_frames)
    how = Decoding(rate, stream, deinterlace)
    return view_source(_open(source, how, span), View(roi, resize, max_side))


def _open(source: str | PathLike[str] | int, how: Decoding, span: Span) -> VideoSource:
    name, path = str(source), Path(str(source))
    if not name or "\0" in name:
        raise VideoError(f"{name!r} is no name of a video")
    if isinstance(source, int) or (name.isdecimal() and not path.exists()):
        return open_webcam(int(name), how.rate, span)
    if path.is_dir():
        return open_folder(path, how.rate, span)
    if name == "-":
        # Unbuffered: a read then returns what has come, and Ctrl-C gets through.
        return open_container(open(0, "rb", buffering=0, closefd=False), "standard input", how, span)
    if "://" in name:
        return open_container(name, name, how, span)
    if is_pattern(path):
        return open_pattern(path, how.rate, span)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return open_container(path.open("rb", buffering=0), name, how, span)
        animated = is_animation(path)
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror or error}") from error
    if animated:
        return open_animation(path, how.rate, span)
    return open_container(ffmpeg_name(path), name, how, span)
