"""Errors on pairs that are never trained on, and what they say about the run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deqflow.data.sample import warn_unknown
from deqflow.errors import DataError, DeqflowError, TrainingError
from deqflow.estimator import DEQFlow
from deqflow.processes import Processes
from deqflow.training.batch import Batch, collate
from deqflow.training.options import TrainOptions, error_name
from deqflow.training.sources import Sources, corrupt
from deqflow.training.unsupervised import photometric_loss


@torch.no_grad()
def evaluate(
    model: DEQFlow, sources: Sources, options: TrainOptions, processes: Processes
) -> dict[str, float]:
    """Mean error over the held-out pairs, shared out among the processes.

    End-point error in pixels, or the photometric error where no flow is known. Synthetic scenes are solved
    with the most solver steps of training and twice as many, other pairs as the model is by default. Empty if
    nothing is held out. Pairs without a pixel of known flow are named by a `DataWarning` and left out.

    Raises:
        DataError: pairs are held out, and not one can be evaluated.
    """
    most = options.solver_steps[1]
    counts = {f"epe_{count}_steps": count for count in (most, 2 * most)}
    ways: dict[str, dict[str, Any]] = {name: {"steps": n, "tolerance": 0.0} for name, n in counts.items()}
    if options.stage != "synthetic":
        ways = {error_name(options.stage): {}}
    flow_known = "photometric" not in ways
    sums = dict.fromkeys(ways, 0.0)
    pairs = 0
    model.eval()
    for index in range(processes.rank, sources.held_out_pairs, processes.count):
        try:
            sample = sources.held_out(index)
        except (DeqflowError, OSError) as error:
            corrupt(f"held-out pair {index}", error, options.on_corrupt)
            continue
        if flow_known and not sample.known:
            warn_unknown(sample.name)
            continue
        batch = collate([sample]).to(processes.device)
        for name, how in ways.items():
            flow = model(batch.image1, batch.image2, **how).flow
            sums[name] += float(photometric(batch, flow) if name == "photometric" else epe(batch, flow))
        pairs += 1
    means = processes.mean({**sums, "pairs": pairs})
    if sources.held_out_pairs and not means["pairs"]:
        raise DataError(
            f"none of the {sources.held_out_pairs} held-out pairs can be evaluated: "
            "expected some that can be read and have a pixel of known flow"
        )
    return {name: means[name] / means["pairs"] for name in ways if means["pairs"]}


def epe(batch: Batch, flow: Tensor) -> Tensor:
    """Mean end-point error over the valid pixels of a batch; NaN if there are none."""
    distance = torch.where(batch.valid > 0, (flow - batch.flow).norm(dim=1, keepdim=True), 0.0)
    return distance.sum() / batch.valid.sum()


def photometric(batch: Batch, flow: Tensor) -> Tensor:
    """Mean photometric error of a batch over all pixels, so that no choice of them can lower it."""
    return photometric_loss(batch.image1, batch.image2, flow, torch.ones_like(batch.valid, dtype=torch.bool))


def score_of(weights: Path, held_out: str, error: str = "epe") -> float:
    """The error that a file of weights claims on these held-out pairs; infinite if there is no file.

    Raises:
        TrainingError: the file says nothing about these pairs, so nothing could be said to be better.
    """
    if not weights.exists():
        return math.inf
    try:
        with safe_open(str(weights), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        metadata = {}
    if metadata.get("held_out") != held_out or f"held_out_{error}" not in metadata:
        raise TrainingError(
            f"{weights} exists and does not say how good it is on these held-out pairs, so it is not "
            "overwritten: --output must name another folder"
        )
    return float(metadata[f"held_out_{error}"])


@dataclass
class Progress:
    """How the error on the held-out pairs went.

    Attributes:
        start: before training, or at the first evaluation; None before it.
        best: the lowest so far.
        best_step: when that was.
        latest: at the last evaluation.
        step: of the last evaluation.
        worse: evaluations since the best one.
    """

    start: float | None = None
    best: float | None = None
    best_step: int = 0
    latest: float | None = None
    step: int = -1
    worse: int = 0

    def note(self, scores: Mapping[str, float], step: int) -> bool:
        """Take in an evaluation, of which the first score decides; returns whether it beat all before."""
        self.latest, self.step = next(iter(scores.values())), step
        if self.start is None or self.best is None:
            self.start = self.best = self.latest
            self.best_step = step
            return False
        if self.latest < self.best:
            self.best, self.best_step, self.worse = self.latest, step, 0
            return True
        self.worse += 1
        return False

    def verdict(self, weights: Path, error: str = "EPE") -> str:
        """A sentence about start and best; ``error`` is what it is called."""
        if self.start is None or self.best is None:
            return "nothing was held out, so nothing is known of better or worse"
        if self.best < self.start:
            return (
                f"better: held-out {error} {self.start:.3f} before, {self.best:.3f} at step "
                f"{self.best_step}; those weights are in {weights}"
            )
        return (
            f"not better: held-out {error} {self.start:.3f} before, {self.latest:.3f} at the end; "
            "those weights are only in the run's states"
        )
