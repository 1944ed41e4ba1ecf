"""What a training run is told: a class of options for each kind of stage, so that every option is read.

The fields are the command line's options; a recipe (``stages.py``) is an instance with other values.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from deqflow.errors import ConfigError

StageName = Literal["synthetic", "chairs", "things", "sintel", "kitti", "custom", "footage"]
Variant = Literal["published", "1step"]
Precision = Literal["auto", "float32", "bfloat16"]

COARSEST_SHARE = 0.2
"""Of the steps of a model of several scales, those that train the coarsest, whose solve is the cheapest."""

FINE_STEPS = (2, 6)
"""Fewest and most solver steps at the finest of several scales: about as many as it is used with."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a model.

    Attributes:
        stage: what to train on: ``synthetic`` renders scenes as it goes; ``chairs``, ``things``, ``sintel``,
            ``kitti`` and ``custom`` read pairs with ground truth; ``footage`` needs none. With ``--help`` it
            lists the stage's own options.
        model: a preset of the zoo.
        variant: of a published stage; ``1step`` takes one-step gradients in every stage.
        stages: several stages in a row, each from the weights of the one before and in a folder of its name
            in ``output``; what is changed on the command line is changed in all of them.
        output: folder for the run: states, weights, TensorBoard scalars. The newest state found there is
            resumed.
        init: weights to start from: a preset whose weights ship with the package, or a safetensors file; None
            starts from random ones.
        seed: of everything random.
        train_steps: optimizer steps of the whole schedule.
        max_minutes: stop (and save) after this long; 0 means never. A run that is resumed begins to count
            anew, but for a schedule by the clock.
        batch: pairs per step, over all processes; the same two frames both ways are two pairs.
        accumulate: parts that a process's share of a batch is computed in, one after the other.
        height: of a training frame or crop, a multiple of 8.
        width: of a training frame or crop, a multiple of 8.
        optimizer: ``adamw``, or ``muon`` for filters with ``adamw`` for the rest.
        learning_rate: peak of the schedule; from random weights ``muon`` bears several times that of
            ``adamw``.
        schedule: ``linear`` rises from zero and falls to zero; ``one-cycle`` is the published one, over 100
            steps more, rising from 1/25 of the peak.
        schedule_by: ``steps`` ends the schedule with ``train_steps``; ``clock`` with ``max_minutes`` where
            those are over sooner, minutes before a run was resumed among them.
        warmup: share of the schedule in which the rate rises.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights per step; 0 keeps the last weights instead.
        freeze_batch_norm: keep the statistics of batch normalization as they are.
        sync_batch_norm: batch normalization over the batch of all processes (CUDA only).
        solver: ``model`` is the preset's own.
        solver_steps: fewest and most solver steps, drawn anew each step; a range keeps the model from
            learning to be right at one count only.
        coarse_start_probability: share of the steps whose solve starts not from zeros but at the fixed point
            of the frames at half the size, as that of deqflow-s does in use.
        wrong_start_probability: share of the steps whose solve starts from the state of another motion
            (nothing moved, frame 2 shifted, another sample, or the motion back), from which it must find its
            way too.
        scale_shares: of a model of several scales, share of the steps that train each, coarse to fine; where
            it is empty, a fifth trains the coarsest and the others share the rest. One more is that of half
            the finest stride, on frames of twice the size.
        fine_steps: of a model of several scales, fewest and most solver steps at the finest and at those
            finer than 1/8, which then start from the coarse fixed point where they do not start from a wrong
            one; None is 2 to 6, or as many as ``positions`` need.
        corrections: losses along the solver's path.
        positions: in place of ``corrections``, the solver steps (from 1, rising) whose points losses are on.
        correction_ratio: of ``recorded``: each loss is on the point after this share of the next one's
            solver steps, so that below a half the early points count; None spaces them evenly.
        scheme: ``recorded`` takes points of one uninterrupted solve; ``segments`` starts the solver anew from
            each correction, as published.
        gradient: how a point of the path is differentiated.
        gradient_steps: evaluations of a ``phantom`` or terms of a ``neumann`` gradient.
        damping: of a ``phantom`` or ``neumann`` gradient.
        attach_flow: let gradients pass through the incoming flow of a step, not only through hidden.
        minimum_gate: least share of the hidden state that a step replaces, in models with gated strips: the
            nearer to 1, the less can a state stay that the frames do not ask for. None is as the model says.
        gamma: weight of a loss relative to the next one on the path.
        validate_minutes: between evaluations on the held-out pairs; 0 means never.
        validate_steps: steps between evaluations on them; 0 leaves it to ``validate_minutes``.
        validation_pairs: most held-out pairs.
        keep_best: write weights only when they are better on the held-out pairs than those before training
            and those already written.
        patience: stop after so many evaluations in a row without a better one; 0 never.
        save_minutes: between saves of the state.
        keep: states to keep.
        max_skipped: steps in a row whose loss or gradient may be infinite or not a number; such steps change
            nothing. After so many the run stops and writes the last batch to look at.
        workers: processes that read or render pairs, per training process; 0 does so in between steps.
        device: auto, cpu, cuda, mps.
        precision: auto, float32, bfloat16.
        compile: let ``torch.compile`` translate the network's parts.
        dry_run: say what the run would take, do one step and write nothing.
    """

    error_name: ClassVar[str] = "epe"
    """What progress is measured in, on the training and on the held-out pairs."""

    stage: StageName = "synthetic"
    model: str = "deqflow-s"
    variant: Variant = "published"
    stages: tuple[StageName, ...] = ()
    output: Path = Path("runs/deqflow-s")
    init: str | None = None
    seed: int = 0
    train_steps: int = 20_000
    max_minutes: float = 0.0
    batch: int = 4
    accumulate: int = 1
    height: int = 256
    width: int = 320
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 5e-4
    schedule: Literal["linear", "one-cycle"] = "linear"
    schedule_by: Literal["steps", "clock"] = "steps"
    warmup: float = 0.05
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.998
    freeze_batch_norm: bool = False
    sync_batch_norm: bool = False
    solver: Literal["model", "plain", "anderson", "broyden"] = "model"
    solver_steps: tuple[int, int] = (8, 20)
    coarse_start_probability: float = 0.0
    wrong_start_probability: float = 0.0
    scale_shares: tuple[float, ...] = ()
    fine_steps: tuple[int, int] | None = None
    corrections: int = 3
    correction_ratio: float | None = None
    positions: tuple[int, ...] = ()
    scheme: Literal["recorded", "segments"] = "recorded"
    gradient: Literal["one-step", "phantom", "neumann", "implicit", "unrolled"] = "one-step"
    gradient_steps: int = 3
    damping: float = 1.0
    attach_flow: bool = False
    minimum_gate: float | None = None
    gamma: float = 0.8
    validate_minutes: float = 15.0
    validate_steps: int = 0
    validation_pairs: int = 64
    keep_best: bool = False
    patience: int = 0
    save_minutes: float = 5.0
    keep: int = 3
    max_skipped: int = 10
    workers: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        self._at_least(1, "train_steps", "batch", "accumulate", "corrections", "gradient_steps")
        self._at_least(1, "validation_pairs", "keep", "max_skipped")
        self._at_least(0, "learning_rate", "weight_decay", "max_minutes", "save_minutes", "validate_minutes")
        self._at_least(0, "validate_steps", "patience", "workers", "seed")
        self._share("ema", "warmup", "gamma", "coarse_start_probability", "wrong_start_probability")
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
        if self.scale_shares and (min(self.scale_shares) < 0 or not sum(self.scale_shares) > 0):
            raise ConfigError(f"scale_shares must be shares of which one is above 0, not {self.scale_shares}")
        if self.fine_steps is not None and not 1 <= self.fine_steps[0] <= self.fine_steps[1]:
            raise ConfigError(f"fine_steps must rise from at least 1, not {self.fine_steps}")
        if self.fine_steps is not None and self.positions and self.positions[-1] > self.fine_steps[0]:
            raise ConfigError(
                f"fine_steps must rise from at least {self.positions[-1]}, the last of positions, "
                f"not {self.fine_steps}"
            )
        if self.correction_ratio is not None and not 0 < self.correction_ratio < 1:
            raise ConfigError(f"correction_ratio must be between 0 and 1, not {self.correction_ratio}")
        if self.correction_ratio is not None and not self._spaced():
            raise ConfigError(
                "correction_ratio needs scheme recorded, without positions and with another gradient than "
                "unrolled"
            )
        if self.schedule_by == "clock" and not self.max_minutes:
            raise ConfigError("schedule_by clock needs max_minutes above 0, which the rate ends with")
        if not 0 < self.damping <= 1:
            raise ConfigError(f"damping must be above 0 and at most 1, not {self.damping}")

    @property
    def ways(self) -> int:
        """Pairs that are made of the same two frames."""
        return 1

    def for_strides(self, strides: Sequence[int]) -> Self:
        """Return the options as a model with these strides is trained, coarse to fine.

        Raises:
            ConfigError: shares or a size that do not go with them.
        """
        most = len(strides) + (len(strides) > 1)
        if self.scale_shares and not len(strides) <= len(self.scale_shares) <= most:
            raise ConfigError(
                f"scale_shares needs {len(strides)} shares for {self.model}, one a scale, and one more only "
                "where half the finest of several is trained too"
            )
        if self.height % strides[0] or self.width % strides[0]:
            raise ConfigError(f"height and width must be multiples of {strides[0]} for {self.model}")
        if len(strides) == 1:
            return replace(self, scale_shares=(), fine_steps=None)
        finer = len(strides) - 1
        least = self.positions[-1] if self.positions else FINE_STEPS[0]
        return replace(
            self,
            scale_shares=self.scale_shares or (COARSEST_SHARE, *((1 - COARSEST_SHARE) / finer,) * finer),
            fine_steps=self.fine_steps or (least, max(least, FINE_STEPS[1])),
        )

    def recipe(self, precision: str) -> str:
        """Return the options as JSON, without the paths of this machine, with the precision of the run."""
        options = asdict(self) | {"precision": precision}
        places = ("data", "textures", "output", "init")
        return json.dumps({name: value for name, value in options.items() if name not in places})

    def _spaced(self) -> bool:
        """Whether points of one uninterrupted solve are chosen by their number alone."""
        return self.scheme == "recorded" and self.gradient != "unrolled" and not self.positions

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not value >= least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")

    def _share(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must be between 0 and 1, not {value}")


@dataclass(frozen=True, kw_only=True)
class SupervisedOptions(TrainOptions):
    """Train on ground truth.

    Attributes:
        loss: distance between flows; ``mixture`` is how unlikely the uncertainty head of a model finds the
            error (with other losses the head learns beside the flow and has no say in it).
        residual_weight: weight of the flow's movement at the end of the path.
        residual_where_right: let that weight count only where the flow is right, to a pixel or 5 % of the
            motion.
        subpixel_positions: of the 64 full-resolution pixels per coarse one, how many the loss looks at.
        jacobian_weight: weight of the penalty on the step's Jacobian at the last point; 0 computes none.
        jacobian_every: steps between two penalties.
    """

    loss: Literal["l1", "charbonnier", "robust", "mixture"] = "l1"
    residual_weight: float = 0.1
    residual_where_right: bool = False
    subpixel_positions: int = 16
    jacobian_weight: float = 0.0
    jacobian_every: int = 8

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        self._at_least(1, "subpixel_positions", "jacobian_every")
        self._at_least(0, "jacobian_weight")
        self._share("residual_weight")
        if self.subpixel_positions > 64:
            raise ConfigError(f"subpixel_positions must be at most 64, not {self.subpixel_positions}")


@dataclass(frozen=True, kw_only=True)
class SceneOptions(SupervisedOptions):
    """Train on synthetic scenes.

    Attributes:
        scenes: how fast things move in the scenes trained on: ``usual``, ``fast`` with larger motion,
            limbs and small fast things, or ``large``, with the largest. Held-out scenes are the usual ones.
        bidirectional: take the frames of a scene both ways, so that each is rendered and encoded once for two
            pairs.
        history: render the frame before as well, so that a solve that starts ``carried`` does so from what a
            video would have carried.
        textures: folder of photos and cut-outs for the scenes; None draws procedural textures only.
        permissive_only: of a folder with a license manifest, use only what it calls permissive.
    """

    scenes: Literal["usual", "fast", "large"] = "usual"
    bidirectional: bool = False
    history: bool = False
    textures: Path | None = None
    permissive_only: bool = True

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        if self.batch % self.ways:
            raise ConfigError(f"batch must be even for bidirectional pairs, not {self.batch}")

    @property
    def ways(self) -> int:
        """Pairs that are made of the same two frames."""
        return 2 if self.bidirectional else 1


@dataclass(frozen=True, kw_only=True)
class PairOptions(SupervisedOptions):
    """Train on pairs of frames with ground truth.

    Attributes:
        data: the folder that holds the data sets, or the user's own frames and flow for ``custom``.
        data_sets: names of data sets, each perhaps with a number of repetitions, words that the titles of its
            parts must have and a split: ``100*sintel:clean``, ``things:clean:left``, ``chairs@validation``.
        augment: change scale, colors and more of the pairs that are read, by the stage's ranges; else only
            crop them.
        held_out: share of the sequences kept out of training and evaluated on.
        validation_sets: data sets to evaluate on besides, written as in ``data_sets``.
        on_corrupt: a pair that cannot be read is named, then replaced by the next one or the end.
    """

    stage: StageName = "custom"
    data: Path | None = None
    data_sets: tuple[str, ...] = ()
    augment: bool = True
    held_out: float = 0.0
    validation_sets: tuple[str, ...] = ()
    on_corrupt: Literal["skip", "stop"] = "stop"

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        self._share("held_out")


@dataclass(frozen=True, kw_only=True)
class FootageOptions(TrainOptions):
    """Train on footage without ground truth.

    Attributes:
        data: the folder that holds the data sets, or the user's own frames and flow for ``custom``.
        held_out: share of the sequences kept out of training and evaluated on.
        smoothness: weight of the flow's slopes relative to the likeness of the warped frames.
        distillation: likewise, weight of the agreement between a crop's flow and the whole frame's.
    """

    error_name: ClassVar[str] = "photometric"
    stage: StageName = "footage"
    data: Path | None = None
    held_out: float = 0.0
    smoothness: float = 2.0
    distillation: float = 0.3

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        self._at_least(0, "smoothness", "distillation")
        self._share("held_out")
