"""Weights as objects: a file, the model it is for, how it was trained and what was measured of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from deqflow.errors import CheckpointError
from deqflow.estimator import DEQFlow
from deqflow.zoo.checkpoints import file_sha256
from deqflow.zoo.loading import load, shipped_weights
from deqflow.zoo.presets import PRESETS


@dataclass(frozen=True)
class Weights:
    """A safetensors file of ours and what it says of itself.

    Attributes:
        path: of the file.
        model: the preset that it is for.
        metadata: everything that the file tells, as text: ``data``, ``steps``, ``hours``, ...
    """

    path: Path
    model: str
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, source: str | Path) -> "Weights":
        """Return the weights of a file, or those that ship with a preset; only the file's header is read.

        Args:
            source: a safetensors file, or the name of a preset.

        Raises:
            CheckpointError: no such file or preset with weights, or a file that does not say what it is.
        """
        path = shipped_weights(str(source)) if source in PRESETS else Path(source)
        if not path.is_file():
            raise CheckpointError(
                f"{source} is neither a file nor a model; `deqflow models` lists the models"
            )
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = dict(file.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"checkpoint {path} is not a readable safetensors file: {error}") from error
        if metadata.get("model") not in PRESETS:
            raise CheckpointError(
                f"checkpoint {path} is of the model {metadata.get('model')!r}, "
                f"expected one of {', '.join(PRESETS)}"
            )
        return cls(path, metadata["model"], metadata)

    @property
    def recipe(self) -> dict[str, Any]:
        """The options of the training run, by name; empty if it is not told."""
        return told_recipe(self.path, self.metadata)

    @property
    def averaged(self) -> list[dict[str, Any]]:
        """The files that these weights are the mean of, as `average` tells them; empty if of none."""
        return told_parts(self.path, self.metadata)

    @property
    def metrics(self) -> dict[str, Any]:
        """What is known of its errors: ``published`` of its architecture, ``measured`` of the file itself."""
        return _object(self.path, self.metadata, "metrics")

    @property
    def license(self) -> str:
        """License of the weights: what the file says, else that of its preset."""
        return self.metadata.get("license", PRESETS[self.model].license)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return file_sha256(self.path)

    def load(self, **options: Any) -> DEQFlow:
        """Return the model with these weights; ``options`` are those of `deqflow.load`."""
        return load(self.model, checkpoint=self.path, **options)


def told_recipe(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of training that a file tells, by name; raise CheckpointError for no JSON."""
    return _object(path, metadata, "recipe")


def told_parts(path: Path, metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what a file tells of those that it is the mean of; raise CheckpointError for no such list."""
    return _checked(path, _json(path, metadata, "averaged", "[]"))


def _checked(path: Path, parts: Any) -> list[dict[str, Any]]:
    whole = isinstance(parts, list) and all(
        isinstance(part, dict) and {"file", "sha256", "share"} <= part.keys() for part in parts
    )
    if not whole or not all(isinstance(part["share"], int | float) for part in parts):
        raise CheckpointError(f"checkpoint {path}: its averaged is no list of files and shares")
    return parts


def unfolded(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file or a part of its mean says, with JSON as what it holds, for other JSON to hold.

    As text inside text its escapes would double with every mean of means.

    Raises:
        CheckpointError: a recipe or a list of parts that is none.
    """
    found = dict(about)
    if isinstance(about.get("recipe"), str):
        found["recipe"] = told_recipe(path, about)
    if "averaged" in about:
        parts = told_parts(path, about) if isinstance(about["averaged"], str) else about["averaged"]
        found["averaged"] = [unfolded(path, part) for part in _checked(path, parts)]
    return found


def _json(path: Path, metadata: Mapping[str, str], key: str, default: str) -> Any:
    try:
        return json.loads(metadata.get(key, default))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path}: its {key} is no JSON: {error}") from error


def _object(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    value = _json(path, metadata, key, "{}")
    if not isinstance(value, dict):
        raise CheckpointError(f"checkpoint {path}: its {key} is no JSON object")
    return value
