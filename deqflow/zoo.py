"""Named presets, and weights in and out of safetensors files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from deqflow.config import InferenceDefaults, ModelConfig
from deqflow.devices import resolve_device, resolve_precision
from deqflow.errors import CheckpointError, ConfigError
from deqflow.estimator import DEQFlow
from deqflow.io.files import replace_bytes


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named model: its sizes, how it is solved, and a line about it."""

    summary: str
    config: ModelConfig = field(default_factory=ModelConfig)
    defaults: InferenceDefaults = field(default_factory=InferenceDefaults)


PRESETS: Mapping[str, Preset] = {
    "deqflow-s": Preset(summary="small, for machines without a GPU; its weights ship with the package"),
}


def create(name: str) -> DEQFlow:
    """A preset with fresh random weights; raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"model {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    return DEQFlow(preset.config, preset.defaults, name=name)


def load(
    name: str = "deqflow-s",
    *,
    checkpoint: str | PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> DEQFlow:
    """A model ready to estimate: in evaluation mode, on its device.

    Args:
        name: a preset.
        checkpoint: a safetensors file of its weights; None takes the weights that ship with the package.
        device: ``auto`` (cuda, mps, cpu) or a device's name.
        precision: ``auto`` (bfloat16 where fast, else float32), ``float32``, ``bfloat16``, ``float16``.

    Raises:
        ConfigError: unknown model, device or precision.
        CheckpointError: no weights, or weights of another architecture.
    """
    where = resolve_device(device)
    model = create(name)
    model.precision = resolve_precision(model.defaults.precision if precision == "auto" else precision, where)
    load_weights(model, Path(checkpoint) if checkpoint is not None else shipped_weights(name))
    return model.to(where).eval().requires_grad_(False)


def shipped_weights(name: str) -> Path:
    """The file of a preset's own weights, in the installed package or beside it in a checkout."""
    package = Path(str(resources.files("deqflow")))
    for folder in (package / "weights", package.parent / "weights"):
        path = folder / f"{name}.safetensors"
        if path.is_file():
            return path
    raise CheckpointError(f"no weights for {name!r} come with this package; expected a checkpoint argument")


def load_weights(model: DEQFlow, path: Path) -> dict[str, str]:
    """Put a file's weights into ``model`` and return the file's metadata.

    Raises:
        CheckpointError: not a safetensors file, or tensors that are missing, unknown or of other shapes.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} is not a readable safetensors file: {error}") from error
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys())
    wrong += [key for key in expected.keys() & tensors.keys() if expected[key].shape != tensors[key].shape]
    if wrong:
        raise CheckpointError(
            f"checkpoint {path} is not for {model.name}: {len(wrong)} tensors are missing, unknown or "
            f"of another shape, first {wrong[0]!r}"
        )
    model.load_state_dict({key: value.to(expected[key].dtype) for key, value in tensors.items()})
    return metadata


def save_weights(
    model: DEQFlow,
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model's weights atomically, with its name and configuration in the metadata."""
    tensors = {key: value.detach().cpu().to(dtype).contiguous() for key, value in model.state_dict().items()}
    described = {"model": model.name, "config": json.dumps(asdict(model.config)), **(metadata or {})}
    replace_bytes(path, save(tensors, metadata=described))
