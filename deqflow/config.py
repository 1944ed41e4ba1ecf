"""What a model is made of, and how it is run unless told otherwise."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from deqflow.equilibrium import FixedPointIteration, Solver
from deqflow.errors import ConfigError
from deqflow.network import (
    BilinearConfig,
    ConvexConfig,
    GatedStripConfig,
    GRUConfig,
    MixtureConfig,
    SeparateEncodersConfig,
    SharedEncoderConfig,
)
from deqflow.network.sizes import require_choice, require_sizes

Encoder = SharedEncoderConfig | SeparateEncodersConfig
Update = GatedStripConfig | GRUConfig
Upsampling = ConvexConfig | BilinearConfig

COMPONENTS: dict[str, dict[str, type[Any]]] = {
    "encoder": {"shared": SharedEncoderConfig, "separate": SeparateEncodersConfig},
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
        attach_flow: let gradients pass through the incoming flow of a step, not only through hidden.
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
    attach_flow: bool = False

    def __post_init__(self) -> None:
        names = ("features", "context", "hidden", "levels", "radius")
        require_sizes("model", **{name: getattr(self, name) for name in names})
        require_choice("model", "attach_flow", self.attach_flow, (True, False))

    @property
    def correlation(self) -> int:
        """Channels of the correlation lookup."""
        return self.levels * (2 * self.radius + 1) ** 2

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON knows it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """The inverse of ``to_dict``, also after a round trip through JSON.

        Raises:
            ConfigError: an unknown field or kind of component, or a value outside its range.
        """
        values = _components_of_flat(values) if "widths" in values else dict(values)
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
    """The first weight files of deqflow-s describe it in one list of sizes."""
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


@dataclass(frozen=True, kw_only=True)
class InferenceDefaults:
    """How a preset is solved unless the caller says otherwise.

    Attributes:
        steps: most evaluations of the update operator.
        tolerance: stop once the flow moves less than this, RMS in full-resolution pixels per step; 0 never.
        hidden_tolerance: and the hidden state changes less than this, relative to its norm.
        solver: where to evaluate next.
        precision: ``auto`` or a dtype's name.
        coarse_levels: where there is nothing to start from, solve the frames at half the size first, whose
            fixed point starts the solve; so many times over. 0 starts from zero flow.
    """

    steps: int = 24
    tolerance: float = 0.05
    hidden_tolerance: float = 0.1
    solver: Solver = field(default_factory=FixedPointIteration)
    precision: str = "auto"
    coarse_levels: int = 0

    def __post_init__(self) -> None:
        if self.coarse_levels < 0:
            raise ConfigError(f"coarse_levels must be 0 or more, got {self.coarse_levels}")
