"""Scenes of flat layers: a background under camera motion and objects that move across it."""

import cv2
import numpy as np

from .config import SceneConfig
from .layers import Layer
from .motion import Homography, long_tailed, similarity, tamed, translation, wander
from .shapes import draw, tapered, thin
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
        dart = kind == "layered" and _happens(rng, config.dart_probability)
        low, high = np.log(config.dart_size if dart else config.object_size)
        size = np.exp(low + (high - low) * np.clip(crowd + rng.normal(0, 0.2), 0, 1)) * height
        layer = _object(rng, config, surfaces, max(8, int(size)), contents, "dart" if dart else "")
        h, w = layer.texture.shape[:2]
        where = (rng.uniform(-0.05, 1.05) * width, rng.uniform(-0.05, 1.05) * height)
        turn = rng.normal(0, 25) if rng.random() < 0.5 else rng.normal(0, 5)
        first = similarity(turn, 0.0, where) @ translation(where[0] - w / 2, where[1] - h / 2)
        own = _own_motion(rng, config, where, size, "dart" if dart else kind, unit)
        layer.maps = (first, tamed(own @ camera @ first, w, h))
        layer.depth, layer.group = 1 - (order + 1) / (count + 1), order + 1
        strength = 0.0 if kind == "still" else calm
        limbs = [] if dart else _limbs(rng, config, surfaces, layer, size, strength)
        if limbs:
            contents.add("limbs")
        elif rng.random() < config.deformation_probability and kind != "still":
            layer.bend = (long_tailed(rng, 1.5, 0.9, 0.04 * size) * calm, int(rng.integers(2**31)))
            contents.add("deformation")
        behind = int(rng.integers(len(limbs) + 1)) if limbs else 0
        layers += [*limbs[:behind], layer, *limbs[behind:]]
    return layers, contents


def _happens(rng: np.random.Generator, probability: float) -> bool:
    """Draw whether something happens; what never does takes no draw: older scenes stay as they are."""
    return probability > 0 and bool(rng.random() < probability)


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
    rng: np.random.Generator,
    config: SceneConfig,
    surfaces: Surfaces,
    size: int,
    contents: set[str],
    kind: str = "",
) -> Layer:
    texture = surfaces.cut_out(rng, size) if rng.random() < (0.3 if kind == "dart" else 0.55) else None
    if texture is None and kind == "dart" and rng.random() < 0.6:
        texture = premultiply(surfaces.opaque(rng, size, size), thin(rng, size))
    if kind:
        contents.add(kind)
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
    if kind == "dart":
        low, high = np.log(config.dart_motion)
        return wander(rng, where, float(np.exp(rng.uniform(low, high))) * unit, config.rotation, 0.0, 30.0)
    if kind == "tiny":
        return wander(rng, where, rng.uniform(0, 0.4 * config.tiny_motion) * unit, 0.3, 0.004, size)
    shift = long_tailed(rng, *config.object_motion, config.max_motion) * unit
    if rng.random() < 0.2:  # parallax alone
        return translation(shift * rng.normal(), 0.3 * shift * rng.normal())
    turn = 3 * config.rotation * rng.choice([0.3, 1.0])
    return wander(rng, where, shift, turn, 2 * config.zoom, max(size, 30.0))


def _limbs(
    rng: np.random.Generator,
    config: SceneConfig,
    surfaces: Surfaces,
    body: Layer,
    size: float,
    strength: float,
) -> list[Layer]:
    """Draw limbs, ears or branches, if any: slender parts that turn about joints at a body's edge."""
    if not _happens(rng, config.limb_probability):
        return []
    h, w = body.texture.shape[:2]
    middle = body.texture[h // 3 : max(2 * h // 3, h // 3 + 2), w // 3 : max(2 * w // 3, w // 3 + 2)]
    alike = bool(middle[..., 3].min() > 250) and rng.random() < 0.7
    limbs = []
    for _ in range(rng.integers(1, 5)):
        length = max(8, int(size * rng.uniform(0.25, 0.7)))
        breadth = max(4, int(length * np.exp(rng.uniform(np.log(0.08), np.log(0.35)))))
        skin = (
            cv2.resize(middle[..., :3], (length, breadth), interpolation=cv2.INTER_LINEAR)
            if alike
            else surfaces.opaque(rng, breadth, length)
        )
        texture = premultiply(np.asarray(skin, np.uint8), tapered(rng, breadth, length))
        heading = rng.uniform(0, 360)
        reach = np.array([w, h]) * rng.uniform(0.2, 0.4)
        joint = np.array([w, h]) / 2 + reach * [np.cos(np.deg2rad(heading)), np.sin(np.deg2rad(heading))]
        lay = translation(*joint) @ similarity(heading + rng.normal(0, 25), 0.0, (0.0, 0.0))
        lay = lay @ translation(-0.1 * length, -breadth / 2)
        turn = rng.normal(0, config.limb_turn * strength)
        swing = similarity(turn, 0.0, (float(joint[0]), float(joint[1])))
        maps = (body.maps[0] @ lay, tamed(body.maps[1] @ swing @ lay, length, breadth))
        limbs.append(Layer(texture, maps, depth=body.depth, group=body.group))
    return limbs
