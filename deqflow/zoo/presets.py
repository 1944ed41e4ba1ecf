"""Named models: their sizes, how they are solved, and what the published checkpoints of them reach."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from deqflow.config import ModelConfig, SolveSettings
from deqflow.equilibrium import Anderson, DampedIteration, Keep, absolute_change
from deqflow.network import (
    BilinearConfig,
    ConvexConfig,
    GatedStripConfig,
    GRUConfig,
    MixtureConfig,
    PyramidEncoderConfig,
    SeparateEncodersConfig,
)


@dataclass(frozen=True)
class PublishedResult:
    """Errors that authors report for a checkpoint trained on FlyingChairs and FlyingThings.

    Attributes:
        checkpoint: which one.
        sintel_clean: EPE on Sintel's training sequences, clean pass.
        sintel_final: the same, final pass.
        kitti_epe: EPE on KITTI 2015's training pairs.
        kitti_fl: Fl-all there, per cent.
    """

    checkpoint: str
    sintel_clean: float
    sintel_final: float
    kitti_epe: float
    kitti_fl: float


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named model.

    Attributes:
        summary: a line about it.
        license: of the weights that exist for it.
        config: its sizes.
        defaults: how it is solved.
        precision: ``auto`` or a dtype's name.
        published: results of its published checkpoints.
    """

    summary: str
    license: str
    config: ModelConfig = field(default_factory=ModelConfig)
    defaults: SolveSettings = field(default_factory=SolveSettings)
    precision: str = "auto"
    published: tuple[PublishedResult, ...] = ()


RAFT_WIDTHS = GRUConfig()
_RAFT = SolveSettings(steps=24, tolerance=0.0)
_PUBLISHED_DEQ = replace(
    _RAFT,
    steps=60,
    # The published plain solver: a new state is the answer only while its joint change stays below that of
    # the last accepted one plus 1; the iteration goes on either way.
    keep=Keep(slack=1.0, measure=absolute_change),
)

_SIZES = {
    # letter: hidden = context, features, widths of the motion encoder c1 c2, f1 f2, out; head
    "tiny": (32, 64, GRUConfig(correlation=(64, 48), flow=(32, 16), motion=32, head=64)),
    "b": (128, 256, RAFT_WIDTHS),
    "l": (192, 256, GRUConfig(correlation=(384, 288), flow=(192, 96), motion=192, head=384)),
    "h": (256, 256, GRUConfig(correlation=(512, 384), flow=(256, 128), motion=256, head=512)),
    "g": (384, 256, GRUConfig(correlation=(640, 480), flow=(320, 160), motion=320, head=640)),
}

_RESULTS = {
    "tiny": (PublishedResult("tiny", 1.77, 3.15, 7.60, 23.74),),
    "b": (
        PublishedResult("B (2022)", 1.43, 2.79, 5.43, 16.67),
        PublishedResult("B (2023)", 1.39, 2.77, 4.46, 14.18),
    ),
    "h": (
        PublishedResult("H 1x, 60 steps", 1.27, 2.58, 3.76, 12.95),
        PublishedResult("H 3x, 120 steps", 1.27, 2.48, 3.77, 13.41),
    ),
}


def _published_deq(size: str, *, attention: bool) -> Preset:
    hidden, features, update = _SIZES[size]
    return Preset(
        summary=f"DEQ-Flow-{size.upper() if len(size) == 1 else size}{' with GMA' if attention else ''}",
        license="AGPL-3.0",
        config=ModelConfig(
            features=features,
            context=hidden,
            hidden=hidden,
            radius=4,
            encoder=SeparateEncodersConfig(),
            update=replace(update, attention=attention),
            upsampling=ConvexConfig(width=256),
        ),
        defaults=_PUBLISHED_DEQ,
        precision="float32",
        published=() if attention else _RESULTS.get(size, ()),
    )


STILL_PIXELS = 310_000
"""Of frames of single pairs that deqflow-s solves at 1/2 too: some 640x480."""

PRESETS: Mapping[str, Preset] = {
    "deqflow-s": Preset(
        summary="small, for machines without a GPU, at three scales; its weights ship with the package",
        license="Apache-2.0",
        config=ModelConfig(
            features=96,
            levels=2,
            encoder=PyramidEncoderConfig(),
            uncertainty=MixtureConfig(),
        ),
        defaults=SolveSettings(
            scales=(64, 32, 16, 8, 4),
            fine_steps=4,
            carried_fine_steps=2,
            still_pixels=STILL_PIXELS,
            precise=Anderson(),
            video=DampedIteration(),
            second_start=True,
        ),
    ),
    "deqflow-s-v0": Preset(
        summary="the first deqflow-s, at two scales: half the parameters and half the time",
        license="Apache-2.0",
        config=ModelConfig(update=GatedStripConfig(minimum_gate=0.05), uncertainty=MixtureConfig()),
        defaults=SolveSettings(scales=(16, 8), precise=Anderson(), video=DampedIteration()),
    ),
    **{f"deqflow-{size}": _published_deq(size, attention=False) for size in _SIZES},
    **{f"deqflow-{size}-gma": _published_deq(size, attention=True) for size in _SIZES},
    "raft": Preset(
        summary="RAFT, the recurrent baseline",
        license="BSD-3-Clause",
        config=ModelConfig(
            features=256,
            context=128,
            hidden=128,
            radius=4,
            encoder=SeparateEncodersConfig(starts_hidden=True),
            update=RAFT_WIDTHS,
            upsampling=ConvexConfig(width=256),
        ),
        defaults=_RAFT,
        precision="float32",
        published=(PublishedResult("things", 1.43, 2.71, 5.04, 17.4),),
    ),
    "raft-small": Preset(
        summary="RAFT-small",
        license="BSD-3-Clause",
        config=ModelConfig(
            features=128,
            context=64,
            hidden=96,
            radius=3,
            encoder=SeparateEncodersConfig(
                block="bottleneck", widths=(32, 64, 96), context_norm="none", starts_hidden=True
            ),
            update=GRUConfig(correlation=(96,), flow=(64, 32), motion=82, head=128, kernels=((3, 3),)),
            upsampling=BilinearConfig(),
        ),
        defaults=_RAFT,
        precision="float32",
        published=(PublishedResult("small", 2.21, 3.35, 7.51, 26.9),),
    ),
}
