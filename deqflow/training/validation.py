"""Errors on pairs that are never trained on, and what they say about the run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from deqflow.errors import DeqflowError, TrainingError
from deqflow.estimator import DEQFlow
from deqflow.training.data import collate
from deqflow.training.options import TrainOptions
from deqflow.training.processes import Processes
from deqflow.training.sources import Sources, corrupt


@torch.no_grad()
def evaluate(
    model: DEQFlow, sources: Sources, options: TrainOptions, processes: Processes
) -> dict[str, float]:
    """Mean end-point error over the held-out pairs, pixels, shared out among the processes.

    Synthetic scenes are solved with the most solver steps of training and twice as many, other pairs as the
    model is by default. Empty if nothing is held out.
    """
    most = options.solver_steps[1]
    counts = {f"epe_{count}_steps": count for count in (most, 2 * most)}
    ways: dict[str, dict[str, Any]] = {name: {"steps": n, "tolerance": 0.0} for name, n in counts.items()}
    if options.stage != "synthetic":
        ways = {"epe": {}}
    sums = dict.fromkeys(ways, 0.0)
    pairs = 0
    model.eval()
    for index in range(processes.rank, sources.held_out_pairs, processes.count):
        try:
            sample = sources.held_out(index)
        except (DeqflowError, OSError) as error:
            corrupt(f"held-out pair {index}", error, options.on_corrupt)
            continue
        batch = collate([sample]).to(processes.device)
        for name, how in ways.items():
            flow = model(batch.image1, batch.image2, **how).flow
            distance = torch.where(batch.valid > 0, (flow - batch.flow).norm(dim=1, keepdim=True), 0.0)
            sums[name] += float(distance.sum() / batch.valid.sum().clamp_min(1))
        pairs += 1
    means = processes.mean({**sums, "pairs": pairs})
    return {name: means[name] / means["pairs"] for name in ways} if means["pairs"] else {}


def score_of(weights: Path, held_out: str) -> float:
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
    if metadata.get("held_out") != held_out:
        raise TrainingError(
            f"{weights} exists and does not say how good it is on these held-out pairs, so it is not "
            "overwritten: --output must name another folder"
        )
    return float(metadata["held_out_epe"])


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

    def verdict(self, weights: Path) -> str:
        """A sentence about start and best."""
        if self.start is None or self.best is None:
            return "nothing was held out, so nothing is known of better or worse"
        if self.best < self.start:
            return (
                f"better: held-out EPE {self.start:.3f} before, {self.best:.3f} at step {self.best_step}; "
                f"those weights are in {weights}"
            )
        return (
            f"not better: held-out EPE {self.start:.3f} before, {self.latest:.3f} at the end; "
            "those weights are only in the run's states"
        )
