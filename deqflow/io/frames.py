"""Frames of any usual kind, from files, arrays, tensors and PIL images, as uint8 RGB."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from deqflow.errors import ImageError
from deqflow.io.images import ValueRange, read_pixels, to_rgb, value_range_of

Frame = str | PathLike[str] | NDArray[Any] | Tensor | Image.Image
"""A path, an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, a tensor (3, H, W), or a PIL image."""

Batch = list[Any] | tuple[Any, ...]
"""Frames of several pairs."""


def is_batch(frames: Frame | Batch) -> bool:
    """Whether these are frames of several pairs: a list or tuple of them, or a tensor (B, 3, H, W)."""
    return isinstance(frames, list | tuple) or (isinstance(frames, Tensor) and frames.ndim == 4)


def to_array(frame: Frame, name: str = "frame") -> NDArray[Any]:
    """Return a frame as an array (H, W) or (H, W, C), with its values as they are.

    Args:
        frame: see ``Frame``.
        name: what to call it in a message.

    Raises:
        ImageError: a file that cannot be read, or a tensor of another shape.
    """
    if isinstance(frame, str | PathLike):
        return read_pixels(frame)
    if isinstance(frame, Image.Image):
        upright = ImageOps.exif_transpose(frame)
        if upright.mode not in ("L", "I;16", "F"):
            upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        return np.asarray(upright)
    if isinstance(frame, Tensor):
        if frame.ndim != 3 or frame.shape[0] not in (1, 3):
            raise ImageError(f"{name} is a tensor of shape {tuple(frame.shape)}, expected (3, H, W)")
        # NumPy knows no bfloat16.
        frame = frame.detach().float() if frame.is_floating_point() else frame.detach()
        return frame.permute(1, 2, 0).cpu().numpy()
    return np.asarray(frame)


def to_rgb_frames(
    frames: Sequence[Frame], names: Sequence[str], value_range: ValueRange | None = None
) -> list[NDArray[np.uint8]]:
    """Return frames that belong together as uint8 RGB (H, W, 3), their range of values decided together.

    Args:
        frames: see ``Frame``.
        names: what to call each in a message; a file is called by its path.
        value_range: of floating-point values; None decides, see ``value_range_of``.

    Raises:
        ImageError: see ``to_array``, ``to_rgb`` and ``value_range_of``.
    """
    told = [
        str(frame) if isinstance(frame, str | PathLike) else name
        for frame, name in zip(frames, names, strict=True)
    ]
    arrays = [to_array(frame, name) for frame, name in zip(frames, told, strict=True)]
    decided = value_range or value_range_of(arrays, " and ".join(told))
    return [to_rgb(array, name, decided) for array, name in zip(arrays, told, strict=True)]


def to_rgb_batches(
    first: Frame | Batch, second: Frame | Batch, value_range: ValueRange | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the frames of one or several pairs as two arrays uint8 RGB (B, H, W, 3).

    Args:
        first: one frame, or those of several pairs, all of one size.
        second: as many.
        value_range: of floating-point values; None decides for each pair, see ``to_rgb_frames``.

    Raises:
        ImageError: see ``to_rgb_frames``; not as many first frames as second ones, or different sizes.
    """
    batched = is_batch(first)
    both: tuple[Any, Any] = (first, second)
    firsts, seconds = (list(frames) if is_batch(frames) else [frames] for frames in both)
    if batched != is_batch(second) or not 0 < len(firsts) == len(seconds):
        raise ImageError("expected two frames, or as many first frames as second ones and at least one")
    pairs = [
        to_rgb_frames(pair, (f"frame1{of}", f"frame2{of}"), value_range)
        for index, pair in enumerate(zip(firsts, seconds, strict=True))
        for of in (f" of pair {index + 1}" if batched else "",)
    ]
    shapes = {frame.shape for pair in pairs for frame in pair}
    if len(shapes) > 1:
        raise ImageError(f"frames have different shapes: {' and '.join(map(str, sorted(shapes)))}")
    first_frames, second_frames = (np.stack(frames) for frames in zip(*pairs, strict=True))
    return first_frames, second_frames
