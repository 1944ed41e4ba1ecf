"""Published checkpoints as weight files of ours."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from deqflow.errors import CheckpointError
from deqflow.estimator import DEQFlow
from deqflow.zoo.checkpoints import Checkpoint, file_sha256, read_checkpoint
from deqflow.zoo.loading import build, fitting_config, matching_presets, preset, save_weights
from deqflow.zoo.presets import PRESETS


def convert(
    source: Path,
    target: Path,
    *,
    name: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> DEQFlow:
    """Write a checkpoint of any kind that ``load`` reads as a safetensors file that describes itself.

    Beside what ``save_weights`` writes, its metadata hold ``source`` and ``source_sha256``, the ``license``
    of the weights, and ``metrics``: what is published for the preset, and what was measured of this file.

    Args:
        source: the checkpoint.
        target: the file to write.
        name: the preset; None finds the one that fits.
        metrics: measured errors, kept as JSON.
        dtype: of the numbers in the file.

    Returns:
        The model that was written.

    Raises:
        ConfigError: unknown preset.
        CheckpointError: a checkpoint that cannot be read or fits another preset, or none.
    """
    checkpoint = read_checkpoint(source)
    if name is None:
        name = recognize(checkpoint)
    model = build(name, fitting_config(name, checkpoint), checkpoint)
    known: dict[str, Any] = {"published": [asdict(result) for result in preset(name).published]}
    if metrics is not None:
        known["measured"] = dict(metrics)
    described = checkpoint.described
    described |= {
        "source": source.name,
        "source_sha256": file_sha256(source),
        "license": preset(name).license,
        "metrics": json.dumps(known),
    }
    save_weights(model, target, metadata=described, dtype=dtype)
    return model


def recognize(checkpoint: Checkpoint) -> str:
    """Return the preset that a checkpoint names or fits; raises CheckpointError where there is none."""
    if checkpoint.metadata.get("model") in PRESETS:
        return checkpoint.metadata["model"]
    fitting = matching_presets(checkpoint.tensors)
    if not fitting:
        raise CheckpointError(f"checkpoint {checkpoint.path} fits no preset; `deqflow models` lists them")
    return fitting[0]
