"""Models from presets and files of weights, and files from models."""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors.torch import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deqflow.config import ModelConfig, SolveOptions
from deqflow.devices import resolve_device, resolve_precision
from deqflow.errors import CheckpointError, ConfigError, DeqflowWarning
from deqflow.estimator import DEQFlow
from deqflow.io.files import replace_bytes
from deqflow.network import GatedStripConfig, GRUConfig
from deqflow.zoo.checkpoints import Checkpoint, read_checkpoint
from deqflow.zoo.presets import PRESETS, Preset


def preset(name: str) -> Preset:
    """Return a preset by its name; raises ConfigError for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"model {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def list_models() -> list[str]:
    """Return the names of all presets."""
    return list(PRESETS)


def create(name: str) -> DEQFlow:
    """Return a preset with fresh random weights; raises ConfigError for an unknown name."""
    found = preset(name)
    return DEQFlow(found.config, found.defaults, name=name)


class _LeaveUninitialized(TorchFunctionMode):
    """Random initialization does nothing: on the meta device it would cost a second of imports."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def skeleton(config: ModelConfig, name: str = "custom") -> DEQFlow:
    """Return a model whose tensors have shapes and no memory: to count, to compare, or to fill."""
    defaults = PRESETS[name].defaults if name in PRESETS else None
    with torch.device("meta"), _LeaveUninitialized():
        return DEQFlow(config, defaults, name=name)


def load(
    name: str = "deqflow-s",
    *,
    checkpoint: str | PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    trainable: bool = False,
    **options: Unpack[SolveOptions],
) -> DEQFlow:
    """Return a model ready to estimate: in evaluation mode, on its device.

    Args:
        name: a preset.
        checkpoint: its weights; None takes those that ship with the package. Ours are safetensors files;
            published ``.pth`` files of DEQ-Flow and RAFT serve as they are.
        device: ``auto`` (cuda, mps, cpu) or a device's name.
        precision: ``auto`` (the preset's: for most bfloat16 where fast, for published ones float32),
            ``float32``, ``bfloat16``, ``float16``.
        trainable: leave the parameters trainable; else they are frozen.
        options: how the model is solved unless told otherwise, in place of the preset's defaults.

    Raises:
        ConfigError: unknown model, device or precision, or an option outside its range.
        CheckpointError: no weights, or weights of another architecture; if a preset fits, it is named.
    """
    where = resolve_device(device)
    wanted = preset(name).precision if precision == "auto" else precision
    dtype = resolve_precision(wanted, where)
    model = restore(name, Path(checkpoint) if checkpoint is not None else shipped_weights(name))
    model.precision = dtype
    model.defaults = model.settings(**options)
    return model.to(where).eval().requires_grad_(trainable)


def load_each(
    name: str,
    checkpoints: Iterable[Path | None],
    *,
    device: str = "auto",
    precision: str = "auto",
    **options: Unpack[SolveOptions],
) -> dict[str, DEQFlow]:
    """Return a preset with one file of weights after the other, by the file's path; see `load`.

    Those that ship with the package, None, are called as the preset.
    """
    return {
        name if path is None else str(path): load(
            name, checkpoint=path, device=device, precision=precision, **options
        )
        for path in checkpoints
    }


def restore(name: str, path: Path) -> DEQFlow:
    """Return a preset with the weights of a file, on the CPU and trainable, as ``create`` would.

    Weight norm and the width of the flow head are those of the file, within what was published.

    Raises:
        ConfigError: unknown model.
        CheckpointError: see ``load``.
    """
    checkpoint = read_checkpoint(path)
    return build(name, fitting_config(name, checkpoint), checkpoint)


def build(name: str, config: ModelConfig, checkpoint: Checkpoint) -> DEQFlow:
    """Return a model of this configuration with these weights; the global random state is left alone."""
    model = skeleton(config, name)
    if config.strides != preset(name).config.strides:
        alike = matching_presets(checkpoint.tensors)
        own = PRESETS[alike[0]].defaults if alike else replace(model.defaults, scales=config.strides)
        model.defaults = own
    expected = model.state_dict()
    values = {
        key: value.detach().to(expected[key].dtype, copy=True).contiguous()
        for key, value in checkpoint.tensors.items()
    }
    model.load_state_dict(values, assign=True)
    return model


