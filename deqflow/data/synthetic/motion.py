"""Homographies (3x3, float64, acting on pixel coordinates (x, y, 1)) and smooth displacement fields."""

import cv2
import numpy as np
from numpy.typing import NDArray

Homography = NDArray[np.float64]


def translation(x: float, y: float) -> Homography:
    """Move by (x, y)."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def scaling(x: float, y: float) -> Homography:
    """Stretch about the origin."""
    return np.diag([x, y, 1.0])


def inverse(homography: Homography) -> Homography:
    """Map the other way."""
    return np.asarray(np.linalg.inv(homography), np.float64)


def similarity(degrees: float, log_scale: float, center: tuple[float, float]) -> Homography:
    """Turn and zoom about `center`."""
    angle, scale = np.deg2rad(degrees), np.exp(log_scale)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    return translation(*center) @ turn @ scaling(scale, scale) @ translation(-center[0], -center[1])


def wander(
    rng: np.random.Generator,
    center: tuple[float, float],
    shift: float,
    degrees: float,
    zoom: float,
    reach: float,
) -> Homography:
    """Draw a motion about `center`: a translation and normal turn, zoom, shear and perspective.

    `shift` is the length of the translation, `degrees` and `zoom` are standard deviations, `reach` (pixels)
    is the distance over which the perspective acts.
    """
    heading = rng.uniform(0, 2 * np.pi)
    squash = rng.uniform(0.5, 1)  # motion is more often sideways than up or down
    move = translation(shift * np.cos(heading), shift * squash * np.sin(heading))
    shear = np.eye(3)
    shear[0, :2] += rng.normal(0, zoom * 0.4, 2)
    shear[1, 0] += rng.normal(0, zoom * 0.4)
    tilt = np.eye(3)
    tilt[2, :2] = np.clip(rng.normal(0, zoom * 0.7, 2), -0.3, 0.3) / reach
    at, back = translation(*center), translation(-center[0], -center[1])
    warp = at @ shear @ tilt @ back
    return np.asarray(move @ similarity(rng.normal(0, degrees), rng.normal(0, zoom), center) @ warp)


def apply(homography: Homography, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map points (n, 2)."""
    mapped = points @ homography[:, :2].T + homography[:, 2]
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def tamed(homography: Homography, width: int, height: int) -> Homography:
    """Return a map of a canvas unless perspective tears the canvas apart; then its affine part."""
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
    whole = homography / homography[2, 2]
    weights = corners @ whole[2]
    if weights.min() <= 0.6 or weights.max() >= 1.6:
        whole[2] = (0, 0, 1)
    return np.asarray(whole)


def displacement(rng: np.random.Generator, height: int, width: int, amplitude: float) -> NDArray[np.float32]:
    """Draw a smooth field (h, w, 2) of about `amplitude` pixels that never folds."""
    cells = int(rng.integers(2, 6))
    spacing = min(height, width) / cells
    nodes = rng.standard_normal((cells + 1, cells + 1, 2), dtype=np.float32) * min(amplitude, 0.1 * spacing)
    return np.asarray(cv2.resize(nodes, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def long_tailed(rng: np.random.Generator, median: float, sigma: float, most: float) -> float:
    """Draw a log-normal length, at most `most`."""
    return float(min(median * np.exp(sigma * rng.standard_normal()), most))
