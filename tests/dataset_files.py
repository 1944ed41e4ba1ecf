"""Data sets of tiny files in their official layouts."""

import csv
import json
from itertools import product
from pathlib import Path

import cv2
import numpy as np

from deqflow.cli import main
from deqflow.data.datasets import PairDataset
from deqflow.io.flow_files import write_flow
from deqflow.io.images import write_image

HEIGHT, WIDTH = 20, 24


def write_frame(path: Path, value: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """A frame whose first pixel tells which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[0, 0] = value
    write_image(path, image)
    return path


def write_motion(
    path: Path, u: float = 1, v: float = -2, valid: np.ndarray | None = None, scale: int = 1
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    flow = np.tile(np.array([u, v], np.float32), (scale * HEIGHT, scale * WIDTH, 1))
    write_flow(path, flow, valid)
    return path


def write_mask(path: Path, mask: np.ndarray) -> Path:
    return write_gray(path, np.where(mask, 255, 0).astype(np.uint8))


def write_gray(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), values)
    return path


def corner(rows: int, columns: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:rows, :columns] = True
    return mask


def names(dataset: PairDataset) -> list[str]:
    return [pair.name for pair in dataset.files]


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def make_sintel(root: Path, renders=("clean", "final")) -> Path:
    training = root / "training"
    for number in (1, 2, 3, 10):
        for render in renders:
            write_frame(training / render / "cave_2" / f"frame_{number:04d}.png", number)
    for number in (1, 2, 10):
        write_motion(training / "flow" / "cave_2" / f"frame_{number:04d}.flo", number)
    write_mask(training / "occlusions" / "cave_2" / "frame_0002.png", corner(4, 5))
    write_mask(training / "invalid" / "cave_2" / "frame_0002.png", corner(1, 3))
    for scene, number in product(("market_1", "ambush_3"), (1, 2, 3)):
        write_frame(root / "test" / "final" / scene / f"frame_{number:04d}.png", number)
    return root


def make_kitti(root: Path, images: str, truths=("flow_occ", "flow_noc")) -> Path:
    for number in (0, 7):
        for frame in (9, 10, 11, 12):
            write_frame(root / "training" / images / f"{number:06d}_{frame:02d}.png", frame)
        for truth in truths:
            valid = corner(10, 10) if truth == "flow_occ" else corner(10, 4)
            write_motion(root / "training" / truth / f"{number:06d}_10.png", 3, 4, valid)
    for frame in (10, 11):
        write_frame(root / "testing" / images / f"000001_{frame:02d}.png", frame)
    return root


def make_chairs(root: Path) -> Path:
    for number in range(1, 5):
        for frame in (1, 2):
            write_frame(root / "data" / f"{number:05d}_img{frame}.ppm", frame)
        write_motion(root / "data" / f"{number:05d}_flow.flo", number)
    (root / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n1\n")
    return root


def make_things(root: Path, renders=("clean", "final"), split="TRAIN") -> Path:
    for render, camera, number in product(renders, ("left", "right"), (6, 7, 8)):
        write_frame(
            root / f"frames_{render}pass" / split / "A" / "0000" / camera / f"{number:04d}.png", number
        )
    for camera, number in product(("left", "right"), (6, 7, 8)):
        truth = root / "optical_flow" / split / "A" / "0000"
        side = camera[0].upper()
        for direction, prefix in (("into_future", "IntoFuture"), ("into_past", "IntoPast")):
            u = number if direction == "into_future" else -number
            write_motion(truth / direction / camera / f"OpticalFlow{prefix}_{number:04d}_{side}.pfm", u)
    return root


def make_hd1k(root: Path) -> Path:
    for folder, sequence, number in product(("hd1k_input", "hd1k_challenge"), (0, 35), (0, 1, 2)):
        write_frame(root / folder / "image_2" / f"{sequence:06d}_{number:04d}.png", number)
    for sequence, number in product((0, 35), (0, 1, 2)):
        write_motion(root / "hd1k_flow_gt/flow_occ" / f"{sequence:06d}_{number:04d}.png", number, 0)
    return root


def make_middlebury(root: Path) -> Path:
    for folder, scene, number in product(("other-data", "eval-data"), ("Venus", "Grove2"), (10, 11)):
        write_frame(root / folder / scene / f"frame{number}.png", number)
    for scene in ("Venus", "Grove2"):
        write_motion(root / "other-gt-flow" / scene / "flow10.flo", valid=~corner(3, 3))
    return root


def make_spring(root: Path) -> Path:
    for split, camera, number in product(("train", "test"), ("left", "right"), (1, 2, 3)):
        write_frame(root / split / "0001" / f"frame_{camera}" / f"frame_{camera}_{number:04d}.png", number)
    for camera, direction, number in product(("left", "right"), ("FW", "BW"), (1, 2, 3)):
        name = f"flow_{direction}_{camera}"
        first, last = (1, 2) if direction == "FW" else (2, 3)
        if first <= number <= last:
            u = number if direction == "FW" else -number
            write_motion(root / "train" / "0001" / name / f"{name}_{number:04d}.flo5", u, scale=2)
    return root


def make_tartanair(root: Path) -> Path:
    trajectory = root / "abandonedfactory" / "Easy" / "P001"
    for number in range(3):
        write_frame(trajectory / "image_left" / f"{number:06d}_left.png", number)
    for number in range(2):
        flow = write_motion(trajectory / "flow" / f"{number:06d}_{number + 1:06d}_flow.npy", number)
        mask = np.where(corner(2, 2), 100, 0).astype(np.uint8)
        np.save(flow.with_name(flow.name.replace("_flow", "_mask")), mask)
    return root


def make_custom(root: Path, suffix: str = ".flo") -> Path:
    for number in (9, 10, 11):  # natural order: 10 follows 9
        write_frame(root / "frames" / f"shot{number}.jpg", number)
        write_motion(root / "flow" / f"shot{number}{suffix}", number)
    write_mask(root / "masks" / "shot10.png", corner(7, 7))
    return root


def make_list(root: Path, kind: str) -> Path:
    frames = [write_frame(root / "clip" / f"{number}.png", number) for number in range(4)]
    rows = []
    for first, second in ((0, 1), (1, 2), (2, 3), (0, 2)):
        flow = write_motion(root / "truth" / f"{first}_{second}.flo", second - first)
        row = {"frame1": frames[first], "frame2": frames[second], "flow": flow}
        rows.append({name: path.relative_to(root).as_posix() for name, path in row.items()})
    rows[1]["mask"] = write_mask(root / "known.png", corner(5, 5)).name
    file = root / f"pairs.{kind}"
    if kind == "csv":
        with file.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, ["frame1", "frame2", "flow", "mask"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return file


MAKERS = {
    "sintel": make_sintel,
    "kitti-2015": lambda root: make_kitti(root, "image_2"),
    "kitti-2012": lambda root: make_kitti(root, "colored_0"),
    "middlebury": make_middlebury,
    "chairs": make_chairs,
    "things": make_things,
    "hd1k": make_hd1k,
    "spring": make_spring,
    "tartanair": make_tartanair,
    "custom": make_custom,
}
