"""One door to every kind of source."""

import stat
from os import PathLike
from pathlib import Path

from deqflow.errors import VideoError
from deqflow.io.video.containers import Decoding, Deinterlace, open_container
from deqflow.io.video.frames import VideoSource, forced_rate
from deqflow.io.video.sequences import is_pattern, open_folder, open_pattern
from deqflow.io.video.webcam import open_webcam


def open_video(
    source: str | PathLike[str] | int,
    *,
    fps: float | None = None,
    stream: int | None = None,
    deinterlace: Deinterlace = "auto",
) -> VideoSource:
    """Open a source of frames.

    Args:
        source: a video file (anything FFmpeg reads, also a URL); a folder of images, or a pattern of their
            names (``frames/*.png`` or ``frames/%04d.png``), in natural order (2 before 10); ``-`` for
            standard input, or a named pipe; or the index of a webcam (an int or its digits).
        fps: frames per second, instead of the times that the source gives (image sequences: 25).
        stream: index of the video stream; without it, the largest that is not an attached picture.
        deinterlace: "auto" for the frames that say that they are interlaced, "on" for all, "off" for none.

    Raises:
        VideoError: nothing there, not a video, no frames, or frames below 16 pixels.
        ImageError: the first image of a sequence cannot be read.
    """
    rate = None if fps is None else forced_rate(fps)
    path = Path(str(source))
    if isinstance(source, int) or (str(source).isdecimal() and not path.exists()):
        return open_webcam(int(str(source)), rate)
    if path.is_dir():
        return open_folder(path, rate)
    if is_pattern(path) and "://" not in str(source):
        return open_pattern(path, rate)
    how = Decoding(rate, stream, deinterlace)
    if str(source) == "-":
        # Unbuffered: a read then returns what has come, and Ctrl-C gets through.
        return open_container(open(0, "rb", buffering=0, closefd=False), "standard input", how)
    if "://" in str(source):
        return open_container(str(source), str(source), how)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return open_container(path.open("rb", buffering=0), str(path), how)
        path.open("rb").close()
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror or error}") from error
    return open_container(str(path), str(path), how)
