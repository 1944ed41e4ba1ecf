"""The stages that models are trained through, and the command line's way to one or several of them.

Numbers are those of the published recipes: DEQ-Flow's (Bai et al., CVPR 2022, and its code of 2022 and
2023) and RAFT's (Teed and Deng, ECCV 2020, and its ``train_standard.sh``). ``synthetic``, ``custom``
and ``footage`` are our own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tyro

from deqflow.errors import ConfigError
from deqflow.training.options import (
    FootageOptions,
    PairOptions,
    SceneOptions,
    StageName,
    TrainOptions,
    Variant,
)

_SYNTHETIC = SceneOptions(
    batch=8,
    bidirectional=True,
    optimizer="muon",
    learning_rate=3e-3,
    solver_steps=(8, 20),
    scenes="fast",
    coarse_start_probability=0.25,
    wrong_start_probability=0.4,
    corrections=3,
    loss="robust",
    residual_where_right=True,
)
_CHAIRS = PairOptions(
    stage="chairs",
    data_sets=("chairs",),
    train_steps=120_000,
    batch=12,
    height=368,
    width=496,
    learning_rate=4e-4,
    schedule="one-cycle",
    ema=0.0,
    solver="plain",
    solver_steps=(36, 36),
    corrections=6,
    scheme="segments",
    residual_weight=0.0,
    subpixel_positions=64,
)
_THINGS = replace(
    _CHAIRS,
    stage="things",
    data_sets=("things:clean:left", "things:final:left"),
    batch=6,
    height=400,
    width=720,
    learning_rate=1.25e-4,
    freeze_batch_norm=True,
    solver_steps=(40, 40),
    corrections=2,
    gradient="phantom",
    gradient_steps=3,
    attach_flow=True,
)
_SINTEL = replace(
    _THINGS,
    stage="sintel",
    data_sets=("100*sintel:clean", "100*sintel:final", "200*kitti-2015", "5*hd1k", "things:clean:left"),
    height=368,
    width=768,
    solver="broyden",
    solver_steps=(36, 36),
    corrections=6,
    attach_flow=False,
    gamma=0.9,
)
_KITTI = replace(
    _SINTEL,
    stage="kitti",
    data_sets=("kitti-2015",),
    train_steps=50_000,
    height=288,
    width=960,
    learning_rate=1e-4,
    gradient="one-step",
)
_FINE_TUNING: dict[str, Any] = {
    "train_steps": 2_000,
    "learning_rate": 1e-4,
    "freeze_batch_norm": True,
    "held_out": 0.1,
    "validate_steps": 100,
    "keep_best": True,
    "patience": 5,
}
"""Of the stages on own data, which begin with trained weights and keep them unless better ones are found."""

_CUSTOM = PairOptions(data_sets=("custom",), **_FINE_TUNING)

_FOOTAGE = FootageOptions(**_FINE_TUNING)

STAGES: Mapping[StageName, TrainOptions] = MappingProxyType(
    {
        "synthetic": _SYNTHETIC,
        "chairs": _CHAIRS,
        "things": _THINGS,
        "sintel": _SINTEL,
        "kitti": _KITTI,
        "custom": _CUSTOM,
        "footage": _FOOTAGE,
    }
)
"""Every stage as DEQ-Flow trains it, ``synthetic``, ``custom`` and ``footage`` as deqflow-s does."""

_HOW = (
    *("solver", "solver_steps", "coarse_start_probability", "corrections"),
    *("scheme", "gradient", "gradient_steps", "attach_flow"),
)
_RAFT: Mapping[str, Any] = {
    "solver": "plain",
    "solver_steps": (12, 12),
    "corrections": 12,
    "gradient": "unrolled",
    "attach_flow": False,
    "coarse_start_probability": 0.0,
    "wrong_start_probability": 0.0,
    "residual_weight": 0.0,
    "subpixel_positions": 64,
}
_RAFT_CHANGES: Mapping[StageName, Mapping[str, Any]] = {
    "chairs": {"train_steps": 100_000, "batch": 10},
    "things": {"train_steps": 100_000},
    "sintel": {"train_steps": 100_000, "weight_decay": 1e-5, "gamma": 0.85},
    "kitti": {"weight_decay": 1e-5, "gamma": 0.85},
}


def stage_for(name: StageName, model: str = "deqflow-s", variant: Variant = "published") -> TrainOptions:
    """Return a stage's options as the model is trained in it.

    The data, steps and rates of a stage are the same for every DEQ model; how its fixed point is solved and
    differentiated goes by the model's family. RAFT is unrolled over 12 iterations, with a loss on each.

    Args:
        name: of the stage.
        model: a preset of the zoo.
        variant: ``1step`` solves and differentiates every stage as Chairs does.
    """
    stage = replace(STAGES[name], model=model, variant=variant)
    changes: dict[str, Any] = {}
    if model.startswith("raft"):
        changes = {**_RAFT, **_RAFT_CHANGES.get(name, {})}
    elif model == "deqflow-s" or model.startswith("deqflow-s-"):
        own = (*_HOW, "subpixel_positions", "residual_weight", "ema")
        changes = {field: getattr(_SYNTHETIC, field) for field in own}
    elif variant == "1step" or name in ("synthetic", "custom", "footage"):
        changes = {field: getattr(_CHAIRS, field) for field in _HOW}
    return replace(stage, **{field: value for field, value in changes.items() if hasattr(stage, field)})


@dataclass(frozen=True)
class _Selection:
    """The options that decide the defaults of the others."""

    stage: StageName = "synthetic"
    stages: tuple[StageName, ...] = ()
    model: str = "deqflow-s"
    variant: Variant = "published"


def parse(options: type[TrainOptions], *, args: Sequence[str], prog: str) -> list[TrainOptions]:
    """Read a command line as the stages to run in a row: the values of each, changed where it says so.

    Args:
        options: the class whose subclasses the options of the stages are.
        args: the words of the command line.
        prog: what to call the command in messages.

    Raises:
        ConfigError: an option outside its range, one that no stage of the run reads, or both ``--stage`` and
            ``--stages``.
    """
    quiet = [word for word in args if word not in ("-h", "--help")]
    selected, _ = tyro.cli(_Selection, args=quiet, prog=prog, return_unknown_args=True)
    if selected.stages and "--stage" in args:
        raise ConfigError("--stage names one stage and --stages several: give one of them")
    names = selected.stages or (selected.stage,)
    plans, unread = [], []
    for name in names:
        stage = stage_for(name, selected.model, selected.variant)
        folder = selected.model if name == "synthetic" or selected.stages else f"{selected.model}-{name}"
        stage = replace(stage, output=Path("runs") / folder)
        plan, rest = tyro.cli(type(stage), args=args, prog=prog, default=stage, return_unknown_args=True)
        plans.append(replace(plan, stage=name, output=plan.output / name) if selected.stages else plan)
        unread.append(rest)
    unknown = set.intersection(*map(set, unread))
    for word in sorted(unknown):
        if word.startswith("--") and _field(word) in set().union(*map(_fields, STAGES.values())):
            raise ConfigError(f"stage {', '.join(names)} does not read {word.partition('=')[0]}")
    if unknown:
        tyro.cli(type(stage), args=args, prog=prog, default=stage)  # ends by naming what it cannot parse
    return plans


def _fields(stage: TrainOptions) -> set[str]:
    return {field.name for field in fields(stage)}


def _field(word: str) -> str:
    """Name the field that a word of the command line is about."""
    return word.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
