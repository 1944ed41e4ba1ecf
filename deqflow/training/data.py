"""What a stage trains on and is evaluated on, and the way from there to batches on a device."""

import hashlib
import json
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from multiprocessing import get_start_method, resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deqflow.data.sample import Sample, warn_unknown
from deqflow.data.synthetic import MOTIONS, SyntheticScenes, Textures
from deqflow.errors import DataError, DeqflowError, TrainingError
from deqflow.estimator import DEQFlow
from deqflow.processes import Processes
from deqflow.signals import ENDINGS, held_back, let_through
from deqflow.training.options import SceneOptions, TrainOptions


@dataclass(frozen=True)
class HeldOut:
    """Pairs that are never trained on.

    Attributes:
        read: the pair at an index from 0.
        count: how many of them to evaluate on.
        kind: put before the names of their errors; none for those that decide which weights are better.
    """

    read: Callable[[int], Sample]
    count: int
    kind: str = ""


@dataclass(frozen=True)
class Sources:
    """Where a stage's pairs come from.

    Attributes:
        training: pair ``n`` of the run, for every n from 0: the epochs follow each other in it.
        held_out: pairs to evaluate on; those of the first kind decide.
        epoch: pairs until all have been seen once; None if they never repeat.
        identity: what the pairs are drawn from, to be compared when a run is resumed.
        summary: a line for people.
        textures: what synthetic scenes are made of, for people.
        on_corrupt: ``skip`` leaves held-out pairs that cannot be read out of the mean, ``stop`` raises.
    """

    training: Dataset[Sample]
    held_out: tuple[HeldOut, ...]
    epoch: int | None
    identity: Mapping[str, str]
    summary: str
    textures: str = ""
    on_corrupt: str = "stop"


def digest(names: Sequence[str]) -> str:
    """Return how many names there are, and a short digest of them in their order."""
    return f"{len(names)}, {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:16]}"


def corrupt(name: str, error: Exception, on_corrupt: str) -> None:
    """Name a pair that cannot be read, and raise DataError unless ``on_corrupt`` is ``skip``."""
    told = f"{name} cannot be read: {error}"
    if on_corrupt != "skip":
        raise DataError(f"{told} (--on-corrupt skip goes on without it)") from error
    print(f"deqflow: {told}; the run goes on without it", file=sys.stderr)


HELD_OUT_SEED = 2_000_003
"""Added to the seed for the scenes that are never trained on."""
HELD_OUT_EVERY = 16
"""One in so many photos and cut-outs is kept for the held-out scenes."""


