"""Outlines drawn on the spot: polygons, blobs, thin structures and things with holes."""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
_SHIFT = 4  # sub-pixel bits of OpenCV's drawing functions


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _outline(rng: np.random.Generator, side: int, smooth: bool) -> NDArray[np.float64]:
    aspect = np.exp(rng.normal(0, 0.35))
    reach = np.array([min(1.0, aspect), min(1.0, 1 / aspect)]) * side * 0.48
    if smooth:
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        orders = np.arange(1, 6)[:, None]
        amplitude = rng.normal(0, 0.22, (5, 1)) / orders**0.7
        radius = 1 + (amplitude * np.cos(orders * angle + rng.uniform(0, 2 * np.pi, (5, 1)))).sum(0)
        radius = np.maximum(radius, 0.15)
        radius = radius / radius.max()
    else:
        corners = int(rng.integers(3, 10))
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = rng.uniform(0.35, 1, corners)
    return side / 2 + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) * reach


def solid(rng: np.random.Generator, side: int, smooth: bool) -> Mask:
    """Draw a smooth blob or a polygon."""
    mask = np.zeros((side, side), np.uint8)
    points = _outline(rng, side, smooth)
    cv2.fillPoly(mask, [_fixed(points)], 255, cv2.LINE_AA, _SHIFT)
    return mask


def holed(rng: np.random.Generator, side: int) -> Mask:
    """Draw a ring, or a solid shape with holes through it."""
    mask = solid(rng, side, rng.random() < 0.6)
    if rng.random() < 0.4:
        mask[:] = 0
        thickness = max(2, int(side * rng.uniform(0.05, 0.2)))
        center = (side // 2, side // 2)
        axes = (side // 2 - thickness, max(3, int((side // 2 - thickness) * rng.uniform(0.5, 1))))
        cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 255, thickness, cv2.LINE_AA)
        return mask
    for _ in range(rng.integers(1, 7)):
        hole = _outline(rng, max(4, int(side * rng.uniform(0.1, 0.4))), smooth=rng.random() < 0.7)
        cv2.fillPoly(mask, [_fixed(hole + rng.uniform(0, side * 0.7, 2))], 0, cv2.LINE_AA, _SHIFT)
    return mask


def thin(rng: np.random.Generator, side: int) -> Mask:
    """Draw wires, poles, a railing or a branching twig."""
    mask = np.zeros((side, side), np.uint8)
    width = max(1, round(side * rng.uniform(0.006, 0.035)))

    def stroke(points: NDArray[np.float64], thickness: int) -> None:
        cv2.polylines(mask, [_fixed(points)], False, 255, max(1, thickness), cv2.LINE_AA, _SHIFT)

    kind = rng.choice(["wires", "railing", "twig"])
    if kind == "wires":
        steps = np.linspace(0, 1, 16)
        for _ in range(rng.integers(1, 6)):
            a, b = rng.uniform(0, side, (2, 2))
            sag = rng.normal(0, 0.12) * side * np.sin(np.pi * steps)
            stroke(np.stack([a[0] + (b[0] - a[0]) * steps, a[1] + (b[1] - a[1]) * steps + sag], 1), width)
    elif kind == "railing":
        bars = int(rng.integers(2, 13))
        for x in np.linspace(width, side - width - 1, bars):
            stroke(np.array([[x, 0.0], [x, side - 1.0]]), width)
        for y in rng.uniform(0, side, rng.integers(0, 4)):
            stroke(np.array([[0.0, y], [side - 1.0, y]]), width)
    else:
        tips = [(np.array([side / 2, side - 1.0]), -np.pi / 2, side * 0.3, 3.0 * width)]
        while tips:
            start, angle, length, thickness = tips.pop()
            end = start + length * np.array([np.cos(angle), np.sin(angle)])
            stroke(np.stack([start, end]), round(thickness))
            if length > side * 0.06:
                for _ in range(rng.integers(2, 4)):
                    tips.append(
                        (end, angle + rng.normal(0, 0.6), length * rng.uniform(0.5, 0.85), thickness * 0.65)
                    )
            if len(tips) > 40:
                break
    return mask


def tapered(rng: np.random.Generator, height: int, width: int) -> Mask:
    """Draw a limb along the width, from a round joint at the left to a narrower tip, perhaps bent; (h, w)."""
    along = np.linspace(0, 1, 24)
    bow = rng.normal(0, 0.12) * height * np.sin(np.pi * along)
    half = (
        0.42
        * height
        * (1 - along * rng.uniform(0.2, 0.8))
        * np.sqrt(np.clip(1 - (2 * along - 1) ** 12, 0, 1))
    )
    x, y = 1 + along * (width - 3), height / 2 + bow
    points = np.stack([np.concatenate([x, x[::-1]]), np.concatenate([y - half, (y + half)[::-1]])], 1)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [_fixed(np.clip(points, 0, (width - 1, height - 1)))], 255, cv2.LINE_AA, _SHIFT)
    return mask


def draw(rng: np.random.Generator, side: int) -> tuple[str, Mask]:
    """Draw one of all of these; returns what it is and a matte (side, side)."""
    kind = str(rng.choice(["polygon", "blob", "holes", "thin"], p=[0.22, 0.28, 0.22, 0.28]))
    if kind in ("polygon", "blob"):
        return kind, solid(rng, side, kind == "blob")
    return kind, (holed if kind == "holes" else thin)(rng, side)
