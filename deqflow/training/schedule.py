"""The learning rate as a function of the step, so that there is nothing of it to save or resume."""

from deqflow.training.options import Stage

EXTRA_STEPS = 100
"""The published schedule goes on for so many steps after the last one."""


def learning_rate(stage: Stage, step: int) -> float:
    """The rate of a step, counted from 0."""
    shape = one_cycle if stage.schedule == "one-cycle" else linear
    return stage.learning_rate * shape(step, stage.steps, stage.warmup)


def linear(step: int, steps: int, warmup: float) -> float:
    """Share of the peak: up from nearly nothing, then down to zero at ``steps``."""
    rise = max(1.0, warmup * steps)
    return min((step + 1) / rise, max(0.0, (steps - step) / max(1.0, steps - rise)))


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Share of the peak: from 1/25 up, then down to 4e-6, ``EXTRA_STEPS`` after the last step.

    The same numbers as ``torch.optim.lr_scheduler.OneCycleLR`` with ``anneal_strategy="linear"``, which the
    published code uses. Source: Smith and Topin, Super-Convergence, 2018.
    """
    first, last = 1 / 25, 1 / 25 * 1e-4
    total = steps + EXTRA_STEPS
    peak = max(warmup * total - 1, 1e-9)
    if step <= peak:
        return first + (1 - first) * step / peak
    return 1 + (last - 1) * (step - peak) / (total - 1 - peak)
