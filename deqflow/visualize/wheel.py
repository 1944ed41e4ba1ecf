"""The color wheel of flow, and a length for full color that stays steady over a video."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Flow = NDArray[np.float32]

_SECTORS = (15, 6, 4, 11, 13, 6)
"""Steps from red to yellow, green, cyan, blue, magenta and back: equal steps look about equally different."""


def _color_wheel() -> NDArray[np.float32]:
    """Return the 55 hues of the wheel and the first again, (56, 3) in 0..1."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], float)
    positions = np.cumsum((0, *_SECTORS))
    hues = np.arange(positions[-1] + 1)
    return np.stack([np.interp(hues, positions, channel) for channel in corners.T], axis=1).astype(np.float32)


_WHEEL = _color_wheel()

UNKNOWN = 1e9
"""Components from here on, in pixels, are drawn as unknown, as in .flo files."""


def flow_to_image(flow: Flow, max_magnitude: float | None = None, *, clip: bool = False) -> Image:
    """Color flow by the wheel of Baker et al. (IJCV 2011): hue is direction, saturation is length.

    No motion is white. Right is red, down is yellow, left is cyan, up is violet-blue.

    Args:
        flow: (H, W, 2), u right and v down in pixels. NaN and values from 1e9 on are unknown: black.
        max_magnitude: length in pixels at full saturation; the longest of this flow by default.
        clip: draw longer flow like the longest. By default it is darkened, as in the paper.

    Returns:
        uint8 RGB (H, W, 3).
    """
    u, v = (np.asarray(flow[..., axis], np.float32) for axis in (0, 1))
    known = (np.abs(u) < UNKNOWN) & (np.abs(v) < UNKNOWN)  # false for NaN as well
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
    """Length for full saturation over a whole video: calm within a shot, another one after a cut.

    Follows the 99th percentile of |flow|: up within a few frames, down slowly, never below a floor, so that
    noise of a still scene stays pale.

    Attributes:
        fixed: use this length in pixels for every frame instead.
        floor: smallest length, pixels.
        floor_share: smallest length as a share of the frame's width; the larger of the two counts.
        rise: share of the way up taken per frame.
        fall: share of the way down taken per frame.
        current: length of the last frame, from which the next one's goes on; None before the first of a shot.
    """

    fixed: float | None = None
    floor: float = 4.0
    floor_share: float = 0.005
    rise: float = 0.3
    fall: float = 0.03
    current: float | None = None

    def update(self, flow: Flow, *, cut: bool = False) -> float:
        """Take the next frame's flow (H, W, 2) and return the length in pixels to draw it with.

        Args:
            flow: in pixels.
            cut: whether it is that across a cut, which means nothing: it is drawn as the shot before it and
                the next one starts a scale of its own.
        """
        if self.fixed is not None:
            return self.fixed
        length = np.hypot(flow[::4, ::4, 0], flow[::4, ::4, 1])
        length = length[np.isfinite(length)]
        floor = max(self.floor, self.floor_share * flow.shape[1])
        target = max(floor, float(np.percentile(length, 99)) if length.size else 0.0)
        if cut:
            last, self.current = self.current, None
            return target if last is None else last
        if self.current is None:
            self.current = target
        self.current += (target - self.current) * (self.rise if target > self.current else self.fall)
        return self.current


def dimmed(frame: Image) -> Image:
    """Return a frame as gray of middle brightness, (H, W, 3), for colors to be drawn over it."""
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return np.repeat((48 + 0.6 * gray).astype(np.uint8)[..., None], 3, axis=2)


def wheel(size: int = 96) -> Image:
    """Return the colors of flow: a disc of all directions, uint8 RGB (size, size, 3), white around it."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    flow = np.stack(np.meshgrid(axis, axis), axis=-1)
    inside = np.hypot(flow[..., 0], flow[..., 1]) <= 1
    return np.where(inside[..., None], flow_to_image(flow, 1.0, clip=True), 255).astype(np.uint8)
