"""Averages of weights (model soups)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from deqflow.errors import CheckpointError, ConfigError
from deqflow.estimator import DEQFlow
from deqflow.zoo.checkpoints import Checkpoint, file_sha256, read_checkpoint
from deqflow.zoo.conversion import recognize
from deqflow.zoo.loading import build, fitting_config, save_weights
from deqflow.zoo.weights import told_recipe, unfolded


def average(
    sources: Sequence[Path],
    target: Path,
    *,
    shares: Sequence[float] = (),
    dtype: torch.dtype = torch.float32,
) -> DEQFlow:
    """Write the weighted mean of weights of one model as a file that describes itself.

    Weights that were trained on from a common start are often better averaged than each of them alone (model
    soups; Wortsman et al., ICML 2022). The file's metadata hold what all sources say alike (of their recipes
    too), and under ``averaged`` the name, SHA-256, share and what else each of them says.

    Args:
        sources: at least two checkpoints of any kind that ``load`` reads.
        target: the safetensors file to write.
        shares: of the mean, one for each source, with the sum 1; any sign. Empty means equal ones.
        dtype: of the numbers in the file.

    Returns:
        The model that was written.

    Raises:
        ConfigError: fewer than two sources, or shares that do not fit them.
        CheckpointError: a checkpoint that cannot be read, fits no preset, or is of another model.
    """
    shares = tuple(shares) or (1 / len(sources),) * len(sources) if sources else ()
    if len(sources) < 2 or len(shares) != len(sources) or not abs(sum(shares) - 1) < 1e-6:
        raise ConfigError(
            f"an average needs at least two files and as many shares with the sum 1, got {len(sources)} "
            f"files and shares {' '.join(f'{share:g}' for share in shares)}"
        )
    checkpoints = [read_checkpoint(source) for source in sources]
    first = checkpoints[0]
    name = recognize(first)
    config = fitting_config(name, first).calibrated(())
    for other in checkpoints[1:]:
        if fitting_config(name, other).calibrated(()) != config:
            raise CheckpointError(f"checkpoint {other.path} is of another model than {first.path}")
    mean = {key: _mean([each.tensors[key] for each in checkpoints], shares) for key in first.tensors}
    model = build(name, config, replace(first, tensors=mean))
    save_weights(model, target, metadata=_described(checkpoints, shares), dtype=dtype)
    return model


def _mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the weighted mean of tensors as float32; of whole numbers, such as counters, the first."""
    if not values[0].is_floating_point():
        return values[0]
    weighted = [share * value.double() for share, value in zip(shares, values, strict=True)]
    return torch.stack(weighted).sum(dim=0).float()


def _merged(checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the data of all files one after the other, and what their recipes have in common."""
    # What the mean of a mean was trained on may be told twice.
    data = dict.fromkeys(
        part for checkpoint in checkpoints for part in checkpoint.metadata.get("data", "").split("; ")
    )
    recipes = [told_recipe(each.path, each.metadata) for each in checkpoints]
    common = {
        name: value
        for name, value in recipes[0].items()
        if all(name in other and other[name] == value for other in recipes[1:])
    }
    merged = {"data": "" if "" in data else "; ".join(data), "recipe": json.dumps(common) if common else ""}
    return {name: value for name, value in merged.items() if value}


def _described(checkpoints: Sequence[Checkpoint], shares: Sequence[float]) -> dict[str, str]:
    """Return what all files say alike, and what each says besides."""
    said = [
        # The errors of a mean are its own: it is not calibrated.
        {key: value for key, value in checkpoint.described.items() if key != "calibrated_on"}
        for checkpoint in checkpoints
    ]
    alike = dict(set.intersection(*(set(one.items()) for one in said)))
    parts = [
        {
            "file": checkpoint.path.name,
            "sha256": file_sha256(checkpoint.path),
            "share": share,
            **unfolded(checkpoint.path, {key: value for key, value in one.items() if key not in alike}),
        }
        for checkpoint, share, one in zip(checkpoints, shares, said, strict=True)
    ]
    return {**alike, **_merged(checkpoints), "averaged": json.dumps(parts)}
