"""What a run would take, from two frames that go through one step of it."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deqflow.memory import SavedBytes
from deqflow.processes import Processes
from deqflow.training.batch import StepRandomness, collate
from deqflow.training.optimizer import Optimizer
from deqflow.training.options import TrainOptions, error_name
from deqflow.training.sources import Sources


def describe(
    options: TrainOptions,
    processes: Processes,
    sources: Sources,
    model: nn.Module,
    objective: Callable[..., Any],
    optimizer: Optimizer,
) -> str:
    """Do one step with two frames and say what was counted; the model is not what it was afterwards.

    Counted are multiplications and additions of convolutions and matrix products, and the bytes that the
    backward pass keeps; neither depends on the machine.
    """
    share = options.batch // processes.count
    parameters = sum(parameter.numel() for parameter in model.parameters())
    batch = collate([sources.training[0]]).to(processes.device)
    randomness = StepRandomness(
        torch.arange(options.subpixel_positions, device=processes.device),
        options.solver_steps[1],
        coarse_start=options.coarse_start_probability > 0,
        probe=0 if options.jacobian_weight > 0 else None,
    )
    kept = SavedBytes(model)
    started = time.monotonic()
    optimizer.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as counted:
        with kept.counting():
            loss, metrics = objective(batch, randomness)
        pair = kept.total / options.ways / 2**30
        loss.backward()
    optimizer.step()
    seconds = time.monotonic() - started
    # Weights, averaged weights, gradients and the optimiser's two moments.
    fixed = 5 * 4 * parameters / 2**30
    at_once = share // options.accumulate
    operations = counted.get_total_flops() / options.ways
    epochs = "no pair comes twice"
    if sources.epoch is not None:
        epochs = (
            f"{sources.epoch} pairs, {-(-sources.epoch // options.batch)} steps per epoch, "
            f"{options.steps * options.batch / sources.epoch:.2f} epochs"
        )
    size = f"{options.width}x{options.height}"
    error = error_name(options.stage)
    lines = {
        "stage": f"{options.stage}, {options.steps} steps of {options.batch} pairs of {size}",
        "data": "; ".join(filter(None, (sources.summary, sources.textures))),
        "pairs": f"{epochs}; {sources.held_out_pairs} to validate on",
        "model": f"{options.model}, {parameters:,} parameters",
        "memory": f"{fixed:.2f} GiB for weights and optimiser, {at_once * pair:.2f} GiB for the graph of "
        f"{at_once} pairs ({pair:.2f} each), in each of {processes.count} processes",
        "operations": f"{operations / 1e12:.3f} TFLOP per pair, forward and backward; "
        f"{operations * options.steps * options.batch / 1e18:.3f} EFLOP for the stage",
        "one step": f"loss {float(loss.detach()):.3f}, {error} {float(getattr(metrics, error)):.2f}, "
        f"{seconds:.1f} s for two frames",
    }
    return "\n".join(f"{name:10}  {text}" for name, text in lines.items())
