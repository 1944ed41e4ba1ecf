"""Scenes of planes in depth seen by a moving pinhole camera: ground, buildings, things that stand about.

World coordinates are meters in the frame of a level camera 1: x right, y down, z ahead. A canvas point (u, v)
lies at origin + u a + v b, and camera k sees it through K R_k [a b origin - c_k]: the third row is its depth.
Everything is painted far to near; things stand between the buildings' faces, so that this order is right.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .config import SceneConfig
from .layers import Layer
from .motion import Homography, inverse, translation
from .textures import Image, Surfaces, color, smooth_noise

Vector = NDArray[np.float64]
_FAR = 150.0  # meters


def _rotation(pitch: float, yaw: float, roll: float) -> NDArray[np.float64]:
    """Return world-to-camera rotation for angles in degrees."""
    about_x, about_y, about_z = (
        np.asarray(cv2.Rodrigues(np.deg2rad(np.array(axis)))[0], np.float64)
        for axis in ([pitch, 0.0, 0.0], [0.0, yaw, 0.0], [0.0, 0.0, roll])
    )
    return about_z @ about_x @ about_y


@dataclass(frozen=True)
class Camera:
    """Intrinsics and the two poses."""

    intrinsics: NDArray[np.float64]
    rotations: tuple[NDArray[np.float64], NDArray[np.float64]]
    step: NDArray[np.float64]  # meters from the first center to the second

    def see(
        self, origin: Vector, a: Vector, b: Vector, moved: Vector | None = None
    ) -> tuple[Homography, Homography]:
        """Return the maps of a plane's canvas to both frames; the plane itself may move by `moved` meters."""
        after = origin - self.step + (0 if moved is None else moved)
        first = self.intrinsics @ self.rotations[0] @ np.stack([a, b, origin], 1)
        second = self.intrinsics @ self.rotations[1] @ np.stack([a, b, after], 1)
        return first, second

    def see_backdrop(self, place: Homography) -> tuple[Homography, Homography]:
        """Return the maps of something infinitely far whose canvas lies in frame 1 by `place`."""
        turn = self.rotations[1] @ self.rotations[0].T
        return place, self.intrinsics @ turn @ inverse(self.intrinsics) @ place


def _camera(rng: np.random.Generator, config: SceneConfig, height: int, width: int) -> tuple[Camera, str]:
    focal = width * rng.choice([0.58, rng.uniform(0.5, 1.2)])
    horizon = height * rng.uniform(0.25, 0.65)
    intrinsics = np.array([[focal, 0, width * rng.uniform(0.42, 0.58)], [0, focal, height / 2], [0, 0, 1.0]])
    pitch = np.rad2deg(np.arctan((horizon - height / 2) / focal))
    roll = rng.normal(0, 1.0)
    kind = str(rng.choice(["drive", "walk"], p=[0.7, 0.3]))
    if kind == "drive":
        forward = rng.uniform(*config.forward)
        step = np.array([rng.normal(0, 0.03), rng.normal(0, 0.015), forward])
        turn = (rng.normal(0, 0.25), rng.normal(0, 1.0), rng.normal(0, 0.2))
    else:
        step = rng.normal(0, 1, 3) * np.array([0.35, 0.1, 0.35]) * rng.uniform(0.1, 1)
        roll = rng.normal(0, 3.0)
        turn = (rng.normal(0, 0.8), rng.normal(0, 1.5), rng.normal(0, 0.8))
    second = _rotation(*turn) @ _rotation(pitch, 0.0, roll)
    return Camera(intrinsics, (_rotation(pitch, 0.0, roll), second), step), kind