def open_scenes(options: SceneOptions) -> Sources:
    """Open training scenes, and held-out ones of another seed, usual motion and textures never trained on.

    Where faster scenes are trained on, a few of them are held out besides.

    Raises:
        DataError: textures that cannot be used.
    """
    every = Textures.from_folder(options.textures, options.permissive_only)
    textures = split_textures(every, held_out=False)
    size, motion = (options.height, options.width), options.scenes
    counts = f"{len(textures.photos)} photos, {len(textures.objects)} cut-outs"
    license = "permissive licenses only" if options.permissive_only else "all licenses"
    names = [path.name for path in (*every.photos, *every.objects)]

    def unseen(motion: str, count: int, kind: str = "") -> HeldOut:
        scenes = held_out_scenes(every, *size, seed=options.seed, motion=motion)
        return HeldOut(scenes.__getitem__, count, kind)

    held_out = [unseen("usual", options.validation_pairs)]
    if motion != "usual":
        held_out.append(unseen(motion, -(-options.validation_pairs // 4), f"{motion}_"))
    return Sources(
        training=SyntheticScenes(
            textures,
            *size,
            seed=options.seed,
            config=MOTIONS[motion],
            bidirectional=options.bidirectional,
            history=options.history,
        ),
        held_out=tuple(held_out),
        epoch=None,
        identity={
            "scenes": scenes_fingerprint(motion),
            "textures": f"{counts}, {digest(names)}",
            "held out": f"{options.width}x{options.height}, {scenes_fingerprint()}, {digest(names)}",
        },
        summary="synthetic scenes" if motion == "usual" else f"{motion} synthetic scenes",
        textures=f"{counts}, {license}",
    )


def held_out_scenes(
    textures: Textures | Path | None, height: int, width: int, *, seed: int = 0, motion: str = "usual"
) -> SyntheticScenes:
    """Return scenes that a run with these textures (or their folder) and this seed never trains on."""
    every = textures if isinstance(textures, Textures) else Textures.from_folder(textures)
    kept = split_textures(every, held_out=True)
    return SyntheticScenes(kept, height, width, seed=seed + HELD_OUT_SEED, config=MOTIONS[motion])


def split_textures(textures: Textures, *, held_out: bool) -> Textures:
    """Choose the photos and cut-outs to train on, or those kept back; a list of one serves both."""

    def part(files: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(f for i, f in enumerate(files) if (i % HELD_OUT_EVERY == 0) == held_out) or files

    return replace(textures, photos=part(textures.photos), objects=part(textures.objects))


@cache
def scenes_fingerprint(motion: str = "usual") -> str:
    """Return a digest of a few small scenes: another version or configuration renders others."""
    scenes = SyntheticScenes(Textures(), 48, 48, seed=1, config=MOTIONS[motion])
    hashed = hashlib.sha256()
    for index in range(8):
        sample = scenes[index]
        for array in (sample.frame1, sample.frame2, sample.flow):
            hashed.update(array.tobytes())
    return hashed.hexdigest()[:16]


@dataclass(frozen=True)
class Batch:
    """Pairs as tensors: images (B, 3, H, W) of 0..255, flow (B, 2, H, W), valid (B, 1, H, W).

    They are float32 once they are on a device, and until then as they were read: bytes travel faster.
    Where the flow from frame 2 to frame 1 is known as well, ``backward`` and ``backward_valid`` hold it;
    ``before`` is the frame before frame 1, where there is one.
    """

    image1: Tensor
    image2: Tensor
    flow: Tensor
    valid: Tensor
    names: tuple[str, ...] = ()
    backward: Tensor | None = None
    backward_valid: Tensor | None = None
    before: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    @property
    def bidirectional(self) -> bool:
        """Whether the flow back is known too."""
        return self.backward is not None

    def ground_truth(self) -> tuple[Tensor, Tensor]:
        """Return flow and validity, those of the way back after all those of the way there."""
        if self.backward is None or self.backward_valid is None:
            return self.flow, self.valid
        return torch.cat((self.flow, self.backward)), torch.cat((self.valid, self.backward_valid))

    def to(self, device: torch.device) -> "Batch":
        """Return the same on a device, as float32."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True).float())

    def pin_memory(self) -> "Batch":
        """Return the same in memory that a GPU can fetch from (called by DataLoader)."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in self.tensors().items()}
        return replace(self, **changed)

    def save(self, path: Path) -> None:
        """Write the tensors as a safetensors file, to be looked at."""
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.tensors().items()}
        save_file(tensors, path, metadata={"names": json.dumps(self.names)})

    def split(self, parts: int) -> list["Batch"]:
        """Cut into equal parts, to be computed one after the other."""
        chunks = {name: tensor.chunk(parts) for name, tensor in self.tensors().items()}
        share = len(self.names) // parts
        return [
            Batch(
                **{name: chunk[i] for name, chunk in chunks.items()},
                names=self.names[i * share : (i + 1) * share],
            )
            for i in range(parts)
        ]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size."""

    def stacked(name: str) -> Tensor:
        maps = np.stack([np.atleast_3d(getattr(sample, name)) for sample in samples])
        return torch.from_numpy(maps).permute(0, 3, 1, 2)

    names = tuple(sample.name for sample in samples)
    there = Batch(stacked("frame1"), stacked("frame2"), stacked("flow"), stacked("valid"), names)
    further: dict[str, Any] = {
        name: stacked(name)
        for name in ("backward", "backward_valid", "before")
        if getattr(samples[0], name) is not None
    }
    return replace(there, **further)


class StepSampler(Sampler[list[int]]):
    """Sample numbers of one process, step by step; resuming at a step repeats and skips nothing."""

    def __init__(self, first: int, last: int, *, batch: int, rank: int, processes: int) -> None:
        self.first, self.last, self.batch, self.rank = first, last, batch, rank
        self.share = batch // processes

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of numbers, one for each step."""
        for step in range(self.first, self.last):
            start = step * self.batch + self.rank * self.share
            yield list(range(start, start + self.share))

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.last - self.first


GRACE = 30
"""Seconds that a worker outlives a SIGTERM that reaches it."""


def _leave_signals_to_the_run(worker: int) -> None:
    """Let a worker go on when what asks to end reaches all processes; the run ends after a whole step.

    SIGTERM is also how the run would end a worker that hangs: the second one is obeyed, the first one late.
    """

    def outlive(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if hasattr(signal, "alarm"):
            signal.alarm(GRACE)

    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, outlive)
    let_through()


def _start(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Start a loader's workers; no signal to all processes of the run ends them."""
    if loader.num_workers:
        # Started within the block this would let signals through again (Python 3.11 to 3.13 at least).
        resource_tracker.ensure_running()
    with held_back():
        return iter(loader)


def batches(
    data: Dataset[Sample], first: int, last: int, options: TrainOptions, processes: Processes
) -> Iterator[Batch]:
    """Yield this process's share of the batches of steps ``first`` to ``last``, read ahead by workers if any.

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
        # A server that starts the workers (Linux from Python 3.14 on) would be ended by a signal to all
        # processes, or would hold it back from all that it starts later, the caller's own too.
        multiprocessing_context="spawn" if options.workers and get_start_method() == "forkserver" else None,
        # Iterating draws a seed for the workers: not from the generator that modules draw from.
        generator=torch.Generator(),
    )
    try:
        yield from _start(loader)
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


@torch.no_grad()
def evaluate(
    model: DEQFlow,
    sources: Sources,
    options: TrainOptions,
    processes: Processes,
    error: Callable[[Batch, Tensor], Tensor],
) -> dict[str, float]:
    """Return mean errors over the held-out pairs, shared out among the processes; empty without such pairs.

    Synthetic scenes are solved with the most solver steps of training and twice as many, other pairs as the
    model is by default. Pairs without a pixel of known flow are named by a `DataWarning` and left out.

    Args:
        model: in evaluation mode after this.
        sources: of the pairs.
        options: of the run.
        processes: this one among those of the run.
        error: of a batch of one and its flow.

    Raises:
        DataError: pairs are held out, and not one can be evaluated.
    """
    most = options.solver_steps[1]
    ways: dict[str, dict[str, Any]] = {options.error_name: {}}
    if isinstance(options, SceneOptions):
        counts = {f"{options.error_name}_{count}_steps": count for count in (most, 2 * most)}
        ways = {name: {"steps": count, "tolerance": 0.0} for name, count in counts.items()}
    model.eval()
    errors: dict[str, float] = {}
    for held_out in sources.held_out:
        sums = dict.fromkeys(ways, 0.0)
        pairs = 0
        for index in range(processes.rank, held_out.count, processes.count):
            try:
                sample = held_out.read(index)
            except (DeqflowError, OSError) as reason:
                corrupt(f"held-out pair {index}", reason, sources.on_corrupt)
                continue
            if options.error_name == "epe" and not sample.known:
                warn_unknown(sample.name)
                continue
            batch = collate([sample]).to(processes.device)
            for name, how in ways.items():
                sums[name] += float(error(batch, model(batch.image1, batch.image2, **how).flow))
            pairs += 1
        means = processes.mean({**sums, "pairs": pairs})
        if held_out.count and not means["pairs"]:
            raise DataError(
                f"none of the {held_out.count} held-out pairs can be evaluated: "
                "expected some that can be read and have a pixel of known flow"
            )
        if means["pairs"]:
            errors |= {f"{held_out.kind}{name}": means[name] / means["pairs"] for name in ways}
    return errors
