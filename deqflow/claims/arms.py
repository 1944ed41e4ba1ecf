"""Claims about training: small models trained alike but for one thing, and held against each other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch

from deqflow import zoo
from deqflow.claims.options import Findings, StudyOptions
from deqflow.data.sample import Sample
from deqflow.equilibrium import spectral_radius
from deqflow.errors import TrainingError
from deqflow.estimator import DEQFlow
from deqflow.evaluation.bench import OFFSET, PairErrors
from deqflow.evaluation.charts import Chart, bar_figure
from deqflow.tables import markdown
from deqflow.training.options import SceneOptions
from deqflow.training.stages import stage_for
from deqflow.training.trainer import run

RADIUS_PAIRS = 4
"""Pairs that the spectral radius is taken over."""


@dataclass(frozen=True)
class ArmResult:
    """A trained model on held-out pairs.

    Attributes:
        epe: geometric mean of the end-point error, pixels.
        steps: evaluations until the tolerance is met, mean.
        residual: movement of the flow in the last of them, pixels, mean.
        radius: spectral radius of the step's Jacobian at the fixed point, mean.
        hours: of training, without reading the held-out pairs.
        diverged: whether training gave up.
    """

    epe: float
    steps: float
    residual: float
    radius: float
    hours: float
    diverged: bool = False


def corrections(options: StudyOptions) -> Findings:
    """Train with losses on 1, 2, 4 and 7 points of the path: 0, 1, 3 and 6 corrections beside the last."""
    arms = {f"{count} corrections": {"corrections": count + 1} for count in (0, 1, 3, 6)}
    return _compare("corrections", options, arms)


def gradients(options: StudyOptions) -> Findings:
    """Train with every gradient of a fixed point."""
    arms: dict[str, dict[str, Any]] = {
        "one-step": {"gradient": "one-step"},
        "phantom, 3 steps": {"gradient": "phantom", "gradient_steps": 3},
        "Neumann, 3 terms": {"gradient": "neumann", "gradient_steps": 3},
        "implicit": {"gradient": "implicit"},
    }
    return _compare("gradients", options, arms)


def recurrent(options: StudyOptions) -> Findings:
    """Train the same network as an equilibrium, and unrolled over eight steps as RAFT is."""
    usual = {"wrong_start_probability": 0.0, "coarse_start_probability": 0.0}
    unrolled = {**usual, "gradient": "unrolled", "solver_steps": (8, 8), "corrections": 8}
    return _compare("recurrent", options, {"equilibrium": usual, "unrolled, 8 steps": unrolled})


def jacobian(options: StudyOptions) -> Findings:
    """Train with several weights of the Jacobian penalty."""
    arms = {f"weight {weight:g}": {"jacobian_weight": weight} for weight in (0.0, 0.1, 1.0)}
    return _compare("jacobian", options, arms)


def _compare(name: str, options: StudyOptions, arms: Mapping[str, dict[str, Any]]) -> Findings:
    """Train every arm with every seed, and hold them against each other."""
    samples = list(options.samples())
    rows, told, bars = [], [], {}
    for arm, changes in arms.items():
        results = []
        for seed in options.seeds:
            folder = options.output / "runs" / name / f"{arm.replace(' ', '-').replace(',', '')}-{seed}"
            results.append(train_arm(options, folder, samples, seed=seed, **changes))
        fields = ("epe", "steps", "residual", "radius", "hours")
        means = {field: fmean(getattr(result, field) for result in results) for field in fields}
        lost = sum(result.diverged for result in results)
        spread = max(r.epe for r in results) - min(r.epe for r in results)
        rows.append(
            [
                arm,
                f"{means['epe']:.3f}" + (f" ({spread:.3f})" if len(results) > 1 else ""),
                f"{means['steps']:.1f}",
                f"{means['residual']:.3f}",
                f"{means['radius']:.2f}",
                f"{60 * means['hours']:.1f}",
                f"{lost} of {len(results)}",
            ]
        )
        told.append(f"{arm}: EPE {means['epe']:.2f} after {60 * means['hours']:.0f} minutes")
        bars[arm] = {"EPE, px": means["epe"]}
    header = ["training", "EPE", "steps", "last movement, px", "spectral radius", "minutes", "diverged"]
    pairs = 8 * options.train_steps
    chart = Chart("error", f"Geometric mean of EPE after {pairs} pairs", bar_figure(bars, "EPE, px"))
    return Findings("; ".join(told) + ".", (markdown(header, rows),), (chart,))


def train_arm(
    options: StudyOptions, folder: Path, samples: Sequence[Sample], *, seed: int, **changes: Any
) -> ArmResult:
    """Train a model from random weights, or go on with what the folder holds, and judge it.

    Args:
        options: of the study.
        folder: for the run; a finished one is read and not trained again.
        samples: held-out pairs.
        seed: of everything random.
        **changes: options of training that the arm differs in.
    """
    training = cast(SceneOptions, stage_for("synthetic", options.model))
    training = replace(
        training,
        output=folder,
        train_steps=options.train_steps,
        height=options.height,
        width=options.width,
        textures=options.textures,
        seed=seed,
        device=options.device,
        validate_minutes=0.0,
        **changes,
    )
    weights, diverged = folder / f"{options.model}.safetensors", False
    if _steps_of(weights) != options.train_steps:
        try:
            run(training)
        except TrainingError:  # too many steps in a row whose loss is not a number
            diverged = True
    if diverged or not weights.exists():
        unknown = float("nan")
        return ArmResult(unknown, unknown, unknown, unknown, unknown, diverged=True)
    model = zoo.load(options.model, checkpoint=weights, device=options.device)
    metadata = zoo.read_checkpoint(weights).metadata
    return judge(model, samples, hours=float(json.loads(metadata["hours"])))


def _steps_of(weights: Path) -> int:
    """Return the steps that weights were trained for; 0 without such a file."""
    return int(zoo.read_checkpoint(weights).metadata["steps"]) if weights.exists() else 0


@torch.inference_mode()
def judge(model: DEQFlow, samples: Sequence[Sample], *, hours: float) -> ArmResult:
    """Measure a trained model on held-out pairs."""
    estimates = [model.estimate(sample.frame1, sample.frame2) for sample in samples]
    errors = [PairErrors.of(estimate, sample) for estimate, sample in zip(estimates, samples, strict=True)]
    return ArmResult(
        epe=float(np.exp(np.mean(np.log([one.epe + OFFSET for one in errors])))),
        steps=fmean(one.steps for one in errors),
        residual=fmean(estimate.residual for estimate in estimates),
        radius=fmean(_radius(model, sample) for sample in samples[:RADIUS_PAIRS]),
        hours=hours,
    )


def _radius(model: DEQFlow, sample: Sample) -> float:
    """Return the spectral radius at the fixed point of a pair."""
    with torch.inference_mode(False), torch.no_grad():
        pair = model.prepare(model.to_tensor(sample.frame1), model.to_tensor(sample.frame2))
        state = model.solve(pair).finest.state
        return float(spectral_radius(model.operator(pair), state).mean())
