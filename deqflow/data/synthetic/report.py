"""``deqflow scenes``: what the synthetic scenes are like, in figures and in pictures."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from deqflow.data.sample import Sample
from deqflow.errors import ConfigError
from deqflow.geometry import backward_warp
from deqflow.io.images import write_image
from deqflow.visualize import flow_to_image

from .config import MOTIONS
from .scenes import Recipe, SyntheticScenes
from .textures import Textures

_PERCENTILES = (10, 25, 50, 75, 90, 95, 98, 99, 99.9)
_LONG = 100.0  # pixels
_LARGE, _LARGE_WIDTH = 20.0, 512  # pixels of motion, at a width of frames
_ROWS = 8
_STRIDE = 4  # every fourth pixel of every fourth row is plenty for percentiles
_TILE = 0.6  # of a frame, on the sheet


@dataclass(frozen=True, kw_only=True)
class ScenesOptions:
    """Print statistics of the synthetic training scenes and write a contact sheet of the first ones.

    Its columns are frame 1, frame 2, flow, occlusion, and frame 2 warped back by the flow.

    Attributes:
        scenes: How fast things move in them, see `deqflow train --help`.
        sequences: Number of sequences to render and count besides.
        textures: Folder of photos and cut-outs; without it, all surfaces are computed patterns.
        output: Image file for the contact sheet.
        samples: Number of pairs.
        height: Of a frame, in pixels.
        width: Of a frame, in pixels.
        seed: Pairs are determined by seed and index.
        permissive_only: Of a folder with a license manifest, use only what it marks as permissive.
        overwrite: Replace a contact sheet that is already there.
    """

    scenes: Literal["usual", "fast", "large"] = "usual"
    sequences: int = 0
    textures: Path | None = None
    output: Path = Path("scenes.jpg")
    samples: int = 1000
    height: int = 256
    width: int = 320
    seed: int = 0
    permissive_only: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be, naming the option."""
        if self.samples < 1:
            raise ConfigError(f"--samples must be at least 1, got {self.samples}")
        if self.sequences < 0:
            raise ConfigError(f"--sequences must not be negative, got {self.sequences}")
        if self.seed < 0:
            raise ConfigError(f"--seed must not be negative, got {self.seed}")
        if self.output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise ConfigError(f"--output must be a .png, .jpg or .webp file, got {self.output}")


@dataclass
class Statistics:
    """Gathers figures over pairs."""

    pairs: int = 0
    lengths: list[NDArray[np.float32]] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    occluded: float = 0.0
    invalid: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    totals: list[float] = field(default_factory=list)

    def add(self, sample: Sample, recipe: Recipe, seconds: float) -> None:
        """Count one pair, which took `seconds` of processor time."""
        sparse = sample.flow[::_STRIDE, ::_STRIDE]
        known = sample.valid[::_STRIDE, ::_STRIDE]
        self.pairs += 1
        self.lengths.append(np.hypot(sparse[..., 0], sparse[..., 1])[known])
        self.means.append(float(self.lengths[-1].mean()) if known.any() else 0.0)
        assert sample.occlusion is not None
        self.occluded += float(sample.occlusion.mean())
        self.invalid += 1 - float(sample.valid.mean())
        self.kinds[recipe.kind] += 1
        self.effects.update(recipe.effects)
        self.objects[recipe.objects] += 1
        self.totals.append(seconds)
        for name, spent in recipe.watch.seconds.items():
            self.parts[name] += 1
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def lines(self, width: int) -> list[str]:
        """Say it all, of frames of a width."""
        lengths = np.concatenate(self.lengths)
        shares = [f"{q:g} %: {value:.1f}" for q, value in self._percentiles(lengths)]
        counts = np.array([[number, count] for number, count in sorted(self.objects.items())])
        mean = float((counts[:, 0] * counts[:, 1]).sum() / self.pairs)
        per_pair = 1e3 * np.array(self.totals)
        large = float((np.array(self.means) * _LARGE_WIDTH / width > _LARGE).mean())
        return [
            f"pairs: {self.pairs}",
            f"median |flow|: {np.median(lengths):.2f} px",
            f"percentiles of |flow| in px: {', '.join(shares)}",
            f"pixels beyond {_LONG:g} px: {100 * float((lengths > _LONG).mean()):.2f} %",
            f"pairs of more than {_LARGE:g} px on average at {_LARGE_WIDTH} px of width: {100 * large:.1f} %",
            f"pixels occluded: {100 * self.occluded / self.pairs:.2f} %, "
            f"without known flow: {100 * self.invalid / self.pairs:.3f} %",
            f"objects per pair: {counts[0, 0]} to {counts[-1, 0]}, mean {mean:.1f}",
            "kinds, % of pairs:",
            *(f"  {name:24}{100 * count / self.pairs:6.1f}" for name, count in self.kinds.most_common()),
            "effects, % of pairs:",
            *(f"  {name:24}{100 * count / self.pairs:6.1f}" for name, count in self.effects.most_common()),
            f"processor time per pair: mean {per_pair.mean():.1f} ms, median {np.median(per_pair):.1f} ms",
            "processor time of parts and effects, ms in a pair that has it, ms per pair:",
            *(self._cost(name) for name in sorted(self.seconds, key=lambda name: -self.seconds[name])),
        ]

    def _percentiles(self, lengths: NDArray[np.float32]) -> list[tuple[float, float]]:
        return list(zip(_PERCENTILES, np.percentile(lengths, _PERCENTILES).tolist(), strict=True))

    def _cost(self, name: str) -> str:
        spent = 1e3 * self.seconds[name]
        return f"  {name:24}{spent / self.parts[name]:6.2f}{spent / self.pairs:8.2f}"


