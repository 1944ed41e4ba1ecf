"""The model of a run, made ready for training."""

from pathlib import Path

import torch
from torch import nn

from deqflow.devices import resolve_precision
from deqflow.errors import ConfigError
from deqflow.estimator import DEQFlow
from deqflow.training.options import TrainOptions
from deqflow.zoo import PRESETS, create, restore, shipped_weights


def create_model(options: TrainOptions, device: torch.device) -> DEQFlow:
    """A preset with random weights or those of ``init``, on the device, in training mode.

    Raises:
        ConfigError: no such preset, or an option that the device does not know.
        CheckpointError: weights of another architecture.
    """
    if options.init is None:
        model = create(options.model)
    else:
        shipped = options.init in PRESETS
        model = restore(options.model, shipped_weights(options.init) if shipped else Path(options.init))
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


def freeze_batch_norm(model: nn.Module) -> None:
    """Batch normalisation by its running statistics, which stay as they are (Teed and Deng, RAFT, 2020)."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