def fitting_config(name: str, checkpoint: Checkpoint) -> ModelConfig:
    """Return the configuration of ``name``, or of its variants, that a file's tensors fill exactly.

    A file of ours that describes another configuration is taken at its word, with a warning.

    Raises:
        CheckpointError: none; the message names the preset that would.
    """
    usual = preset(name).config
    config = described_config(checkpoint) or variant(usual, checkpoint.tensors)
    ours = isinstance(config.update, GatedStripConfig) and isinstance(usual.update, GatedStripConfig)
    if ours and family(config) != family(usual):
        warnings.warn(
            f"{checkpoint.path.name} describes another configuration than {name} has, and is loaded as that",
            DeqflowWarning,
            stacklevel=3,
        )
    if ours or family(config) == family(usual):
        wrong = misfits(config, checkpoint.tensors)
        if not wrong:
            return config
        reason = f"{len(wrong)} tensors are missing, unknown or of another shape, first {wrong[0]!r}"
    else:
        reason = "it describes a model of other sizes"
    others = matching_presets(checkpoint.tensors)
    if others:
        reason = f"it fits {' and '.join(others)}"
    raise CheckpointError(f"checkpoint {checkpoint.path} is not for {name}: {reason}")


def described_config(checkpoint: Checkpoint) -> ModelConfig | None:
    """Return what a file of ours says of its model; None for others."""
    if "config" not in checkpoint.metadata:
        return None
    try:
        return ModelConfig.from_dict(json.loads(checkpoint.metadata["config"]))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {checkpoint.path} describes no model of ours: {error}") from error


def variant(config: ModelConfig, tensors: Mapping[str, Tensor]) -> ModelConfig:
    """Return the configuration with weight norm, flow head and uncertainty head as in ``tensors``.

    Checkpoints of 2022 have flow heads of 256 channels, or of 256 at most, whatever the other widths.
    """
    if not any(key.startswith("uncertainty.") for key in tensors):
        config = replace(config, uncertainty=None)
    if not isinstance(config.update, GRUConfig):
        return config
    update = config.update
    head = tensors.get("update.flow_head.0.weight", torch.empty(update.head)).shape[:1]
    width = head[0] if head and head[0] in (256, min(256, 2 * update.motion)) else update.head
    weight_norm = any(key.startswith("update.") and key.endswith(".gain") for key in tensors)
    return replace(config, update=replace(update, head=width, weight_norm=weight_norm))


def family(config: ModelConfig) -> ModelConfig:
    """Return the configuration without what varies between checkpoints of one preset."""
    config = replace(config, uncertainty=None)
    if isinstance(config.update, GRUConfig):
        return replace(config, update=replace(config.update, head=1, weight_norm=False))
    return replace(config, update=replace(config.update, minimum_gate=0.0))


def misfits(config: ModelConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are missing, unknown or of another shape, in order."""
    expected = skeleton(config).state_dict()
    different = {key for key in expected.keys() & tensors if expected[key].shape != tensors[key].shape}
    return sorted((expected.keys() ^ tensors.keys()) | different)


def matching_presets(tensors: Mapping[str, Tensor]) -> list[str]:
    """Presets, with their variants, that tensors fill exactly."""
    return [name for name, known in PRESETS.items() if not misfits(variant(known.config, tensors), tensors)]


def shipped_weights(name: str) -> Path:
    """Return the file of a preset's own weights, in the installed package or beside it in a checkout.

    Raises:
        ConfigError: there is no such preset.
        CheckpointError: no weights of it come with the package.
    """
    preset(name)  # an unknown one has none
    package = Path(str(resources.files("deqflow")))
    for folder in (package / "weights", package.parent / "weights"):
        path = folder / f"{name}.safetensors"
        if path.is_file():
            return path
    raise CheckpointError(f"no weights for {name!r} come with this package; expected a checkpoint argument")


def load_weights(model: DEQFlow, path: Path) -> dict[str, str]:
    """Put a file's weights into ``model`` as it is and return the file's metadata.

    Raises:
        CheckpointError: not a file of weights, or tensors that are missing, unknown or of other shapes.
    """
    checkpoint = read_checkpoint(path)
    wrong = misfits(model.config, checkpoint.tensors)
    if wrong:
        raise CheckpointError(
            f"checkpoint {path} is not for {model.name}: {len(wrong)} tensors are missing, unknown or "
            f"of another shape, first {wrong[0]!r}"
        )
    model.load_state_dict(dict(checkpoint.tensors))
    return dict(checkpoint.metadata)


def save_weights(
    model: DEQFlow,
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model's weights atomically, with its name and configuration in the metadata."""
    tensors = {}
    for key, value in model.state_dict().items():
        number = dtype if value.is_floating_point() else value.dtype
        tensors[key] = value.detach().cpu().to(number).contiguous()
    described = {"model": model.name, "config": json.dumps(model.config.to_dict()), **(metadata or {})}
    replace_bytes(path, save(tensors, metadata=described))
