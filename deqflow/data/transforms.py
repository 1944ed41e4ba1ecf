"""Geometry of a whole sample: resizing, flips and crops of frames, flow, validity and masks together.

Pixel (0, 0) covers the square from -0.5 to 0.5: a point x of a frame resized by r lies at (x + 0.5) r - 0.5
after it, and its flow is r times as long. What a mask says stays true: where a crop takes a pixel's target
out of the second frame, the pixel counts as occluded.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deqflow.data.sample import Sample

_MASKS = ("occlusion", "noc", "objects", "invalid")

Map = NDArray[Any]


def resized(sample: Sample, height: int, width: int, *, sparse: bool) -> Sample:
    """Return the sample at another size; flow grows by the exact ratio of the sizes, u and v by their own.

    Args:
        sample: what to resize.
        height: of the result, pixels.
        width: of the result, pixels.
        sparse: never mix vectors. Otherwise flow is interpolated linearly wherever all that goes into it is
            known. A known pixel for which nothing was interpolated, so with ``sparse`` every one, goes to the
            pixel in which its center falls; where several meet, the one nearest to that pixel's center stays
            (of equally near ones the first, row by row).
    """
    old_height, old_width = sample.valid.shape
    if (height, width) == (old_height, old_width):
        return sample
    ratio = np.array([width / old_width, height / old_height], np.float32)
    # For each new pixel the old one that it is made of; the nearest, unless a known one was put there.
    source = np.add.outer(_nearest(old_height, height) * old_width, _nearest(old_width, width))
    if sparse:
        valid, flow = np.zeros((height, width), bool), np.zeros((height, width, 2), np.float32)
    else:
        # A weight above nothing on one unknown value makes the whole unknown.
        valid = _stretched((~sample.valid).astype(np.float32), height, width) == 0
        known_flow = np.where(sample.valid[..., None], sample.flow, np.float32(0))  # NaN times 0 is NaN
        flow = np.where(valid[..., None], _stretched(known_flow, height, width), np.float32(0))
    lost = sample.valid & ~valid[np.ix_(_nearest(height, old_height), _nearest(width, old_width))]
    places, known = _scatter(lost, height, width)
    source.flat[places] = known
    valid.flat[places] = True
    flow.reshape(-1, 2)[places] = sample.flow.reshape(-1, 2)[known]
    result = replace(
        _maps(sample, lambda mask: mask.reshape(-1)[source]),
        frame1=_stretched(sample.frame1, height, width),
        frame2=_stretched(sample.frame2, height, width),
        flow=flow * ratio,
        valid=valid,
    )
    return result if result.noc is None else replace(result, noc=result.noc & valid)


def cropped(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Return a window of the sample; what of it lies outside the frame is padded.

    Padding repeats the frame's edge; flow is unknown there and masks are empty. Pixels whose target lies
    outside the window, or in its padding, are marked in ``occlusion`` and taken from ``noc``.
    """
    old_height, old_width = sample.valid.shape
    rows = slice(max(0, top), min(old_height, top + height))
    columns = slice(max(0, left), min(old_width, left + width))
    before = (rows.start - top, columns.start - left)
    after = (top + height - rows.stop, left + width - columns.stop)
    pads = (before[0], after[0], before[1], after[1])

    def cut(values: Map, border: int = cv2.BORDER_CONSTANT) -> Map:
        window = values[rows, columns]
        if not any(pads):
            return np.ascontiguousarray(window)
        byte = window.view(np.uint8) if window.dtype == np.bool_ else window
        return np.asarray(cv2.copyMakeBorder(byte, *pads, border)).view(window.dtype)

    result = replace(
        _maps(sample, cut),
        frame1=cut(sample.frame1, cv2.BORDER_REPLICATE),
        frame2=cut(sample.frame2, cv2.BORDER_REPLICATE),
        flow=cut(sample.flow),
        valid=cut(sample.valid),
    )
    return hidden(result, ~cut(np.ones_like(sample.valid)))


def flipped(sample: Sample, *, horizontal: bool = False, vertical: bool = False) -> Sample:
    """Return the sample mirrored left to right, upside down, or both; mirroring twice undoes it."""
    if not (horizontal or vertical):
        return sample
    step = (-1 if vertical else 1, -1 if horizontal else 1)

    def flip(values: Map) -> Map:
        return np.ascontiguousarray(values[:: step[0], :: step[1]])

    return replace(
        _maps(sample, flip),
        frame1=flip(sample.frame1),
        frame2=flip(sample.frame2),
        flow=flip(sample.flow) * np.array([step[1], step[0]], np.float32),
        valid=flip(sample.valid),
    )


def hidden(sample: Sample, covered: NDArray[np.bool_]) -> Sample:
    """Return the masks, bool (H, W), after the second frame was covered in places and cut at its edge.

    Known pixels whose target, rounded to a pixel, is covered or outside are occluded and not in ``noc``.
    """
    if sample.occlusion is None and sample.noc is None:
        return sample
    height, width = sample.valid.shape
    x = np.rint(np.arange(width, dtype=np.float32) + sample.flow[..., 0])
    y = np.rint(np.arange(height, dtype=np.float32)[:, None] + sample.flow[..., 1])
    gone = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    inside = ~gone
    gone[inside] = covered[y[inside].astype(np.intp), x[inside].astype(np.intp)]
    gone &= sample.valid
    return replace(
        sample,
        occlusion=None if sample.occlusion is None else sample.occlusion | gone,
        noc=None if sample.noc is None else sample.noc & ~gone,
    )


def _maps(sample: Sample, change: Callable[[Map], Map]) -> Sample:
    """Change the masks that are there; ground truth of finer resolution has no place any more."""
    masks = {name: getattr(sample, name) for name in _MASKS}
    changed: dict[str, Any] = {name: change(mask) for name, mask in masks.items() if mask is not None}
    return replace(sample, subpixels=None, **changed)


def _stretched(values: Map, height: int, width: int) -> Map:
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR))


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    """For each pixel of ``new`` the one of ``old`` in which its center falls."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _scatter(chosen: NDArray[np.bool_], height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where pixels go: flat indices of the new size, each once, and of the old pixels that go there."""
    old_height, old_width = chosen.shape
    rows, columns = np.nonzero(chosen)
    # Centers in units of half a new pixel times the old size: whole numbers, so that ties are ties.
    y, x = (2 * rows + 1) * height, (2 * columns + 1) * width
    row, column = y // (2 * old_height), x // (2 * old_width)
    far_y = (y - (2 * row + 1) * old_height) / old_height
    far_x = (x - (2 * column + 1) * old_width) / old_width
    places, old = row * width + column, rows * old_width + columns
    order = np.lexsort((old, far_x**2 + far_y**2, places))
    places, first = np.unique(places[order], return_index=True)
    return places, old[order][first]