def _road(rng: np.random.Generator, side: int, per_meter: float) -> Image:
    """Paint asphalt with lane markings along v, mirrored without a seam."""
    grain = 4 * smooth_noise(rng, side, side, side // 3) + 8 * smooth_noise(rng, side, side, 6)
    gray = rng.uniform(50, 150) + grain + rng.uniform(0, 8) * smooth_noise(rng, side, side, 24)
    paint = rng.uniform(170, 245)
    half = max(1, int(0.08 * per_meter))
    for lane in np.cumsum(rng.uniform(2.5, 4.5, 6)) - 4:
        at = int(lane * per_meter)
        dashed = rng.random() < 0.6
        dash = int(rng.uniform(1.5, 4) * per_meter)
        if not 0 <= at < side:
            continue
        for start in range(0, side, 2 * dash):
            gray[start : start + (dash if dashed else 2 * dash), max(0, at - half) : at + half] = paint
    tint = rng.normal(0, 4, 3)
    channels = [cv2.convertScaleAbs(np.maximum(gray + np.float32(t), 0)) for t in tint]
    return np.asarray(cv2.merge(channels), np.uint8)


def _facade(rng: np.random.Generator, surfaces: Surfaces) -> Image:
    """Return a wall: a photograph or pattern, often with rows of windows."""
    side = 256
    image = surfaces.opaque(rng, side, side).copy()
    if rng.random() < 0.45:
        glass = color(rng) * 0.5
        pitch = int(rng.integers(20, 64))
        w, h = int(pitch * rng.uniform(0.3, 0.7)), int(pitch * rng.uniform(0.4, 0.75))
        cell, within = np.divmod(np.arange(side), pitch)
        rows, columns = np.flatnonzero(within < h), np.flatnonzero(within < w)
        shade = rng.uniform(0.6, 1.5, (side // pitch + 1, side // pitch + 1))
        panes = shade[cell[rows]][:, cell[columns]][..., None] * glass
        image[np.ix_(rows, columns)] = np.minimum(panes, 255).astype(np.uint8)
    return image


def planes_scene(
    rng: np.random.Generator, config: SceneConfig, surfaces: Surfaces, height: int, width: int
) -> tuple[list[Layer], set[str]]:
    """Draw such a scene. Returns its layers back to front and what it contains."""
    camera, kind = _camera(rng, config, height, width)
    contents = {"planes", kind, "moving camera"}
    eye = rng.uniform(1.2, 2.2)
    sky = surfaces.opaque(rng, int(height * 1.4), int(width * 1.4), whole=True)
    layers = [Layer(sky, camera.see_backdrop(translation(-0.2 * width, -0.2 * height)), depth=300.0)]
    layers.append(_ground(rng, surfaces, camera, eye))
    lateral = rng.uniform(3.5, 14)
    contents |= _buildings(rng, surfaces, camera, eye, lateral, layers)
    nearest = max(2.2, 1.3 * camera.step[2] + 1.2)
    count = int(rng.integers(1, 11))
    for depth in sorted(nearest + rng.exponential(11, count), reverse=True):
        _thing(rng, surfaces, camera, eye, lateral, float(depth), kind, layers, contents)
    return layers, contents


def _ground(rng: np.random.Generator, surfaces: Surfaces, camera: Camera, eye: float) -> Layer:
    per_meter = rng.uniform(25, 50)
    texture = _road(rng, 400, per_meter) if rng.random() < 0.6 else surfaces.opaque(rng, 400, 400)
    origin = np.array([-rng.uniform(3, 6), eye, 0.0])
    a, b = np.array([1 / per_meter, 0, 0]), np.array([0, 0, 1 / per_meter])
    edge = _FAR * per_meter
    outline = np.array([[-edge, 0.05], [edge, 0.05], [edge, edge], [-edge, edge]])
    return Layer(texture, camera.see(origin, a, b), depth=None, outline=outline)


def _buildings(
    rng: np.random.Generator,
    surfaces: Surfaces,
    camera: Camera,
    eye: float,
    lateral: float,
    layers: list[Layer],
) -> set[str]:
    """Add boxes on both sides, or none, far ones first: the face along the street and the one across it."""
    if rng.random() < 0.25:
        return set()
    boxes: list[tuple[float, float, int, float, float]] = []
    for side in (-1, 1):
        if rng.random() < 0.15:
            continue
        near = rng.uniform(-3, 12)
        while near < 90 and len(boxes) < 5:
            far = near + rng.uniform(4, 30)
            boxes.append((near, far, side, lateral * rng.uniform(0.9, 1.3), rng.uniform(1.5, 12)))
            near = far + rng.uniform(0, 8)
    for near, far, side, x, tall in sorted(boxes, reverse=True):
        texture = _facade(rng, surfaces)
        per_meter = texture.shape[0] / rng.uniform(4, 14)
        b = np.array([0, -1 / per_meter, 0])
        across = np.array([side / per_meter, 0, 0])
        along = np.array([0, 0, 1 / per_meter])
        for a, z, reach in ((across, near, 14.0), (along, near, far - near)):
            if a is across and near < 1.0:
                continue
            origin = np.array([side * x, eye, z])
            w, h = reach * per_meter, tall * per_meter
            outline = np.array([[0, 0], [w, 0], [w, h], [0, h]])
            layers.append(Layer(texture, camera.see(origin, a, b), depth=None, outline=outline))
        # The face along the street comes last: where the street is narrower it hides the other.
    return {"buildings"} if boxes else set()


def _thing(
    rng: np.random.Generator,
    surfaces: Surfaces,
    camera: Camera,
    eye: float,
    lateral: float,
    depth: float,
    kind: str,
    layers: list[Layer],
    contents: set[str],
) -> None:
    """Add a cut-out that stands on the ground at `depth`, sometimes moving, or a pole."""
    x = rng.uniform(-1, 1) * min(lateral * 0.85, depth * 0.9)
    focal = camera.intrinsics[0, 0]
    if rng.random() < 0.15:
        tall, wide = rng.uniform(2.5, 7), rng.uniform(0.06, 0.25)
        texture = np.full((128, 8, 4), 255, np.uint8)
        texture[..., :3] = surfaces.opaque(rng, 128, 8)
        contents.add("thin")
    else:
        tall = rng.choice([rng.uniform(0.8, 2.2), rng.uniform(2, 6)])
        pixels = int(np.clip(tall * focal / depth, 12, 400))
        cut_out = surfaces.cut_out(rng, pixels)
        if cut_out is None:
            return
        texture = cut_out
        contents.add("cut-out")
        wide = tall * texture.shape[1] / texture.shape[0]
    h, w = texture.shape[:2]
    moved = None
    if rng.random() < 0.4:
        contents.add("moving thing")
        reach = 0.8 if kind == "drive" else 0.15
        moved = np.array([rng.normal(0, 0.25 * reach), 0.0, rng.normal(0, reach)])
        moved[2] = max(moved[2], camera.step[2] + 1.2 - depth)
    a, b = np.array([wide / w, 0, 0]), np.array([0, tall / h, 0])
    yaw = np.deg2rad(rng.normal(0, 20))
    a = a[0] * np.array([np.cos(yaw), 0, np.sin(yaw)])
    if (
        depth - wide / 2 * abs(np.sin(yaw)) - max(0.0, camera.step[2] - (0 if moved is None else moved[2]))
        < 0.6
    ):
        a = np.array([wide / w, 0, 0])
    origin = np.array([x, eye - tall, depth]) - a * w / 2
    group = 0 if moved is None else len(layers)
    layers.append(Layer(texture, camera.see(origin, a, b, moved), depth=None, group=group))
