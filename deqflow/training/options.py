"""What a training run is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deqflow.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a model; the fields are the command line.

    Attributes:
        stage: what to train on; ``synthetic`` renders scenes as it goes.
        model: a preset of the zoo.
        textures: folder of photos and cut-outs for the scenes; None draws procedural textures only.
        permissive_only: of a folder with a licence manifest, use only what it calls permissive.
        output: folder for the run: state, weights, TensorBoard scalars. A state found there is resumed.
        init: weights to start from: a preset whose weights ship with the package, or a safetensors file; None
            starts from random ones.
        steps: optimiser steps of the whole schedule.
        batch: pairs per step, over all processes.
        height: of a frame, a multiple of 8.
        width: of a frame, a multiple of 8.
        learning_rate: peak of the one-cycle schedule.
        warmup: share of the schedule in which the rate rises.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights per step.
        solver_steps: fewest and most solver steps, drawn anew each step; a range keeps the model from
            learning to be right at one count only.
        corrections: losses along the solver's path.
        gamma: weight of a loss relative to the next one on the path.
        stillness: weight of the flow's movement at the end of the path.
        cells: of the 64 full-resolution pixels per coarse one, how many the loss looks at.
        seed: of everything random.
        max_minutes: stop (and save) after this long; 0 means never.
        save_minutes: between saves of the state.
        validate_minutes: between evaluations on the held-out scenes; 0 means never.
        validation_pairs: held-out pairs.
        workers: processes that render scenes, per training process; 0 renders in between steps.
        device: auto, cpu, cuda, mps.
        precision: auto, float32, bfloat16.
    """

    stage: Literal["synthetic"] = "synthetic"
    model: str = "deqflow-s"
    textures: Path | None = None
    permissive_only: bool = True
    output: Path = Path("runs/deqflow-s")
    init: str | None = None
    steps: int = 20_000
    batch: int = 4
    height: int = 256
    width: int = 320
    learning_rate: float = 5e-4
    warmup: float = 0.05
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.998
    solver_steps: tuple[int, int] = (8, 20)
    corrections: int = 3
    gamma: float = 0.8
    stillness: float = 0.1
    cells: int = 16
    seed: int = 0
    max_minutes: float = 0.0
    save_minutes: float = 5.0
    validate_minutes: float = 15.0
    validation_pairs: int = 64
    workers: int = 0
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        for name in ("steps", "batch", "cells", "corrections", "validation_pairs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("height", "width"):
            if getattr(self, name) < 64 or getattr(self, name) % 8:
                raise ConfigError(
                    f"{name} must be a multiple of 8 and at least 64, not {getattr(self, name)}"
                )
        fewest, most = self.solver_steps
        if not self.corrections <= fewest <= most:
            raise ConfigError(
                f"solver_steps must rise from at least {self.corrections}, not {fewest} to {most}"
            )
        if self.cells > 64:
            raise ConfigError(f"cells must be at most 64, not {self.cells}")
        for name in ("ema", "warmup", "gamma", "stillness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
