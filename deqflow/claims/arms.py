"""Arms of experiments about training: small models trained alike but for one thing, each once, and judged."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch

from deqflow import zoo
from deqflow.claims.options import StudyOptions
from deqflow.data.sample import Sample
from deqflow.devices import resolve_device
from deqflow.equilibrium import spectral_radius
from deqflow.errors import DivergenceError, TrainingError
from deqflow.estimator import DEQFlow
from deqflow.evaluation.bench import PairErrors, mean_error
from deqflow.io.files import replace_bytes
from deqflow.training.checkpoint import create_model
from deqflow.training.data import open_scenes
from deqflow.training.options import SceneOptions
from deqflow.training.stages import stage_for
from deqflow.training.trainer import run

RADIUS_PAIRS = 4
"""Pairs that the spectral radius is taken over."""

EVALUATIONS = (4, 8, 16, 32)
"""Lengths of solves from zeros that every arm is judged after."""


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        name: of its folder; arms of one name are one training, whichever claims they serve.
        changes: options of training that it differs in from the model's usual ones.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)


USUAL = Arm("usual")
"""Three losses, one-step gradients, no penalty, starts of all kinds."""


@dataclass(frozen=True)
class ArmResult:
    """A trained model on held-out pairs.

    Attributes:
        epe: geometric mean of the end-point error, pixels, solved as the model is by default.
        steps: evaluations until the tolerance is met, mean.
        residual: movement of the flow in the last of them, pixels, mean.
        radius: spectral radius of the step's Jacobian at the fixed point, mean.
        from_zeros: geometric means of the end-point error after each of `EVALUATIONS`, started from zeros.
        minutes: of training: of the processor on a CPU, else by the clock.
        train_steps: of the optimizer.
        diverged: whether training gave up; all but the steps is not a number then.
    """

    epe: float
    steps: float
    residual: float
    radius: float
    from_zeros: tuple[float, ...]
    minutes: float
    train_steps: int
    diverged: bool = False

    @classmethod
    def lost(cls, train_steps: int) -> "ArmResult":
        """Return what is known of a run that gave up."""
        nan = float("nan")
        return cls(nan, nan, nan, nan, (nan,) * len(EVALUATIONS), nan, train_steps, diverged=True)


def runs_folder(options: StudyOptions) -> Path:
    """Return where the arms of a study's size, length, start and rate are."""
    parts = [f"{options.width}x{options.height}", f"{options.train_steps}"]
    parts += [Path(options.init).stem] if options.init else []
    parts += [f"{options.learning_rate:g}"] if options.learning_rate is not None else []
    return options.output / "runs" / "-".join(parts)


def training_of(options: StudyOptions, arm: Arm, seed: int = 0) -> SceneOptions:
    """Return the options that an arm is trained with."""
    usual = cast(SceneOptions, stage_for("synthetic", options.model))
    shared: dict[str, Any] = {
        "output": runs_folder(options) / f"{arm.name}-{seed}",
        "train_steps": options.train_steps,
        "init": options.init,
        "learning_rate": usual.learning_rate if options.learning_rate is None else options.learning_rate,
        "height": options.height,
        "width": options.width,
        "textures": options.textures,
        "seed": seed,
        "device": options.device,
        "validate_minutes": 0.0,
    }
    return replace(usual, **{**shared, **arm.changes})


def result_of(options: StudyOptions, arm: Arm, seed: int) -> ArmResult:
    """Train an arm from random weights, or go on with what its folder holds, and judge it.

    What was found is kept beside the weights, and read where the arm and the held-out pairs are the same.

    Raises:
        TrainingError: the training was interrupted; it goes on from there the next time.
    """
    training = training_of(options, arm, seed)
    path = training.output / "result.json"
    identity = dict(open_scenes(training).identity)
    about = json.loads(json.dumps({"recipe": training.recipe("auto"), "pairs": options.pairs, **identity}))
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["about"] == about:
            return ArmResult(**{**kept["result"], "from_zeros": tuple(kept["result"]["from_zeros"])})
    weights = training.output / f"{options.model}.safetensors"
    try:
        if _steps_of(weights) != training.train_steps:
            run(training)
        if _steps_of(weights) != training.train_steps:
            raise TrainingError(
                f"training in {training.output} was stopped after {_steps_of(weights)} of "
                f"{training.train_steps} steps; the same command goes on with it"
            )
        model = zoo.load(options.model, checkpoint=weights, device=options.device)
        hours = "processor_hours" if model.device.type == "cpu" else "hours"
        minutes = 60 * float(zoo.read_checkpoint(weights).metadata[hours])
        result = judge(model, list(options.samples()), minutes=minutes, train_steps=training.train_steps)
    except DivergenceError:
        result = ArmResult.lost(training.train_steps)
    replace_bytes(path, json.dumps({"about": about, "result": asdict(result)}, indent=1).encode())
    return result


def result_before(options: StudyOptions, samples: Sequence[Sample]) -> ArmResult | None:
    """Judge the weights that every arm starts from; None for random ones."""
    if options.init is None:
        return None
    model = create_model(training_of(options, USUAL), resolve_device(options.device))
    return judge(model.eval(), samples, minutes=0.0, train_steps=0)


def _steps_of(weights: Path) -> int:
    """Return the steps that weights were trained for; 0 without such a file."""
    return int(zoo.read_checkpoint(weights).metadata["steps"]) if weights.exists() else 0


@torch.inference_mode()
def judge(model: DEQFlow, samples: Sequence[Sample], *, minutes: float, train_steps: int) -> ArmResult:
    """Measure a trained model on held-out pairs."""

    def errors(**how: Any) -> tuple[float, float, float]:
        estimates = [model.estimate(sample.frame1, sample.frame2, **how) for sample in samples]
        pairs = [PairErrors.of(estimate, sample) for estimate, sample in zip(estimates, samples, strict=True)]
        epe = mean_error(one.epe for one in pairs)
        return epe, fmean(one.steps for one in pairs), fmean(estimate.residual for estimate in estimates)

    epe, steps, residual = errors()
    zeros = {"tolerance": 0.0, "scales": (model.config.stride,)}
    return ArmResult(
        epe=epe,
        steps=steps,
        residual=residual,
        radius=fmean(_radius(model, sample) for sample in samples[:RADIUS_PAIRS]),
        from_zeros=tuple(errors(steps=count, **zeros)[0] for count in EVALUATIONS),
        minutes=minutes,
        train_steps=train_steps,
    )


def _radius(model: DEQFlow, sample: Sample) -> float:
    """Return the spectral radius at the fixed point of a pair."""
    with torch.inference_mode(False), torch.no_grad():
        pair = model.prepare(model.to_tensor(sample.frame1), model.to_tensor(sample.frame2))
        state = model.solve(pair).finest.state
        return float(spectral_radius(model.operator(pair), state).mean())
