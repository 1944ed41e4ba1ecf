"""What a model is made of, and how it is run unless told otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal, TypedDict, Unpack

from deqflow.equilibrium import LAST, FixedPointIteration, Keep, Solver, StoppingRule
from deqflow.equilibrium.stopping import Measure
from deqflow.errors import ConfigError
from deqflow.network import (
    BilinearConfig,
    ConvexConfig,
    GatedStripConfig,
    GRUConfig,
    MixtureConfig,
    PyramidEncoderConfig,
    SeparateEncodersConfig,
    SharedEncoderConfig,
)
from deqflow.network.sizes import require_choice, require_sizes
from deqflow.network.uncertainty import Curve

Encoder = SharedEncoderConfig | PyramidEncoderConfig | SeparateEncodersConfig
Update = GatedStripConfig | GRUConfig
Upsampling = ConvexConfig | BilinearConfig
Scales = tuple[int, ...] | Literal["all", "fast", "fine"]

REFERENCE_STRIDE = 8
"""The unit of cost is an evaluation on the grid of this stride."""

COMPONENTS: dict[str, dict[str, type[Any]]] = {
    "encoder": {
        "shared": SharedEncoderConfig,
        "pyramid": PyramidEncoderConfig,
        "separate": SeparateEncodersConfig,
    },
    "update": {"gated-strips": GatedStripConfig, "mixer": GatedStripConfig, "gru": GRUConfig},
    "upsampling": {"convex": ConvexConfig, "bilinear": BilinearConfig},
    "uncertainty": {"mixture": MixtureConfig},
}
OPTIONAL_COMPONENTS = ("uncertainty",)
"""Rooms that a model may do without: None in their place."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of an estimator: its components, and the channels that pass between them.

    Presets are instances with a name.

    Attributes:
        features: channels compared by the correlation.
        context: channels of what frame 1 tells the update operator.
        hidden: channels of the hidden state.
        levels: scales of the correlation pyramid.
        radius: of the lookup window, in pixels of each scale.
        encoder: what makes features and context of a frame.
        update: what the solver iterates.
        upsampling: what brings the flow to full resolution.
        uncertainty: what tells how far the flow may be off; None in models that do not.
    """

    features: int = 128
    context: int = 64
    hidden: int = 96
    levels: int = 4
    radius: int = 3
    encoder: Encoder = field(default_factory=SharedEncoderConfig)
    update: Update = field(default_factory=GatedStripConfig)
    upsampling: Upsampling = field(default_factory=ConvexConfig)
    uncertainty: MixtureConfig | None = None

    def __post_init__(self) -> None:
        names = ("features", "context", "hidden", "levels", "radius")
        require_sizes("model", **{name: getattr(self, name) for name in names})

    @property
    def correlation(self) -> int:
        """Channels of the correlation lookup."""
        return self.levels * (2 * self.radius + 1) ** 2

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the encoder's features, coarse to fine: full-resolution pixels per pixel of a grid."""
        return self.encoder.strides

    @property
    def stride(self) -> int:
        """The finest of them, from which the flow is brought to full resolution."""
        return self.strides[-1]

    @property
    def trainable_strides(self) -> tuple[int, ...]:
        """The strides, and half the finest of them: that of frames of twice the size."""
        return (*self.strides, self.stride // 2)

    def calibrated(self, curve: Curve) -> "ModelConfig":
        """Return the configuration with another calibration of its uncertainty, where it tells any."""
        if self.uncertainty is None:
            return self
        return replace(self, uncertainty=replace(self.uncertainty, calibration=curve))

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON knows it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Return the inverse of ``to_dict``, also after a round trip through JSON.

        Raises:
            ConfigError: an unknown field or kind of component, or a value outside its range.
        """
        values = _components_of_flat(values) if "widths" in values else dict(values)
        values.pop("attach_flow", None)  # a choice of training that older files record here
        for component, kinds in COMPONENTS.items():
            if isinstance(values.get(component), Mapping):
                described = dict(values[component])
                kind = described.pop("kind", None)
                require_choice(component, "kind", kind, tuple(kinds))
                values[component] = _instance(kinds[str(kind)], described)
        config = _instance(cls, values)
        for component, kinds in COMPONENTS.items():
            if getattr(config, component) is not None or component not in OPTIONAL_COMPONENTS:
                require_choice("model", component, type(getattr(config, component)), tuple(kinds.values()))
        return config


def _instance(kind: type[Any], values: Mapping[str, Any]) -> Any:
    unknown = values.keys() - {known.name for known in fields(kind) if known.init}
    if unknown:
        raise ConfigError(f"a {kind.__name__} has no field {sorted(map(str, unknown))[0]!r}")
    return kind(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    """JSON knows lists only."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _components_of_flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the components that the first weight files describe in one list of sizes."""
    rest = dict(values)
    return {
        "encoder": {"kind": "shared", **{name: rest.pop(name, None) for name in ("widths", "depths")}},
        "update": {
            "kind": "gated-strips",
            **{name: rest.pop(name, None) for name in ("motion", "mixed", "kernel")},
        },
        "upsampling": {"kind": "convex", "width": rest.pop("mask", None)},
        **rest,
    }


class SolveOptions(TypedDict, total=False):
    """How to solve a pair, where that differs from the model's defaults: keywords of ``estimate`` and others.

    Attributes:
        steps: most evaluations of the update operator at each scale.
        fine_steps: and at scales finer than 1/8, where each costs as much as four at 1/8.
        tolerance: stop once the flow moves less than this, RMS in full-resolution pixels per step; 0 runs
            all steps.
        solver: where to evaluate next.
        scales: strides to solve at, coarse to fine; ``all`` of the model's, ``fast``, which leaves out those
            finer than 1/8, or ``fine``, which adds half the finest: better on slow motion, in about three
            times the time.
        second_start: begin at every stride of the model's but its finest from no motion too: finds more of
            what is small and fast.
    """

    steps: int | None
    fine_steps: int | None
    tolerance: float | None
    solver: Solver | None
    scales: Scales | None
    second_start: bool | None


@dataclass(frozen=True, kw_only=True)
class SolveSettings:
    """How a pair is solved.

    Attributes:
        steps: most evaluations of the update operator at each scale, at least 1.
        fine_steps: most at scales finer than 1/8, each of which costs four times one at 1/8 or more; at least
            1, and no more than ``steps`` allows. None is as many as there.
        carried_fine_steps: takes its place on video, where their flow is carried from the pair before and
            ``fine_steps`` is not asked for, so that fewer are left to make; None is as many.
        refined_fine_steps: takes its place where half the finest stride is solved too and ``fine_steps`` is
            not asked for: more at the finest move nothing that half of it does not. None is as many.
        still_pixels: frames of at most so many pixels are solved at half the finest of the scales too, where
            they do not follow each other and no scales are asked for.
        tolerance: stop once the flow moves less than this, RMS in full-resolution pixels per step, at the
            finest of the scales; twice as much at the next coarser, and so on. 0 runs all steps.
        hidden_tolerance: and the hidden state changes less than this, relative to its norm.
        solver: where to evaluate next.
        precise: takes its place where at most half of the tolerance is asked for and no solver is named.
        video: takes the solver's place between frames that follow each other, where none of both is asked
            for; None is no other.
        keep: which state is the answer.
        scales: strides to solve at, coarse to fine, each started from the fixed point of the one before. A
            stride beyond the model's own is that of frames that are shrunk as much; half the finest, that
            of frames of twice the size.
        second_start: begin a cold solve at every stride of the model's but its finest from no motion too, and
            go on from what explains the frames better, see ``deqflow.second_start``.
    """

    steps: int = 24
    fine_steps: int | None = None
    carried_fine_steps: int | None = None
    refined_fine_steps: int | None = 2
    still_pixels: int = 0
    tolerance: float = 0.05
    hidden_tolerance: float = 0.1
    solver: Solver = field(default_factory=FixedPointIteration)
    precise: Solver | None = None
    video: Solver | None = None
    keep: Keep = LAST
    scales: tuple[int, ...] = (8,)
    second_start: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        if self.steps < 1 or not self.tolerance >= 0:
            raise ConfigError(
                f"expected steps >= 1 and tolerance >= 0, got steps={self.steps} and "
                f"tolerance={self.tolerance}"
            )
        for name in ("fine_steps", "carried_fine_steps", "refined_fine_steps"):
            if (steps := getattr(self, name)) is not None and steps < 1:
                raise ConfigError(f"expected {name} >= 1, got {steps}")
        several = isinstance(self.scales, Sequence) and len(self.scales) > 0
        falling = several and all(coarse == 2 * fine for coarse, fine in pairwise(self.scales))
        if not falling or min(self.scales) < 1:
            raise ConfigError(f"scales must be strides that halve, as 32 16 8, not {self.scales}")

    def changed(self, **options: Unpack[SolveOptions]) -> "SolveSettings":
        """Return these settings with the options that are given and not None."""
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if self.precise is not None and 0 < given.get("tolerance", 0) <= self.tolerance / 2:
            given.setdefault("solver", self.precise)
        if "solver" in given:
            given["video"] = None
        if "fine_steps" in given:
            given["carried_fine_steps"] = given["refined_fine_steps"] = None
        if "scales" in given:
            given["still_pixels"] = 0
        return replace(self, **given)

    def on_video(self) -> "SolveSettings":
        """Return the settings between frames that follow each other."""
        return replace(self, solver=self.video or self.solver, still_pixels=0)

    @property
    def reused_scale(self) -> int:
        """The scale whose fixed point the next pair of a video may start from: the finest of at most 1/8.

        A finer one, where each step costs much and few are made, starts from that of 1/8, and from its own
        flow where the two agree.
        """
        return min((scale for scale in self.scales if scale >= REFERENCE_STRIDE), default=self.scales[-1])

    def from_carried(self) -> "SolveSettings":
        """Return the settings where the flow of the scales finer than 1/8 is carried from the pair before."""
        most = [steps for steps in (self.fine_steps, self.carried_fine_steps) if steps is not None]
        return replace(self, fine_steps=min(most, default=None))

    def refined(self) -> "SolveSettings":
        """Return the settings with half the finest of the scales besides."""
        steps = self.fine_steps if self.refined_fine_steps is None else self.refined_fine_steps
        return replace(self, scales=(*self.scales, self.scales[-1] // 2), fine_steps=steps, still_pixels=0)

    def on_stills(self, height: float, width: float) -> "SolveSettings":
        """Return the settings between frames of so many pixels that do not follow each other."""
        return self.refined() if height * width <= self.still_pixels else self

    def begun_at(self, scale: int) -> "SolveSettings":
        """Return the settings of a solve that leaves out the scales coarser than one of them."""
        return replace(self, scales=self.scales[self.scales.index(scale) :])

    def tolerance_at(self, scale: int) -> float:
        """Return the tolerance at a scale, RMS in full-resolution pixels per step."""
        return self.tolerance * (scale // self.scales[-1])

    def steps_at(self, scale: int) -> int:
        """Return the most evaluations at a scale."""
        if self.fine_steps is None or scale >= REFERENCE_STRIDE:
            return self.steps
        return min(self.steps, self.fine_steps)

    def stopping(self, measure: Measure, scale: int) -> StoppingRule:
        """Return the rule at one of the scales."""
        hidden = self.hidden_tolerance if self.tolerance > 0 else 0.0
        tolerance = (self.tolerance_at(scale), float("inf"), hidden)
        steps = self.steps_at(scale)
        return StoppingRule(steps=steps, tolerance=tolerance, measure=measure, keep=self.keep)
