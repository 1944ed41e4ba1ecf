"""Seconds of a training step on synthetic scenes, and which part of it they go to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from statistics import median

import torch
from torch import nn
from tqdm import tqdm

from deqflow.devices import resolve_device, stopwatch
from deqflow.tables import markdown
from deqflow.training.batch import StepRandomness, collate
from deqflow.training.model import create_model
from deqflow.training.objectives import create_objective
from deqflow.training.optimizer import create_optimizer
from deqflow.training.options import TrainOptions
from deqflow.training.paths import choose_solver
from deqflow.training.scenes import open_scenes


@dataclass(frozen=True)
class StepTiming:
    """Seconds of one training step, by part.

    Attributes:
        rendering: of the scenes.
        encoders: forward, without their gradient.
        solve: the evaluations without a graph, correlation and context included.
        losses: gradient steps, upsampling and losses, forward.
        backward: of everything.
        optimizer: clipping the gradient and changing the weights.
    """

    rendering: float
    encoders: float
    solve: float
    losses: float
    backward: float
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(getattr(self, part.name) for part in fields(self))


class TimedTraining:
    """A model in training, one step after the other.

    Args:
        options: of a synthetic stage. Every step starts from zeros and takes the middle of ``solver_steps``.
    """

    def __init__(self, options: TrainOptions) -> None:
        self.options, self.device = options, resolve_device(options.device)
        torch.manual_seed(options.seed)
        self.model = create_model(options, self.device)
        self.objective = create_objective(self.model, options)
        self.optimizer = create_optimizer(self.model, options)
        self.solver = choose_solver(options, self.model)
        self.scenes = open_scenes(options).training
        self.numbers = count()
        self.steps = sum(options.solver_steps) // 2

    def step(self) -> StepTiming:
        """Train on the next batch, and time its parts."""
        options, model = self.options, self.model
        clock = stopwatch(self.device)
        next(clock)
        chosen = [next(self.numbers) for _ in range(options.batch // options.ways)]
        batch = collate([self.scenes[number] for number in chosen]).to(self.device)
        rendering = next(clock)
        with torch.no_grad():
            pair = model.prepare(batch.image1, batch.image2, bidirectional=batch.bidirectional)
            encoders = next(clock)
            how = replace(model.defaults, steps=self.steps, tolerance=0.0, solver=self.solver)
            model.solve(pair, settings=replace(how, scales=(model.config.stride,)))
        solve = next(clock)
        randomness = StepRandomness(torch.arange(options.subpixel_positions, device=self.device), self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss, _ = self.objective(batch, randomness)
        # The objective encodes and solves itself, so that its time contains the parts measured before.
        losses = max(0.0, next(clock) - encoders - solve)
        loss.backward()
        backward = next(clock)
        nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        self.optimizer.step()
        return StepTiming(rendering, encoders, solve, losses, backward, next(clock))


def measure_training(
    variants: Mapping[str, TrainOptions], *, repeats: int, progress: bool = True
) -> dict[str, list[StepTiming]]:
    """Time steps of several kinds of training, in turns.

    Args:
        variants: options of synthetic stages, by what to call them.
        repeats: steps of each, beside two that do not count.
        progress: show a bar on standard error.
    """
    runs = {name: TimedTraining(options) for name, options in variants.items()}
    timings: dict[str, list[StepTiming]] = {name: [] for name in variants}
    for round_ in tqdm(range(repeats + 2), unit="round", disable=not progress):
        for name, run in runs.items():
            timing = run.step()
            if round_ > 1:
                timings[name].append(timing)
    return timings


def training_table(timings: Mapping[str, Sequence[StepTiming]], *, batch: int) -> str:
    """A Markdown table of medians, one row per kind of training; every step is of ``batch`` pairs."""
    parts = [part.name for part in fields(StepTiming)]
    header = ["training", "pairs per second", *(f"{part}, ms per pair" for part in parts)]
    rows = []
    for name, measured in timings.items():
        total = median(timing.total for timing in measured)
        spent = [median(getattr(timing, part) for timing in measured) / batch for part in parts]
        rows.append([name, f"{batch / total:.2f}", *(f"{1e3 * part:.1f}" for part in spent)])
    return "\n".join(markdown(header, rows))
