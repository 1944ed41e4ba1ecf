"""Pictures of flow: colour wheel, arrows, error maps, convergence. Arrays in, uint8 RGB arrays out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Flow = NDArray[np.float32]

_SECTORS = (15, 6, 4, 11, 13, 6)
"""Steps from red to yellow, green, cyan, blue, magenta and back: equal steps look about equally different."""


def _colour_wheel() -> NDArray[np.float32]:
    """The 55 hues of the wheel and the first again, (56, 3) in 0..1."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], float)
    positions = np.cumsum((0, *_SECTORS))
    hues = np.arange(positions[-1] + 1)
    return np.stack([np.interp(hues, positions, channel) for channel in corners.T], axis=1).astype(np.float32)


_WHEEL = _colour_wheel()
_UNKNOWN = 1e9  # as in .flo files
_SCALAR_COLORS = cv2.COLORMAP_INFERNO


def flow_to_color(flow: Flow, max_magnitude: float | None = None, *, clip: bool = False) -> Image:
    """Colours flow by the wheel of Baker et al. (IJCV 2011): hue is direction, saturation is length.

    No motion is white. Right is red, down is yellow, left is cyan, up is violet-blue.

    Args:
        flow: (H, W, 2), u right and v down in pixels. NaN and values from 1e9 on are unknown: black.
        max_magnitude: length in pixels at full saturation; the longest of this flow by default.
        clip: draw longer flow like the longest. By default it is darkened, as in the paper.

    Returns:
        uint8 RGB (H, W, 3).
    """
    u, v = (np.asarray(flow[..., axis], np.float32) for axis in (0, 1))
    known = (np.abs(u) < _UNKNOWN) & (np.abs(v) < _UNKNOWN)  # false for NaN as well
    u, v = np.where(known, u, 0), np.where(known, v, 0)
    length = np.hypot(u, v)
    if max_magnitude is None:
        max_magnitude = float(length.max(initial=0.0))
    if max_magnitude > 0:
        length /= max_magnitude
    # The paper's hue runs over 54 of the 55 steps, starting at the left end of the horizontal axis.
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(_WHEEL) - 2)
    lower = position.astype(np.intp)
    share = (position - lower)[..., None]
    hue = _WHEEL[lower] * (1 - share) + _WHEEL[lower + 1] * share
    saturation = np.minimum(length, 1)[..., None]
    color = 1 - saturation * (1 - hue)
    if not clip:
        color = np.where(length[..., None] > 1, 0.75 * hue, color)
    return np.where(known[..., None], np.floor(255 * color), 0).astype(np.uint8)


@dataclass
class ColorScale:
    """One length for full saturation over a whole video, so that colours do not flicker.

    Follows the 99th percentile of |flow|: up within a few frames, down slowly, never below ``floor`` (so that
    noise of a still scene stays pale).

    Attributes:
        fixed: use this length in pixels for every frame instead.
        floor: smallest length.
        rise: share of the way up taken per frame.
        fall: share of the way down taken per frame.
    """

    fixed: float | None = None
    floor: float = 2.0
    rise: float = 0.3
    fall: float = 0.03
    _current: float | None = field(default=None, init=False, repr=False)

    def update(self, flow: Flow) -> float:
        """Takes the next frame's flow and returns the length to draw it with."""
        if self.fixed is not None:
            return self.fixed
        length = np.hypot(flow[::4, ::4, 0], flow[::4, ::4, 1])
        length = length[np.isfinite(length)]
        target = max(self.floor, float(np.percentile(length, 99)) if length.size else 0.0)
        if self._current is None:
            self._current = target
        self._current += (target - self._current) * (self.rise if target > self._current else self.fall)
        return self._current


def draw_arrows(image: Image, flow: Flow, spacing: int = 24, scale: float = 1.0) -> Image:
    """Draws an arrow of ``scale`` times the flow every ``spacing`` pixels over a copy of the image."""
    canvas = np.ascontiguousarray(image).copy()
    height, width = flow.shape[:2]
    for y in range(spacing // 2, height, spacing):
        for x in range(spacing // 2, width, spacing):
            u, v = (float(component) * scale for component in flow[y, x])
            if np.hypot(u, v) < 0.5:  # false for NaN
                continue
            if not max(abs(u), abs(v)) < 1e4:  # beyond OpenCV's integer coordinates, or NaN
                continue
            tip = (round(x + u), round(y + v))
            cv2.arrowedLine(canvas, (x, y), tip, (0, 0, 0), 3, cv2.LINE_AA, tipLength=0.3)
            cv2.arrowedLine(canvas, (x, y), tip, (255, 255, 255), 1, cv2.LINE_AA, tipLength=0.3)
    return canvas


def error_map(
    flow: Flow, truth: Flow, valid: NDArray[np.bool_] | None = None, max_error: float = 5.0
) -> Image:
    """Colours the end-point error from dark (none) to bright yellow (``max_error`` pixels and more).

    Black where ``valid``, bool (H, W), is false or either flow is not finite.
    """
    error = np.hypot(*np.moveaxis(np.asarray(flow, np.float32) - truth, -1, 0))
    return scalar_map(error, max_error, valid)


def scalar_map(
    values: NDArray[np.floating], max_value: float, valid: NDArray[np.bool_] | None = None
) -> Image:
    """Colours (H, W) numbers from dark violet (0) to bright yellow (``max_value`` and more).

    Black where ``valid``, bool (H, W), is false or the number is not finite; `color_bar` shows the colours.
    """
    known = np.isfinite(values) if valid is None else np.isfinite(values) & valid
    share = np.where(known, values, 0) / max(max_value, np.finfo(np.float32).tiny)
    level = (np.clip(share, 0, 1) * 255).astype(np.uint8)
    colored = cv2.cvtColor(cv2.applyColorMap(level, _SCALAR_COLORS), cv2.COLOR_BGR2RGB)
    return np.where(known[..., None], colored, 0).astype(np.uint8)


def color_bar(width: int, height: int) -> Image:
    """The colours of `scalar_map` from 0 at the left to its largest value at the right."""
    ramp = np.broadcast_to(np.linspace(0, 1, width), (height, width))
    return scalar_map(ramp, 1.0)


def side_by_side(images: Sequence[Image], labels: Sequence[str] = ()) -> Image:
    """Joins images of one height from left to right and writes a label into each one's upper left corner."""
    panels = [np.ascontiguousarray(image).copy() for image in images]
    for panel, label in zip(panels, labels, strict=False):
        size = max(0.5, panel.shape[0] / 900)
        origin = (round(16 * size), round(34 * size))
        for color, thickness in (((0, 0, 0), 2), ((255, 255, 255), 1)):
            cv2.putText(panel, label, origin, cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)
    return np.concatenate(panels, axis=1)


def plot_convergence(residuals: NDArray[np.floating], tolerance: float | None = None) -> Image:
    """Plots residuals (steps,) or (steps, runs), in pixels per step, on a logarithmic axis."""
    # Here, because matplotlib is slow to import and video needs none of it.
    from deqflow.plots import convergence_figure, figure_image

    runs = np.asarray(residuals, float).reshape(len(residuals), -1).T
    return figure_image(
        convergence_figure({f"run {number}": run for number, run in enumerate(runs, 1)}, tolerance)
    )
