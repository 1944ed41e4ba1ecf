"""OpenEXR pictures, which renderers write: linear light to the sRGB that everything else is in."""

from pathlib import Path

import av
import numpy as np
from av.video.plane import VideoPlane
from numpy.typing import NDArray

from deqflow.errors import ImageError
from deqflow.io.files import ffmpeg_name

_PLANES = {"gbr": (2, 0, 1), "gra": (0, 0, 0)}
"""By the beginning of FFmpeg's format name, which of its planes are red, green and blue."""


def read_openexr(path: Path) -> NDArray[np.uint8]:
    """Read the RGB or Y channels of an OpenEXR file as uint8 sRGB (H, W, 3).

    Values are clipped to 0..1; NaN is black. Alpha changes nothing: colors are stored multiplied by it, which
    is how they look over black.

    Raises:
        ImageError: missing, not OpenEXR, cut short, or without such channels (a file of motion vectors).
    """
    try:
        with av.open(ffmpeg_name(path), "r", format="exr_pipe") as file:
            frame = next(file.decode(video=0))
            name = frame.format.name
            order = _PLANES[name[:3]]
            planes = [_plane(plane, np.float16 if "f16" in name else np.float32) for plane in frame.planes]
    except OSError as error:
        raise ImageError(f"cannot read the image {path}: {error.strerror or error}") from error
    except (av.FFmpegError, StopIteration, KeyError) as error:
        raise ImageError(f"{path} is not an OpenEXR picture that can be decoded, or is cut short") from error
    linear = np.stack([planes[index] for index in order], axis=2).astype(np.float32)
    linear = np.clip(np.nan_to_num(linear, nan=0.0), 0, 1)
    # IEC 61966-2-1.
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def _plane(plane: VideoPlane, dtype: type[np.floating]) -> NDArray[np.floating]:
    rows = np.frombuffer(bytes(plane), dtype).reshape(plane.height, -1)
    return rows[:, : plane.width]
