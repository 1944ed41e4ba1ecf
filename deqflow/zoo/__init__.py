"""Named presets, and weights in and out of files: ours, and published checkpoints."""

from deqflow.zoo.averaging import average
from deqflow.zoo.checkpoints import Checkpoint, file_sha256, read_checkpoint
from deqflow.zoo.conversion import convert, recognize
from deqflow.zoo.hub import from_pretrained, save_pretrained
from deqflow.zoo.loading import (
    build,
    create,
    fitting_config,
    list_models,
    load,
    load_weights,
    matching_presets,
    preset,
    restore,
    save_weights,
    shipped_weights,
    skeleton,
)
from deqflow.zoo.presets import PRESETS, Preset, PublishedResult
from deqflow.zoo.weights import Weights

__all__ = [
    "PRESETS",
    "Checkpoint",
    "Preset",
    "PublishedResult",
    "Weights",
    "average",
    "build",
    "convert",
    "create",
    "file_sha256",
    "fitting_config",
    "from_pretrained",
    "list_models",
    "load",
    "load_weights",
    "matching_presets",
    "preset",
    "read_checkpoint",
    "recognize",
    "restore",
    "save_pretrained",
    "save_weights",
    "shipped_weights",
    "skeleton",
]
