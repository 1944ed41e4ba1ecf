"""What a model is made of, and how it is run unless told otherwise."""

from dataclasses import dataclass, field

from deqflow.equilibrium import FixedPointIteration, Solver
from deqflow.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of an estimator's rooms; presets are instances of this with a name.

    Attributes:
        widths: channels of the encoder's stages at strides 4 and 8.
        depths: residual blocks in each stage.
        features: channels compared by the correlation.
        context: channels of what frame 1 tells the update operator.
        hidden: channels of the hidden state.
        motion: channels of the encoded motion.
        mixed: channels between the two 1x1 convolutions of the gates.
        kernel: size of the update operator's depthwise convolution, odd.
        mask: channels of the upsampling's mask head.
        levels: scales of the correlation pyramid.
        radius: of the lookup window, in pixels of each scale.
        attach_flow: let gradients pass through the incoming flow of a step, not only through hidden.
    """

    widths: tuple[int, int] = (48, 96)
    depths: tuple[int, int] = (2, 3)
    features: int = 128
    context: int = 64
    hidden: int = 96
    motion: int = 64
    mixed: int = 192
    kernel: int = 7
    mask: int = 128
    levels: int = 4
    radius: int = 3
    attach_flow: bool = False

    def __post_init__(self) -> None:
        sizes = (
            *self.widths,
            *self.depths,
            self.features,
            self.context,
            self.hidden,
            self.motion,
            self.mixed,
        )
        if min(*sizes, self.mask, self.levels, self.radius) < 1:
            raise ConfigError(f"every size of a model must be at least 1: {self}")
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel must be odd, not {self.kernel}")

    @property
    def correlation(self) -> int:
        """Channels of the correlation lookup."""
        return self.levels * (2 * self.radius + 1) ** 2


@dataclass(frozen=True, kw_only=True)
class InferenceDefaults:
    """How a preset is solved unless the caller says otherwise.

    Attributes:
        steps: most evaluations of the update operator.
        tolerance: stop once the flow moves less than this, RMS in full-resolution pixels per step; 0 never.
        hidden_tolerance: and the hidden state changes less than this, relative to its norm.
        solver: where to evaluate next.
        precision: ``auto`` or a dtype's name.
    """

    steps: int = 24
    tolerance: float = 0.05
    hidden_tolerance: float = 0.1
    solver: Solver = field(default_factory=FixedPointIteration)
    precision: str = "auto"
