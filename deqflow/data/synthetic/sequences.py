"""Scenes over more than two frames: motion that goes on, stops, starts, turns back, or moves on twos.

A pair's layers lie at position 0 in its first frame and at 1 in its second. A frame of a sequence shows them
at any position on the straight line of homographies through both; for a camera that moves without turning
that is its path, and for whatever else the flow between two frames is exact all the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .layers import Layer
from .motion import Homography, tamed
from .painter import Frame, Painter

Positions = Mapping[int, NDArray[np.float64]]
"""Where each group of layers is, frame by frame."""

FRAMES = (3, 8)
"""Fewest and most frames of a sequence."""

OWN_COURSE = 0.25
"""How often a thing has a course of its own beside that of the camera."""


def _twos(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return np.asarray((np.arange(count) + rng.integers(2)) % 2, np.float64)


def _turning(rng: np.random.Generator, count: int, before: float, after: float) -> NDArray[np.float64]:
    turn = int(rng.integers(1, count)) if count > 1 else 1
    return np.where(np.arange(count) < turn, before, after).astype(np.float64)


COURSES: Mapping[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = MappingProxyType(
    {
        "steady": lambda rng, count: np.ones(count),
        "stop": lambda rng, count: _turning(rng, count, 1, 0),
        "start": lambda rng, count: _turning(rng, count, 0, 1),
        "reversal": lambda rng, count: _turning(rng, count, 1, -1),
        "twos": _twos,
        "speeding up": lambda rng, count: np.linspace(0.2, 1.8, count),
        "slowing down": lambda rng, count: np.linspace(1.8, 0.2, count),
    }
)
"""How far things move from frame to frame, in those of the pair, by name."""

SHARES: Mapping[str, float] = MappingProxyType(
    {"steady": 0.4, "stop": 0.12, "start": 0.12, "reversal": 0.1, "twos": 0.1, "speeding up": 0.08}
    | {"slowing down": 0.08}
)


def draw_course(rng: np.random.Generator) -> str:
    """Draw the name of a course."""
    return str(rng.choice(list(SHARES), p=list(SHARES.values())))


def positions(rng: np.random.Generator, course: str, groups: Iterable[int], frames: int) -> Positions:
    """Return where each group of layers is; the camera, group 0, and most others follow ``course``."""
    found = {0: _along(rng, course, frames)}
    for group in sorted(set(groups) - {0}):
        own = rng.random() < OWN_COURSE
        found[group] = _along(rng, draw_course(rng), frames) if own else found[0]
    return found


def _along(rng: np.random.Generator, course: str, frames: int) -> NDArray[np.float64]:
    """Return positions along a course, with the middle between those of the pair."""
    path = np.concatenate([[0.0], np.cumsum(COURSES[course](rng, frames - 1))])
    return np.asarray(path - (path.min() + path.max()) / 2 + 0.5)


def place(layer: Layer, ends: tuple[Homography, Homography], position: float) -> Homography:
    """Return the map of a layer at a position between and beyond its ``ends``, those of the pair."""
    between = ends[0] + position * (ends[1] - ends[0])
    if layer.depth is None or layer.endless:  # planes in perspective, compared by their third rows
        return np.asarray(between)
    height, width = layer.texture.shape[:2]
    return tamed(between, width, height)


def shoot(painter: Painter, layers: Sequence[Layer], where: Positions) -> list[Frame]:
    """Paint the frames of a sequence, each with the flow to the next; that of the last leads back.

    The layers are left without deformation, which a pair's first frame alone would have, and at the end.
    """
    frames: list[Frame] = []
    ends = [layer.maps for layer in layers]
    for layer in layers:
        layer.bend = None
    last = len(where[0]) - 1
    for number in range(last + 1):
        step = min(number, last - 1)
        for layer, maps in zip(layers, ends, strict=True):
            here, there = where[layer.group][step : step + 2]
            layer.maps = place(layer, maps, here), place(layer, maps, there)
        frames.append(painter.paint(list(layers), number - step))
    return frames


def shoot_before(painter: Painter, layers: Sequence[Layer], rng: np.random.Generator) -> Frame:
    """Paint the frame before a pair, without flow; the motion to the pair's first may be another.

    The layers' maps are left those from the frame before to the first.
    """
    speeds = {0: _speed_before(rng)}
    for layer in layers:
        if layer.group not in speeds:
            speeds[layer.group] = _speed_before(rng) if rng.random() < OWN_COURSE else speeds[0]
        layer.maps = place(layer, layer.maps, -speeds[layer.group]), layer.maps[0]
    return painter.paint(list(layers), 0, flow=False)


def _speed_before(rng: np.random.Generator) -> float:
    """Draw the motion up to a pair's first frame, in that of the pair: the same, none, back, or another."""
    kind = rng.choice(4, p=[0.5, 0.15, 0.1, 0.25])
    return float((1.0, 0.0, -1.0, rng.uniform(0.3, 1.7))[kind])
