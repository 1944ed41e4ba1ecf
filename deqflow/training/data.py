"""From a data set to batches on a device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deqflow.data.sample import Sample
from deqflow.data.synthetic import SyntheticScenes, Textures
from deqflow.training.options import TrainOptions

HELD_OUT_SEED = 2_000_003
"""Added to the seed for the scenes that are never trained on."""
HELD_OUT_EVERY = 16
"""One in so many photos and cut-outs is kept for the held-out scenes."""


@dataclass(frozen=True)
class Batch:
    """Pairs as tensors: images (B, 3, H, W) of 0..255, flow (B, 2, H, W), valid (B, 1, H, W) float."""

    image1: Tensor
    image2: Tensor
    flow: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        move = {name: value.to(device, non_blocking=True) for name, value in vars(self).items()}
        return replace(self, **move)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size."""

    def stacked(name: str) -> Tensor:
        maps = np.stack([np.atleast_3d(getattr(sample, name)) for sample in samples])
        return torch.from_numpy(maps).permute(0, 3, 1, 2).float()

    return Batch(stacked("frame1"), stacked("frame2"), stacked("flow"), stacked("valid"))


class StepSampler(Sampler[list[int]]):
    """Sample indices of one process, step by step; resuming at a step repeats and skips nothing."""

    def __init__(self, first: int, last: int, *, batch: int, rank: int, processes: int) -> None:
        self.first, self.last, self.batch, self.rank, self.share = (
            first,
            last,
            batch,
            rank,
            batch // processes,
        )

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, one for each step."""
        for step in range(self.first, self.last):
            start = step * self.batch + self.rank * self.share
            yield list(range(start, start + self.share))

    def __len__(self) -> int:
        """Number of steps."""
        return self.last - self.first


def list_textures(options: TrainOptions) -> Textures:
    """All photos and cut-outs that the options allow."""
    if options.textures is None:
        return Textures()
    return Textures.from_folder(options.textures, options.permissive_only)


def split_textures(textures: Textures, *, held_out: bool) -> Textures:
    """The photos and cut-outs to train on, or those kept back; a list of one serves both."""

    def part(files: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(f for i, f in enumerate(files) if (i % HELD_OUT_EVERY == 0) == held_out) or files

    return replace(textures, photos=part(textures.photos), objects=part(textures.objects))


def scenes(options: TrainOptions, textures: Textures, *, held_out: bool) -> SyntheticScenes:
    """The endless training scenes, or the held-out ones: another seed and textures never trained on."""
    seed = options.seed + (HELD_OUT_SEED if held_out else 0)
    part = split_textures(textures, held_out=held_out)
    return SyntheticScenes(part, options.height, options.width, seed=seed)


def loader(data: Dataset[Sample], sampler: Sampler[list[int]], options: TrainOptions) -> DataLoader[Any]:
    """Batches in the sampler's order, rendered ahead by worker processes if there are any."""
    return DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=options.workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=options.workers > 0,
    )
