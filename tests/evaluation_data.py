"""Small data sets in their official layouts, small and constant methods, for the tests of evaluations."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from deqflow.config import ModelConfig, SolveSettings
from deqflow.estimator import DEQFlow
from deqflow.evaluation.predictors import Prediction
from deqflow.evaluation.results import SampleResult, read_samples
from deqflow.evaluation.runner import evaluate
from deqflow.io.flow_files import write_flow
from deqflow.io.images import write_image
from deqflow.network import ConvexConfig, GatedStripConfig, SharedEncoderConfig
from deqflow.processes import Processes

HEIGHT, WIDTH = 24, 32
ALONE = Processes(torch.device("cpu"))


TINY = ModelConfig(
    features=16,
    context=8,
    hidden=16,
    encoder=SharedEncoderConfig(widths=(8, 16), depths=(1, 1)),
    update=GatedStripConfig(motion=12, mixed=24),
    upsampling=ConvexConfig(width=16),
)


def tiny_model(**options) -> DEQFlow:
    """A small model with random weights that are always the same, solved as the options say."""
    torch.manual_seed(1)
    model = DEQFlow(TINY, SolveSettings(steps=6)).eval().requires_grad_(False)
    model.defaults = model.settings(**options)
    return model


def constant_flow(u: float, v: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.tile(np.array([u, v], np.float32), (height, width, 1))


def write_frame(path: Path, seed: int, height: int = HEIGHT, width: int = WIDTH) -> None:
    """A smooth picture of its own for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    write_image(path, cv2.GaussianBlur(noise, (0, 0), 2.0))


def write_pair(
    flow: Path,
    frame1: Path,
    frame2: Path,
    motion: tuple[float, float] = (1.0, -2.0),
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> None:
    for seed, frame in enumerate((frame1, frame2)):
        write_frame(frame, seed + sum(map(ord, frame.stem)), *size)
    flow.parent.mkdir(parents=True, exist_ok=True)
    write_flow(flow, constant_flow(*motion, *size))


def write_sintel(root: Path, scenes: dict[str, list[int]], render: str = "final") -> Path:
    """Pairs by scene and number of their first frame; returns the data set's folder."""
    training = root / "MPI-Sintel" / "training"
    for scene, numbers in scenes.items():
        for number in numbers:
            frames = [training / render / scene / f"frame_{n:04d}.png" for n in (number, number + 1)]
            write_pair(training / "flow" / scene / f"frame_{number:04d}.flo", *frames)
    return training.parent


def write_kitti(root: Path, scene: str = "000007", size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """One pair of KITTI 2015 and one of 2012, whose ground truth leaves out what gets hidden."""
    for year, images, truth in (("2015", "image_2", "flow_occ"), ("2012", "colored_0", "flow_noc")):
        kitti = root / f"KITTI-{year}" / "training"
        frames = [kitti / images / f"{scene}_{n}.png" for n in (10, 11)]
        write_pair(kitti / truth / f"{scene}_10.png", *frames, size=size)


def write_benchmarks(root: Path) -> None:
    """One to three pairs of each data set that is looked for without ``--dataset``, seven together."""
    sintel = write_sintel(root, {"cave_2": [1, 2, 11]})
    occlusion = sintel / "training" / "occlusions" / "cave_2" / "frame_0002.png"
    occlusion.parent.mkdir(parents=True)
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[:, :5] = 255
    write_image(occlusion, mask)
    write_kitti(root)
    other = root / "Middlebury"
    frames = [other / "other-data" / "Venus" / f"frame{n}.png" for n in (10, 11)]
    write_pair(other / "other-gt-flow" / "Venus" / "flow10.flo", *frames)
    chairs = root / "FlyingChairs_release" / "data"
    write_pair(chairs / "00003_flow.flo", chairs / "00003_img1.ppm", chairs / "00003_img2.ppm")


class ConstantPredictor:
    """Answers with a constant flow, and remembers what it was asked."""

    sequential = False

    def __init__(self, u: float = 1.0, v: float = 1.0, *, fail_at: int | None = None) -> None:
        self.motion, self.fail_at = (u, v), fail_at
        self.asked: list[list[str]] = []

    def __call__(self, items):
        self.asked.append([item.sample.name for item in items])
        if self.fail_at is not None and sum(map(len, self.asked)) > self.fail_at:
            raise KeyboardInterrupt
        return [
            Prediction(
                constant_flow(*self.motion, *item.sample.flow.shape[:2]), 0.5, 7, 7.5, True, 0.25, 0.5, False
            )
            for item in items
        ]


def results(methods, plan, **options) -> list[SampleResult]:
    return [result for found in evaluate(methods, plan, **options) for result in found]


def figures(path: Path) -> list[SampleResult]:
    """What a table says, apart from how long it took."""
    return [replace(result, seconds=0.0) for result in read_samples(path)]
