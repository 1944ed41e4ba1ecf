"""What a training run is told: a stage, which is a recipe, and how this run of it goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deqflow.errors import ConfigError

StageName = Literal["synthetic", "chairs", "things", "sintel", "kitti", "custom", "footage"]
Variant = Literal["published", "1step"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A recipe: what to train on, for how long, and what to minimise.

    Attributes:
        stage: what to train on; ``synthetic`` renders scenes as it goes, the others read ``data``, of which
            ``footage`` needs no ground truth.
        data_sets: names of data sets, each perhaps with a number of repetitions, words that the titles of its
            parts must have and a split: ``100*sintel:clean``, ``things:clean:left``, ``chairs@validation``.
            The synthetic stage has none.
        scenes: how fast things move in the scenes trained on: ``usual``, or ``fast`` with more and larger
            motion. Held-out scenes are the usual ones.
        steps: optimiser steps of the whole schedule.
        batch: pairs per step, over all processes; the same two frames both ways are two pairs.
        bidirectional: take the frames of a scene both ways, so that each is rendered and encoded once for two
            pairs.
        height: of a training frame or crop, a multiple of 8.
        width: of a training frame or crop, a multiple of 8.
        optimizer: ``adamw``, or ``muon`` for filters with ``adamw`` for the rest.
        learning_rate: peak of the schedule; from random weights ``muon`` bears several times that of
            ``adamw``.
        schedule: ``linear`` rises from zero and falls to zero; ``one-cycle`` is the published one, over 100
            steps more, rising from 1/25 of the peak.
        warmup: share of the schedule in which the rate rises.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights per step; 0 keeps the last weights instead.
        freeze_batch_norm: keep the statistics of batch normalisation as they are.
        solver: ``model`` is the preset's own.
        solver_steps: fewest and most solver steps, drawn anew each step; a range keeps the model from
            learning to be right at one count only.
        coarse_start_probability: share of the steps whose solve starts not from zeros but at the fixed point
            of the frames at half the size, as that of deqflow-s does in use.
        wrong_start_probability: share of the steps whose solve starts from the state of another motion
            (nothing moved, frame 2 shifted, another sample, or the motion back), from which it must find its
            way too.
        corrections: losses along the solver's path.
        positions: in place of ``corrections``, the solver steps (from 1, rising) whose points losses are on.
        scheme: ``recorded`` takes points of one uninterrupted solve; ``segments`` starts the solver anew from
            each correction, as published.
        gradient: how a point of the path is differentiated.
        gradient_steps: evaluations of a ``phantom`` or terms of a ``neumann`` gradient.
        damping: of a ``phantom`` or ``neumann`` gradient.
        attach_flow: let gradients pass through the incoming flow of a step, not only through hidden.
        minimum_gate: least share of the hidden state that a step replaces, in models with gated strips: the
            nearer to 1, the less can a state stay that the frames do not ask for. None is as the model says.
        augment: change scale, colours and more of the pairs that are read, by the stage's ranges; else only
            crop them.
        gamma: weight of a loss relative to the next one on the path.
        loss: distance between flows; ``mixture`` is how unlikely the uncertainty head of a model finds the
            error (with other losses the head learns beside the flow and has no say in it).
        residual_weight: weight of the flow's movement at the end of the path.
        residual_where_right: let that weight count only where the flow is right, to a pixel or 5 % of the
            motion.
        smoothness: without ground truth, weight of the flow's slopes relative to the likeness of the warped
            frames.
        distillation: likewise, weight of the agreement between a crop's flow and the whole frame's.
        subpixel_positions: of the 64 full-resolution pixels per coarse one, how many the loss looks at.
        jacobian_weight: weight of the penalty on the step's Jacobian at the last point; 0 computes none.
        jacobian_every: steps between two penalties.
        held_out: share of the sequences kept out of training and evaluated on.
        validation_sets: data sets to evaluate on besides, written as in ``data_sets``.
        validate_steps: steps between evaluations on them; 0 leaves it to ``validate_minutes``.
        keep_best: write weights only when they are better on the held-out pairs than those before training
            and those already written.
        patience: stop after so many evaluations in a row without a better one; 0 never.
    """

    stage: StageName = "synthetic"
    data_sets: tuple[str, ...] = ()
    scenes: Literal["usual", "fast"] = "usual"
    steps: int = 20_000
    batch: int = 4
    bidirectional: bool = False
    height: int = 256
    width: int = 320
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 5e-4
    schedule: Literal["linear", "one-cycle"] = "linear"
    warmup: float = 0.05
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.998
    freeze_batch_norm: bool = False
    solver: Literal["model", "plain", "anderson", "broyden"] = "model"
    solver_steps: tuple[int, int] = (8, 20)
    coarse_start_probability: float = 0.0
    wrong_start_probability: float = 0.0
    corrections: int = 3
    positions: tuple[int, ...] = ()
    scheme: Literal["recorded", "segments"] = "recorded"
    gradient: Literal["one-step", "phantom", "neumann", "implicit", "unrolled"] = "one-step"
    gradient_steps: int = 3
    damping: float = 1.0
    attach_flow: bool = False
    minimum_gate: float | None = None
    augment: bool = True
    gamma: float = 0.8
    loss: Literal["l1", "charbonnier", "robust", "mixture"] = "l1"
    residual_weight: float = 0.1
    residual_where_right: bool = False
    smoothness: float = 2.0
    distillation: float = 0.3
    subpixel_positions: int = 16
    jacobian_weight: float = 0.0
    jacobian_every: int = 8
    held_out: float = 0.0
    validation_sets: tuple[str, ...] = ()
    validate_steps: int = 0
    keep_best: bool = False
    patience: int = 0

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        for name in (
            "steps",
            "batch",
            "subpixel_positions",
            "corrections",
            "gradient_steps",
            "jacobian_every",
        ):
            at_least(self, name, 1)
        for name in (
            "validate_steps",
            "patience",
            "jacobian_weight",
            "smoothness",
            "distillation",
            "learning_rate",
            "weight_decay",
        ):
            at_least(self, name, 0)
        for name in ("height", "width"):
            if getattr(self, name) < 64 or getattr(self, name) % 8:
                raise ConfigError(
                    f"{name} must be a multiple of 8 and at least 64, not {getattr(self, name)}"
                )
        fewest, most = self.solver_steps
        least = self.positions[-1] if self.positions else self.corrections
        if not least <= fewest <= most:
            raise ConfigError(f"solver_steps must rise from at least {least}, not {fewest} to {most}")
        if list(self.positions) != sorted({max(1, place) for place in self.positions}):
            raise ConfigError(f"positions must rise from at least 1, not {self.positions}")
        if self.subpixel_positions > 64:
            raise ConfigError(f"subpixel_positions must be at most 64, not {self.subpixel_positions}")
        shares = ("ema", "warmup", "gamma", "residual_weight", "held_out")
        for name in (*shares, "coarse_start_probability", "wrong_start_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if not 0 < self.damping <= 1:
            raise ConfigError(f"damping must be above 0 and at most 1, not {self.damping}")
        if self.bidirectional and self.stage != "synthetic":
            raise ConfigError(f"bidirectional needs scenes, whose flow is known both ways, not {self.stage}")
        if self.bidirectional and self.batch % 2:
            raise ConfigError(f"batch must be even for bidirectional pairs, not {self.batch}")

    @property
    def ways(self) -> int:
        """Pairs that are made of the same two frames."""
        return 2 if self.bidirectional else 1


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Stage):
    """Train a model: a stage, every field of which may be changed, and how this run of it goes.

    Attributes:
        model: a preset of the zoo.
        variant: of a published stage; ``1step`` takes one-step gradients in every stage.
        stages: several stages in a row, each from the weights of the one before and in a folder of its name
            in ``output``; what is changed on the command line is changed in all of them.
        data: the folder that holds the data sets, or the user's own frames and flow for ``custom``.
        textures: folder of photos and cut-outs for the scenes; None draws procedural textures only.
        permissive_only: of a folder with a licence manifest, use only what it calls permissive.
        output: folder for the run: states, weights, TensorBoard scalars. The newest state found there is
            resumed.
        init: weights to start from: a preset whose weights ship with the package, or a safetensors file; None
            starts from random ones.
        seed: of everything random.
        accumulate: parts that a process's share of a batch is computed in, one after the other.
        max_minutes: stop (and save) after this long; 0 means never.
        save_minutes: between saves of the state.
        keep: states to keep.
        validate_minutes: between evaluations on the held-out pairs; 0 means never.
        validation_pairs: most held-out pairs.
        on_corrupt: a pair that cannot be read is named, then replaced by the next one or the end.
        max_skipped: steps in a row whose loss or gradient may be infinite or not a number; such steps change
            nothing. After so many the run stops and writes the last batch to look at.
        workers: processes that read or render pairs, per training process; 0 does so in between steps.
        device: auto, cpu, cuda, mps.
        precision: auto, float32, bfloat16.
        sync_batch_norm: batch normalisation over the batch of all processes (CUDA only).
        compile: let ``torch.compile`` translate the network's parts.
        dry_run: say what the run would take, do one step and write nothing.
    """

    model: str = "deqflow-s"
    variant: Variant = "published"
    stages: tuple[StageName, ...] = ()
    data: Path | None = None
    textures: Path | None = None
    permissive_only: bool = True
    output: Path = Path("runs/deqflow-s")
    init: str | None = None
    seed: int = 0
    accumulate: int = 1
    max_minutes: float = 0.0
    save_minutes: float = 5.0
    keep: int = 3
    validate_minutes: float = 15.0
    validation_pairs: int = 64
    on_corrupt: Literal["skip", "stop"] = "stop"
    max_skipped: int = 10
    workers: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    sync_batch_norm: bool = False
    compile: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        for name in ("validation_pairs", "accumulate", "keep", "max_skipped"):
            at_least(self, name, 1)
        for name in ("max_minutes", "save_minutes", "validate_minutes", "workers", "seed"):
            at_least(self, name, 0)


def error_name(stage: StageName) -> str:
    """What the progress of a stage is measured in: end-point error, or likeness where no flow is known."""
    return "photometric" if stage == "footage" else "epe"


def at_least(options: object, name: str, least: int) -> None:
    """Raise ConfigError unless the named option has at least this value."""
    value = getattr(options, name)
    if not value >= least:
        raise ConfigError(f"{name} must be at least {least}, not {value}")
