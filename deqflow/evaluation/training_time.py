"""Seconds of a training step on synthetic scenes, and which part of it they go to."""

from collections.abc import Iterator, Mapping
from itertools import count
from statistics import median
from typing import Literal

import torch
from torch import nn
from torch.profiler import record_function

from deqflow.devices import resolve_device, set_threads, stopwatch
from deqflow.evaluation.bench import Timing, take_turns
from deqflow.tables import markdown
from deqflow.training.checkpoint import create_model
from deqflow.training.data import collate, open_scenes
from deqflow.training.optimizer import create_optimizer
from deqflow.training.options import SceneOptions
from deqflow.training.starts import StepRandomness
from deqflow.training.supervised import CorrectionObjective

STEP = "step"
"""The span of a whole step."""

PARTS = ("render", "encode", "correlation", "context", "solve", "decode", "backward", "optimizer")
"""Spans inside it, one after the other; some are the estimator's. Gradient steps are part of ``solve``."""

Phase = Literal["render", "forward", "backward", "optimizer"]
"""The parts of a step that do not overlap; together they are all of it."""


class TimedTraining:
    """A model in training, one step after the other.

    Args:
        options: of a synthetic stage. Every step starts from zeros at the finest scale and takes the middle
            of its solver steps.
    """

    def __init__(self, options: SceneOptions) -> None:
        self.device = resolve_device(options.device)
        torch.manual_seed(options.seed)
        self.model = create_model(options, self.device)
        self.options = options = options.for_strides(self.model.config.strides)
        self.objective = CorrectionObjective(self.model, options)
        self.optimizer = create_optimizer(self.model, options)
        self.scenes = open_scenes(options).training
        self.numbers = count()
        self.randomness = StepRandomness(
            torch.arange(options.subpixel_positions, device=self.device),
            sum(options.fine_steps or options.solver_steps) // 2,
        )

    def step(self) -> None:
        """Train on the next batch."""
        for _ in self.phases():
            pass

    def phases(self) -> Iterator[Phase]:
        """Train on the next batch, and yield what has just been done on the way."""
        options = self.options
        with record_function(STEP):
            with record_function("render"):
                chosen = [next(self.numbers) for _ in range(options.batch // options.ways)]
                batch = collate([self.scenes[number] for number in chosen]).to(self.device)
            yield "render"
            self.optimizer.zero_grad(set_to_none=True)
            loss, _ = self.objective(batch, self.randomness)
            yield "forward"
            with record_function("backward"):
                loss.backward()
            yield "backward"
            with record_function("optimizer"):
                nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
                self.optimizer.step()
            yield "optimizer"


def measure_training(
    variants: Mapping[str, SceneOptions], *, repeats: int, progress: bool = True
) -> dict[str, Timing]:
    """Time steps of several kinds of training; see ``take_turns``.

    Args:
        variants: options of synthetic stages, by what to call them.
        repeats: steps of each.
        progress: show a bar on standard error.
    """
    runs = {name: TimedTraining(options) for name, options in variants.items()}
    steps = {name: run.step for name, run in runs.items()}
    device = next(iter(runs.values())).device
    return take_turns(steps, device, repeats=repeats, warm_up=2, progress=progress)


def measure_phases(variants: Mapping[str, SceneOptions], *, repeats: int) -> dict[str, dict[Phase, float]]:
    """Time the phases of training steps on one thread in turns, in seconds of the processor on a CPU.

    Args:
        variants: options of synthetic stages, by what to call them.
        repeats: steps of each after the first two, which do not count.

    Returns:
        Medians by phase.
    """
    runs = {name: TimedTraining(options) for name, options in variants.items()}
    taken: dict[str, dict[Phase, list[float]]] = {name: {} for name in runs}
    clock = stopwatch(next(iter(runs.values())).device, processor=True)
    threads = torch.get_num_threads()
    set_threads(1)
    try:
        for round_ in range(2 + repeats):
            for name, run in runs.items():
                next(clock)
                for phase in run.phases():
                    seconds = next(clock)
                    if round_ >= 2:
                        taken[name].setdefault(phase, []).append(seconds)
    finally:
        set_threads(threads)
    return {name: {phase: median(many) for phase, many in one.items()} for name, one in taken.items()}


def training_table(timings: Mapping[str, Timing], *, batch: int) -> str:
    """Return a Markdown table of medians, one row per kind of training; every step is of ``batch`` pairs."""
    rows = []
    for name, timing in timings.items():
        total = median(timing.seconds)
        spent = [timing.spans.get(part, 0.0) for part in PARTS]
        spent.append(max(0.0, timing.spans[STEP] - sum(spent)))
        per_pair = (1e3 * total * part / sum(spent) / batch for part in spent)
        rows.append([name, f"{batch / total:.2f}", *(f"{part:.1f}" for part in per_pair)])
    header = ["training", "pairs per second", *(f"{part}, ms per pair" for part in (*PARTS, "rest"))]
    return "\n".join(markdown(header, rows))
