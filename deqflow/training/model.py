"""The model of a run, made ready for training."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from deqflow.config import ModelConfig
from deqflow.devices import resolve_precision
from deqflow.errors import ConfigError
from deqflow.estimator import DEQFlow
from deqflow.network import GatedStripConfig
from deqflow.training.options import TrainOptions
from deqflow.zoo import PRESETS, file_sha256, read_checkpoint, shipped_weights
from deqflow.zoo.loading import build, fitting_config, preset


def create_model(options: TrainOptions, device: torch.device) -> DEQFlow:
    """A preset with random weights or those of ``init``, on the device, in training mode.

    Raises:
        ConfigError: no such preset, or an option that the device does not know.
        CheckpointError: weights of another architecture.
    """
    initial = _initial_weights(options)
    if initial is None:
        found = preset(options.model)
        model = DEQFlow(trained_config(found.config, options), found.defaults, name=options.model)
    else:
        checkpoint = read_checkpoint(initial)
        config = fitting_config(options.model, checkpoint)
        model = build(options.model, trained_config(config, options), checkpoint)
    model.precision = resolve_precision(options.precision, device)
    if options.sync_batch_norm:
        if device.type != "cuda":
            raise ConfigError(f"sync_batch_norm needs CUDA devices, this run is on {device.type}")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device).train()
    if options.freeze_batch_norm:
        freeze_batch_norm(model)
    if options.compile:
        for part in (model.encoder, model.update, model.upsample, model.uncertainty):
            if part is not None:
                part.compile()
    return model


def trained_config(config: ModelConfig, options: TrainOptions) -> ModelConfig:
    """Return the configuration with what the options change of it, all of it without parameters.

    Raises:
        ConfigError: ``minimum_gate`` outside its range, or for a model without such a gate.
    """
    if options.minimum_gate is None:
        return config
    if not isinstance(config.update, GatedStripConfig):
        raise ConfigError(f"minimum_gate needs a model with gated strips, {options.model} has none")
    return replace(config, update=replace(config.update, minimum_gate=options.minimum_gate))


def origin(options: TrainOptions) -> str:
    """What a run starts from, for the record: random weights, or a file and what it says of itself.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = _initial_weights(options)
    if path is None:
        return "random weights"
    about = read_checkpoint(path).metadata
    known = [f"{about[name]} {name}" for name in ("steps", "hours") if name in about]
    before = [f"from {about['started_from']}"] if "started_from" in about else []
    return f"{path.name} ({', '.join([f'SHA-256 {file_sha256(path)}', *known, *before])})"


def _initial_weights(options: TrainOptions) -> Path | None:
    if options.init is None:
        return None
    return shipped_weights(options.init) if options.init in PRESETS else Path(options.init)


def freeze_batch_norm(model: nn.Module) -> None:
    """Batch normalisation by its running statistics, which stay as they are (Teed and Deng, RAFT, 2020)."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
