"""What a run would take, found out by one step of it."""

from typing import TYPE_CHECKING

from deqflow.memory import step_cost
from deqflow.training.data import collate
from deqflow.training.starts import StepRandomness

if TYPE_CHECKING:
    from deqflow.training.trainer import Trainer


def rehearse(trainer: "Trainer") -> None:
    """Do one step with two frames and say what the run would take; nothing is written."""
    options, processes, sources = trainer.options, trainer.processes, trainer.sources
    batch = collate([sources.training[0]]).to(processes.device)
    randomness = StepRandomness.longest(options, processes.device)
    cost, loss, metrics = step_cost(trainer.model, lambda: trainer.objective(batch, randomness))
    trainer.optimizer.step()
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    # Weights, averaged weights, gradients and the optimizer's two moments.
    fixed, pair = 5 * 4 * parameters / 2**30, cost.kept / options.ways / 2**30
    at_once = options.batch // processes.count // options.accumulate
    operations, pairs = cost.operations / options.ways, options.train_steps * options.batch
    epochs = "no pair comes twice"
    if sources.epoch is not None:
        per_epoch = -(-sources.epoch // options.batch)
        epochs = f"{sources.epoch} pairs, {per_epoch} steps per epoch, {pairs / sources.epoch:.2f} epochs"
    error, value = options.error_name, float(getattr(metrics, options.error_name))
    lines = {
        "stage": f"{options.stage}, {options.train_steps} steps of {options.batch} pairs of "
        f"{options.width}x{options.height}",
        "data": "; ".join(filter(None, (sources.summary, sources.textures))),
        "pairs": f"{epochs}; {sum(kind.count for kind in sources.held_out)} to validate on",
        "model": f"{options.model}, {parameters:,} parameters",
        "memory": f"{fixed:.2f} GiB for weights and optimizer, {at_once * pair:.2f} GiB for the graph of "
        f"{at_once} pairs ({pair:.2f} each), in each of {processes.count} processes",
        "operations": f"{operations / 1e12:.3f} TFLOP per pair, forward and backward; "
        f"{operations * pairs / 1e18:.3f} EFLOP for the stage",
        "one step": f"loss {float(loss):.3f}, {error} {value:.2f}, {cost.seconds:.1f} s for two frames",
    }
    if processes.first:
        print("\n".join(f"{name:10}  {text}" for name, text in lines.items()))
