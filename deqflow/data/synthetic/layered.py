"""Scenes of flat layers: a background under camera motion and objects that move across it."""

import numpy as np

from .config import SceneConfig
from .layers import Layer
from .motion import Homography, long_tailed, similarity, translation, wander
from .shapes import draw
from .textures import Surfaces, premultiply


def layered_scene(
    rng: np.random.Generator, config: SceneConfig, surfaces: Surfaces, height: int, width: int, kind: str
) -> tuple[list[Layer], set[str]]:
    """Draw a scene of `kind` layered, tiny, rush or still. Returns layers back to front and contents."""
    unit = width / 320
    center = (width / 2 + rng.normal(0, width / 6), height / 2 + rng.normal(0, height / 6))
    shift = long_tailed(rng, *config.camera_motion, config.max_motion) * unit
    calm = 1.0
    if kind == "tiny":
        calm = 0.08
        shift = rng.uniform(0, config.tiny_motion * 0.6) * unit
    if kind == "rush":
        shift = rng.uniform(40, 170) * unit
    # Steady shots are common: sometimes the camera rests, or only drifts sideways.
    steadiness = rng.choice([0.0, 0.3, 1.0], p=[0.12, 0.28, 0.6])
    if steadiness == 0 and kind == "layered":
        shift = 0.0
    camera = wander(
        rng, center, shift, config.rotation * calm * steadiness, config.zoom * calm * steadiness, width
    )
    if kind == "still":
        camera = np.eye(3)
    contents = {kind, "still camera" if np.array_equal(camera, np.eye(3)) else "moving camera"}
    layers = [
        _background(rng, config, surfaces, camera, height, width, contents, calm if kind != "still" else 0.0)
    ]
    fewest, most = config.objects
    count = fewest + int((most + 1 - fewest) * rng.beta(1, 1.8))
    crowd = rng.beta(1, 2.2)  # one size regime per scene: many small things or few large ones
    for order in range(count):
        low, high = np.log(config.object_size)
        size = np.exp(low + (high - low) * np.clip(crowd + rng.normal(0, 0.2), 0, 1)) * height
        layer = _object(rng, config, surfaces, max(8, int(size)), contents)
        h, w = layer.texture.shape[:2]
        where = (rng.uniform(-0.05, 1.05) * width, rng.uniform(-0.05, 1.05) * height)
        turn = rng.normal(0, 25) if rng.random() < 0.5 else rng.normal(0, 5)
        first = similarity(turn, 0.0, where) @ translation(where[0] - w / 2, where[1] - h / 2)
        own = _own_motion(rng, config, where, size, kind, unit)
        layer.maps = (first, _tamed(own @ camera @ first, first, w, h))
        layer.depth = 1 - (order + 1) / (count + 1)
        if rng.random() < config.deformation_probability and kind != "still":
            layer.bend = (long_tailed(rng, 1.5, 0.9, 0.04 * size) * calm, int(rng.integers(2**31)))
            contents.add("deformation")
        layers.append(layer)
    return layers, contents


def _background(
    rng: np.random.Generator,
    config: SceneConfig,
    surfaces: Surfaces,
    camera: Homography,
    height: int,
    width: int,
    contents: set[str],
    calm: float,
) -> Layer:
    texture = surfaces.opaque(rng, int(height * 1.3), int(width * 1.3), whole=True)
    first = translation(-0.15 * width, -0.15 * height)
    layer = Layer(texture, (first, camera @ first), depth=1.2)
    if rng.random() < config.background_deformation_probability and calm:
        layer.bend = (long_tailed(rng, 1.5, 0.8, 8.0) * calm, int(rng.integers(2**31)))
        contents.add("background deformation")
    return layer


def _object(
    rng: np.random.Generator, config: SceneConfig, surfaces: Surfaces, size: int, contents: set[str]
) -> Layer:
    texture = surfaces.cut_out(rng, size) if rng.random() < 0.55 else None
    if texture is None:
        kind, matte = draw(rng, size)
        contents.add(kind)
        texture = premultiply(surfaces.opaque(rng, size, size), matte)
    else:
        contents.add("cut-out")
    layer = Layer(texture, (np.eye(3), np.eye(3)))
    # Drawn in any case, so that switching shadows off leaves the rest of the scene as it is.
    reach = 0.12 * size
    shadow = (rng.normal(0, reach), abs(rng.normal(0, reach)), 1 + 0.06 * size, rng.uniform(0.2, 0.7))
    if rng.random() < config.drop_shadow_probability:
        contents.add("drop shadow")
        layer.shadow = shadow
    return layer


def _own_motion(
    rng: np.random.Generator,
    config: SceneConfig,
    where: tuple[float, float],
    size: float,
    kind: str,
    unit: float,
) -> Homography:
    """Draw an object's motion relative to the background."""
    if kind == "still":
        return np.eye(3)
    if kind == "tiny":
        return wander(rng, where, rng.uniform(0, 0.4 * config.tiny_motion) * unit, 0.3, 0.004, size)
    shift = long_tailed(rng, *config.object_motion, config.max_motion) * unit
    if rng.random() < 0.2:  # parallax alone
        return translation(shift * rng.normal(), 0.3 * shift * rng.normal())
    turn = 3 * config.rotation * rng.choice([0.3, 1.0])
    return wander(rng, where, shift, turn, 2 * config.zoom, max(size, 30.0))


def _tamed(second: Homography, first: Homography, width: int, height: int) -> Homography:
    """Return `second` unless perspective tears the object apart; then its affine part."""
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
    weights = corners @ second[2] / second[2, 2]
    if weights.min() > 0.6 and weights.max() < 1.6:
        return np.asarray(second / second[2, 2])
    affine = second / second[2, 2]
    affine[2] = (0, 0, 1)
    return np.asarray(affine)
