"""A training run's state on disk: everything that a resumed run needs to go on as if it had not stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from deqflow.errors import CheckpointError
from deqflow.io.files import atomic_path

FORMAT = 1


def save_state(
    path: Path,
    *,
    step: int,
    model: nn.Module,
    average: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    seconds: float,
    options: Mapping[str, Any],
) -> None:
    """Write the whole state; the file is replaced at once, so a kill leaves the previous one or this one.

    ``step`` is also the sample index and the state of every draw: scenes, solver steps and pixels of a step
    are functions of (seed, step). The global generator is kept too, for modules that use it.
    """
    content = {
        "format": FORMAT,
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "seconds": seconds,
        "rng": torch.get_rng_state(),
        "options": json.dumps(dict(options), default=str),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def restore_state(
    path: Path, *, model: nn.Module, average: nn.Module, optimizer: Optimizer, schedule: LRScheduler
) -> tuple[int, float]:
    """Load what ``save_state`` wrote; returns (step, seconds trained).

    Raises:
        CheckpointError: not such a file, or of another architecture.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path} has training state format {content['format']}, expected {FORMAT}")
        model.load_state_dict(content["model"])
        average.load_state_dict(content["average"])
        optimizer.load_state_dict(content["optimizer"])
        schedule.load_state_dict(content["schedule"])
        torch.set_rng_state(content["rng"])
        return int(content["step"]), float(content["seconds"])
    except CheckpointError:
        raise
    except Exception as error:
        # A truncated or foreign file can fail in many ways inside torch.load; all mean the same to the user.
        raise CheckpointError(
            f"{path} is not a training state of this model: {error}".splitlines()[0]
        ) from error
