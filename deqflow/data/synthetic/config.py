"""What the scenes are made of: every probability and range, with its unit."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from deqflow.errors import ConfigError


@dataclass(frozen=True)
class SceneConfig:
    """How often things happen in a scene and how strong they are.

    Lengths called "reference pixels" are pixels of a frame 320 wide; they grow with the width.
    Probabilities are per pair unless said otherwise. Pairs of numbers are (low, high).

    Raises:
        ConfigError: a probability outside 0..1 or a range whose low exceeds its high.
    """

    # Kinds of scene (weights; the rest up to 1 is layered).
    planes_probability: float = 0.28
    still_probability: float = 0.05  # both frames show the same scene
    tiny_probability: float = 0.1  # all motions below `tiny_motion`
    rush_probability: float = 0.03  # one large translation of everything
    tiny_motion: float = 2.5  # reference pixels
    # Layered scenes.
    objects: tuple[int, int] = (1, 10)
    object_size: tuple[float, float] = (0.08, 0.95)  # long side / frame height
    camera_motion: tuple[float, float] = (3.5, 1.2)  # reference pixels: median, sigma of its logarithm
    object_motion: tuple[float, float] = (4.0, 1.25)  # likewise, relative to the camera
    max_motion: float = 240.0  # reference pixels, of one translation
    rotation: float = 4.0  # degrees, standard deviation of the camera's; objects have thrice that
    zoom: float = 0.035  # standard deviation of the logarithm of the camera's; objects have twice that
    deformation_probability: float = 0.3  # per object
    background_deformation_probability: float = 0.1
    limb_probability: float = 0.0  # per object: parts of it that turn about a joint
    limb_turn: float = 16.0  # degrees, standard deviation
    dart_probability: float = 0.0  # per object: a small thing, often thin, that is fast
    dart_size: tuple[float, float] = (0.03, 0.12)  # long side / frame height
    dart_motion: tuple[float, float] = (10.0, 80.0)  # reference pixels, relative to the camera
    # Scenes of planes.
    forward: tuple[float, float] = (0.0, 1.6)  # meters per frame
    # Textures.
    procedural_probability: float = 0.16  # per surface
    low_contrast_probability: float = 0.14  # per surface
    # Appearance.
    photometric_probability: float = 0.6  # the same change of both frames
    asymmetric_probability: float = 0.3  # a further change of the second frame only
    motion_blur_probability: float = 0.3
    shutter: tuple[float, float] = (0.15, 0.9)  # exposure / frame interval
    defocus_probability: float = 0.12
    noise_probability: float = 0.35
    fog_probability: float = 0.12
    shade_probability: float = 0.15  # large soft patterns of light and shade
    drop_shadow_probability: float = 0.2
    jpeg_probability: float = 0.18
    vignette_probability: float = 0.1
    sharpen_probability: float = 0.08
    dark_probability: float = 0.1
    soft_video_probability: float = 0.1  # scaled down and up again
    eraser_probability: float = 0.06  # a patch of frame 2 painted over

    def __post_init__(self) -> None:
        """Reject what cannot be."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("probability") and not 0 <= value <= 1:
                raise ConfigError(f"{field.name} must be between 0 and 1, not {value}")
            if (
                field.name in ("objects", "object_size", "dart_size", "dart_motion", "forward", "shutter")
                and not 0 <= value[0] <= value[1]
            ):
                raise ConfigError(f"{field.name} must be (low, high) with 0 <= low <= high, not {value}")
            if isinstance(value, int | float) and value < 0:
                raise ConfigError(f"{field.name} must not be negative, not {value}")
        kinds = (
            self.planes_probability + self.still_probability + self.tiny_probability + self.rush_probability
        )
        if kinds > 1:
            raise ConfigError(
                f"the probabilities of the kinds of scene must sum to at most 1, not {kinds:.3f}"
            )

    def without_appearance(self) -> "SceneConfig":
        """Return the same scenes with every appearance effect off."""
        names = (
            "photometric asymmetric motion_blur defocus noise fog shade drop_shadow"
            " jpeg vignette sharpen dark soft_video eraser"
        )
        off: dict[str, Any] = {f"{name}_probability": 0.0 for name in names.split()}
        return replace(self, **off)


FAST = SceneConfig(
    camera_motion=(5.0, 1.35),
    object_motion=(7.0, 1.35),
    rush_probability=0.05,
    still_probability=0.04,
    tiny_probability=0.08,
    forward=(0.0, 2.0),
    object_size=(0.05, 0.9),
    limb_probability=0.3,
    dart_probability=0.12,
)
"""Scenes with longer tails of motion: faster cameras and objects, smaller objects, fewer that hardly move,
things with limbs and small fast ones."""

LARGE = replace(
    FAST,
    camera_motion=(7.5, 1.25),
    object_motion=(9.0, 1.3),
    rush_probability=0.08,
    still_probability=0.03,
    tiny_probability=0.05,
    forward=(0.3, 2.3),
)
"""Scenes for the end of a training: in about half of them things move by more than 20 px on average at 512 px
of width."""

MOTIONS: Mapping[str, SceneConfig] = MappingProxyType({"usual": SceneConfig(), "fast": FAST, "large": LARGE})
"""Scenes by how fast things move in them."""