def sequence_lines(scenes: SyntheticScenes, count: int) -> list[str]:
    """Count sequences: their courses and lengths, and how many neighboring frames are alike."""
    courses: Counter[str] = Counter()
    pairs, still = 0, 0
    for index in tqdm(range(count), desc="sequences", unit="sequence"):
        samples, _ = scenes.sequence(index)
        courses[samples[0].sequence] += 1
        pairs += len(samples)
        still += sum(sample.known and not sample.flow[sample.valid].any() for sample in samples)
    return [
        f"sequences: {count}, mean {1 + pairs / count:.1f} frames, "
        f"pairs without any motion: {100 * still / pairs:.1f} %",
        "courses, % of sequences:",
        *(f"  {name:24}{100 * number / count:6.1f}" for name, number in courses.most_common()),
    ]


def warp_back(sample: Sample) -> NDArray[np.uint8]:
    """Return frame 2 seen from frame 1: `frame2(x + flow(x))`, black outside; uint8 (H, W, 3)."""
    frame2 = torch.from_numpy(sample.frame2).permute(2, 0, 1)[None].float()
    warped, _ = backward_warp(frame2, torch.from_numpy(sample.flow).permute(2, 0, 1)[None])
    return warped[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def sheet_row(sample: Sample) -> NDArray[np.uint8]:
    """Return frames, flow, occlusion and the second frame warped back, side by side."""
    assert sample.occlusion is not None
    longest = float(np.quantile(np.hypot(sample.flow[..., 0], sample.flow[..., 1]), 0.98))
    flow = flow_to_image(sample.flow, max(longest, 1.0), clip=True)
    occlusion = np.repeat(255 * sample.occlusion[..., None].astype(np.uint8), 3, 2)
    row = np.hstack([sample.frame1, sample.frame2, flow, occlusion, warp_back(sample)])
    return np.asarray(cv2.resize(row, None, fx=_TILE, fy=_TILE, interpolation=cv2.INTER_AREA), np.uint8)


def run(options: ScenesOptions) -> int:
    """Render, print and write; the exit code.

    Raises:
        DeqflowError, OSError: an option does not hold, or a file cannot be read or written.
    """
    if options.output.exists() and not options.overwrite:
        raise ConfigError(f"{options.output} exists; --overwrite replaces it")
    textures = Textures.from_folder(options.textures, options.permissive_only)
    size = (options.height, options.width)
    scenes = SyntheticScenes(textures, *size, seed=options.seed, config=MOTIONS[options.scenes])
    # Before the minutes of rendering rather than after: a folder that cannot be written to.
    options.output.parent.mkdir(parents=True, exist_ok=True)
    statistics, rows = Statistics(), []
    for index in tqdm(range(options.samples), desc="scenes", unit="pair"):
        start = time.process_time()
        sample, recipe = scenes.render(index)
        statistics.add(sample, recipe, time.process_time() - start)
        if index < _ROWS:
            rows.append(sheet_row(sample))
            write_image(options.output, np.vstack(rows))
    print(f"{len(textures.photos)} photos, {len(textures.objects)} cut-outs, seed {options.seed}")
    print("\n".join(statistics.lines(options.width)))
    if options.sequences:
        print("\n".join(sequence_lines(scenes, options.sequences)))
    print(f"contact sheet (frame 1, frame 2, flow, occlusion, frame 2 warped back): {options.output}")
    return 0
