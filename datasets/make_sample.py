"""Makes datasets/sample: scenes of this project in the layouts of MPI-Sintel and KITTI 2015.

    python datasets/make_sample.py OUTPUT

All surfaces are computed patterns, so that nobody's pictures are part of it. The same seeds give the same
scenes.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deqflow.data.synthetic import SceneConfig, Textures, appearance
from deqflow.data.synthetic.layered import layered_scene
from deqflow.data.synthetic.layers import Layer
from deqflow.data.synthetic.motion import inverse
from deqflow.data.synthetic.painter import Fog, Frame, Painter, occluded
from deqflow.data.synthetic.planes import planes_scene
from deqflow.data.synthetic.shapes import solid
from deqflow.data.synthetic.textures import Surfaces, TextureCache, pattern, premultiply
from deqflow.io.flow_files import write_flow
from deqflow.io.images import write_image

SINTEL_SIZE = (80, 192)  # height, width; Sintel's shape
KITTI_SIZE = (72, 240)
# Deformations belong to one pair; without them a layer's motion goes on from frame to frame.
CONFIG = SceneConfig(
    deformation_probability=0,
    background_deformation_probability=0,
    objects=(4, 8),
    object_size=(0.3, 0.9),
)

Mask = NDArray[np.bool_]


def main(root: Path) -> None:
    """Write both data sets below ``root``, which must not exist."""
    root.mkdir(parents=True)
    sintel = root / "sintel"
    write_sintel(sintel / "training", "shapes_1", seed=16, frames=4, truth=True)
    write_sintel(sintel / "training", "shapes_2", seed=65, frames=3, truth=True)
    write_sintel(sintel / "test", "shapes_3", seed=55, frames=3, truth=False)
    for number, seed in enumerate((14, 7)):
        write_kitti(root / "kitti-2015" / "training", number, seed, truth=True)
    write_kitti(root / "kitti-2015" / "testing", 0, 31, truth=False)


def surfaces() -> Surfaces:
    """Draw computed patterns only."""
    return Surfaces(Textures(), TextureCache(side=640), procedural=1.0, low_contrast=0.1)


def write_sintel(split: Path, scene: str, *, seed: int, frames: int, truth: bool) -> None:
    """Write a sequence: every layer keeps the motion of its first pair."""
    rng = np.random.default_rng(seed)
    layers, _ = layered_scene(rng, CONFIG, surfaces(), *SINTEL_SIZE, "layered")
    steps = [layer.maps[1] @ inverse(layer.maps[0]) for layer in layers]
    clean, final = Painter(*SINTEL_SIZE), Painter(*SINTEL_SIZE, shutter=0.5, fog=fog(rng))
    for number in range(1, frames + 1):
        sharp = clean.paint(layers, 0)
        save(split / "clean" / scene / f"frame_{number:04d}.png", sharp.image)
        soft = appearance.noise(rng, final.paint(layers, 0).image.astype(np.float32), read=1.5, shot=0.02)
        save(split / "final" / scene / f"frame_{number:04d}.png", appearance.to_bytes(soft))
        if truth and number < frames:
            write_truth(split, scene, number, sharp, occluded(sharp, clean.paint(layers, 1)))
        for layer, step in zip(layers, steps, strict=True):
            layer.maps = (layer.maps[1], step @ layer.maps[1])


def write_truth(split: Path, scene: str, number: int, frame: Frame, occlusion: Mask) -> None:
    """Write flow, occlusions and invalid pixels, which our scenes have none of."""
    name = f"frame_{number:04d}"
    save_flow(split / "flow" / scene / f"{name}.flo", frame.flow, np.ones_like(occlusion))
    for folder, mask in (("occlusions", occlusion), ("invalid", ~frame.valid)):
        save_gray(split / folder / scene / f"{name}.png", np.where(mask, 255, 0).astype(np.uint8))


def write_kitti(split: Path, number: int, seed: int, *, truth: bool) -> None:
    """Write a street with something that moves across it, and ground truth on a scanner's rows."""
    rng = np.random.default_rng(seed)
    layers, _ = planes_scene(rng, CONFIG, surfaces(), *KITTI_SIZE)
    moving = len(layers)
    layers.append(passer_by(rng))
    painter = Painter(*KITTI_SIZE)
    first, second = painter.paint(layers, 0), painter.paint(layers, 1)
    for suffix, frame in (("10", first), ("11", second)):
        save(split / "image_2" / f"{number:06d}_{suffix}.png", frame.image)
    if not truth:
        return
    scanned = rng.random(KITTI_SIZE) < 0.7
    scanned[: KITTI_SIZE[0] // 3] = scanned[1::2] = False
    known = scanned & first.valid & (np.abs(first.flow) < 500).all(-1)
    name = f"{number:06d}_10.png"
    save_flow(split / "flow_occ" / name, first.flow, known)
    save_flow(split / "flow_noc" / name, first.flow, known & ~occluded(first, second))
    save_gray(split / "obj_map" / name, (first.index == moving).astype(np.uint8))


def passer_by(rng: np.random.Generator) -> Layer:
    """Return a patterned shape that crosses the lower half of the frame."""
    height, width = KITTI_SIZE
    side = height // 2
    first, second = np.eye(3), np.eye(3)
    first[:2, 2] = rng.uniform(0.3, 0.6) * width, 0.4 * height
    second[:2, 2] = first[:2, 2] + (rng.choice([-1, 1]) * rng.uniform(5, 9), rng.uniform(-0.5, 1))
    return Layer(premultiply(pattern(rng, side, side), solid(rng, side, smooth=True)), (first, second))


def fog(rng: np.random.Generator) -> Fog:
    """Return a light haze."""
    return Fog(rng.uniform(120, 200, 3).astype(np.float32), density=0.25)


def save(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


def save_gray(path: Path, values: NDArray[np.uint8]) -> None:
    """Write an image of one channel, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", values)[1].tobytes())


def save_flow(path: Path, flow: NDArray[np.float32], valid: Mask) -> None:
    """Write a flow file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_flow(path, flow, valid)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
