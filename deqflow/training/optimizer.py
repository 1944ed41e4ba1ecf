"""The optimizers of a run, their learning rate and the average of what they reach."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from deqflow.training.options import TrainOptions

LEAST_SIDE = 8
"""Matrices with fewer rows or columns than this are left to AdamW: little of them can be made orthogonal."""


def create_optimizer(model: nn.Module, options: TrainOptions) -> "torch.optim.Optimizer | MuonAdamW":
    """Create AdamW, or Muon with AdamW for what is not a matrix; the same rate serves both."""
    if options.optimizer == "muon":
        return MuonAdamW(model.parameters(), options.learning_rate, options.weight_decay)
    return torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)


NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""Coefficients of x, x^3 and x^5 in a step that drives singular values towards 1 (Jordan et al., 2024)."""


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Return a matrix of the same singular vectors whose singular values are all near 1, between 0.6 and 1.3.

    Newton-Schulz iterations, in the precision of the matrix. Singular values below some 1/1000 of the largest
    stay smaller.
    """
    linear, cubic, quintic = NEWTON_SCHULZ
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), wide, beta=linear)
    return wide.T if len(matrix) > matrix.shape[1] else wide


class Muon(torch.optim.Optimizer):
    """Momentum whose changes of a matrix are made orthogonal, as large as those of AdamW; for matrices alone.

    As ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``, whose states it goes on from, but in the
    precision of the matrices: its bfloat16 takes processors without such products fourteen times as long, a
    second and more of every training step.

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; the size of changes:
    Liu et al., Muon is Scalable for LLM Training, 2025, sec. 2.2.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here evaluates a loss
        """Change the matrices that have a gradient, with Nesterov's momentum."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                change = orthogonal(matrix.grad.lerp(average, momentum))
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.sub_(change, alpha=rate * 0.2 * max(matrix.shape) ** 0.5)


class MuonAdamW:
    """Muon on filters, as matrices of a row per output channel, and AdamW on all the rest.

    Args:
        parameters: of a model on its device: filters must stay where they are in memory.
        rate: see ``torch.optim.AdamW``.
        weight_decay: see ``torch.optim.AdamW``.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, weight_decay: float) -> None:
        self.filters: list[nn.Parameter] = []
        self.matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in parameters:
            if parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= LEAST_SIDE:
                self.filters.append(parameter)
                # The same memory seen as a matrix.
                matrix = parameter.data.permute(_memory_order(parameter)).view(len(parameter), -1)
                self.matrices.append(nn.Parameter(matrix))
            else:
                others.append(parameter)
        self.muon = Muon(self.matrices, lr=rate, weight_decay=weight_decay)
        self.adamw = torch.optim.AdamW(others, lr=rate, weight_decay=weight_decay)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Settings by group of parameters, to be changed in place."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in chain(self.filters, self.matrices):
            parameter.grad = None
        self.adamw.zero_grad(set_to_none=set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters."""
        for parameter, matrix in zip(self.filters, self.matrices, strict=True):
            if parameter.grad is not None:
                matrix.grad = parameter.grad.permute(_memory_order(parameter)).reshape(matrix.shape)
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` takes."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """Dimensions in the order that makes the tensor contiguous: channels-last filters have theirs last."""
    return tuple(range(tensor.ndim)) if tensor.is_contiguous() else (0, 2, 3, 1)


EXTRA_STEPS = 100
"""The published schedule goes on for so many steps after the last one."""


def learning_rate(options: TrainOptions, step: float, seconds: float = 0.0) -> float:
    """Return the rate of a step, counted from 0: a function, so that there is nothing of it to save.

    Args:
        options: of the run.
        step: done so far.
        seconds: trained so far. By the clock, the schedule is as far as the further of the two.
    """
    shape = one_cycle if options.schedule == "one-cycle" else linear
    if options.schedule_by == "clock":
        share = min(1.0, seconds / (60 * options.max_minutes))
        step = max(step, share * options.train_steps)
    return options.learning_rate * shape(step, options.train_steps, options.warmup)


def linear(step: float, steps: int, warmup: float) -> float:
    """Return a share of the peak: up from nearly nothing, then down to zero at ``steps``."""
    rise = max(1.0, warmup * steps)
    return min((step + 1) / rise, max(0.0, (steps - step) / max(1.0, steps - rise)))


def one_cycle(step: float, steps: int, warmup: float) -> float:
    """Return a share of the peak: from 1/25 up, then down to 4e-6, ``EXTRA_STEPS`` after the last step.

    The same numbers as ``torch.optim.lr_scheduler.OneCycleLR`` with ``anneal_strategy="linear"``, which the
    published code uses. Source: Smith and Topin, Super-Convergence, 2018.
    """
    first, last = 1 / 25, 1 / 25 * 1e-4
    total = steps + EXTRA_STEPS
    peak = max(warmup * total - 1, 1e-9)
    if step <= peak:
        return first + (1 - first) * step / peak
    return 1 + (last - 1) * (step - peak) / (total - 1 - peak)


def averaging(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Return the update of an exponential moving average whose memory grows with the run.

    The random start is soon forgotten so.
    """

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(list(average), list(current), 1 - now)

    return update
