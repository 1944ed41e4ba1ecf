"""What a stage trains on and is evaluated on, and the way from there to batches on a device."""

import re
import signal
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from deqflow.data.sample import Sample
from deqflow.errors import DataError, DeqflowError, TrainingError
from deqflow.processes import Processes
from deqflow.training.batch import Batch, collate
from deqflow.training.footage import open_footage
from deqflow.training.options import TrainOptions
from deqflow.training.pairs import open_pairs
from deqflow.training.scenes import open_scenes
from deqflow.training.sources import Sources


def open_sources(options: TrainOptions) -> Sources:
    """The training and held-out pairs of a stage.

    Raises:
        ConfigError: an option that is missing or does not fit the data.
        DataError: data or textures that cannot be used.
    """
    if options.stage == "synthetic":
        return open_scenes(options)
    return open_footage(options) if options.stage == "footage" else open_pairs(options)


class StepSampler(Sampler[list[int]]):
    """Sample numbers of one process, step by step; resuming at a step repeats and skips nothing."""

    def __init__(self, first: int, last: int, *, batch: int, rank: int, processes: int) -> None:
        self.first, self.last, self.batch, self.rank = first, last, batch, rank
        self.share = batch // processes

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of numbers, one for each step."""
        for step in range(self.first, self.last):
            start = step * self.batch + self.rank * self.share
            yield list(range(start, start + self.share))

    def __len__(self) -> int:
        """Number of steps."""
        return self.last - self.first


GRACE = 30
"""Seconds that a worker outlives a SIGTERM that reaches it."""


def _leave_signals_to_the_run(worker: int) -> None:
    """In a worker: go on when Ctrl-C or SIGTERM reaches all processes; the run ends after a whole step.

    SIGTERM is also how the run would end a worker that hangs: the second one is obeyed, the first one late.
    """

    def outlive(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if hasattr(signal, "alarm"):
            signal.alarm(GRACE)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, outlive)


def batches(
    data: Dataset[Sample], first: int, last: int, options: TrainOptions, processes: Processes
) -> Iterator[Batch]:
    """This process's share of the batches of steps ``first`` to ``last``, read ahead by workers if any.

    Raises:
        DataError: a pair cannot be read and ``on_corrupt`` is ``stop``.
        TrainingError: a worker process died.
    """
    frames = options.batch // options.ways
    sampler = StepSampler(first, last, batch=frames, rank=processes.rank, processes=processes.count)
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=options.workers,
        worker_init_fn=_leave_signals_to_the_run,
        pin_memory=processes.device.type == "cuda",
        # Iterating draws a seed for the workers: not from the generator that modules draw from.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except DeqflowError as error:
        # Else the workers would live on with the frames that the error remembers.
        traceback.clear_frames(error.__traceback__)
        # A worker's error arrives as its whole traceback, whose last line is the error itself.
        if not str(error).startswith("Caught "):
            raise
        raise DataError(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except RuntimeError as error:
        if re.search(r"DataLoader worker .*(killed|exited)", str(error)) is None:
            raise
        raise TrainingError(
            f"a process that reads training pairs died ({str(error).splitlines()[0].rstrip('. ')}); "
            "often memory runs out: give fewer --workers"
        ) from error
