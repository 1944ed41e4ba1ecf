"""When a sample is done, and how it ended."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from deqflow.equilibrium.state import relative_change

Measure = Callable[[Any, Any], Tensor]


class Outcome(IntEnum):
    """How the solve of a sample ended: the values of ``Solution.outcome``."""

    CONVERGED = 0
    """Within tolerance."""
    OUT_OF_STEPS = 1
    """All evaluations used; with a tolerance of 0 that is the plan, not a failure."""
    DIVERGED = 2
    """An evaluation gave NaN or infinity; the state is the last finite one."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which of a sample's states is the answer, whatever the solver goes on to evaluate.

    An evaluation's state is accepted while its residual is below that of the last accepted state plus
    ``slack``. What does not accept every state costs one more state and a measurement per evaluation.

    Attributes:
        slack: infinite accepts every state, so that the last is the answer; 0 keeps the best.
        first: evaluation (from 1) before which nothing is accepted.
        measure: of the residual, its first column decides; None is the stopping rule's own.
    """

    slack: float = math.inf
    first: int = 1
    measure: Measure | None = None

    def __post_init__(self) -> None:
        if not self.slack >= 0:
            raise ValueError(f"slack must be 0 or more, not {self.slack}")

    @property
    def everything(self) -> bool:
        """Whether every state is accepted."""
        return self.slack == math.inf

    def judged(self, mapped: Any, state: Any, moved: Tensor) -> Tensor:
        """Return the residual (B,) of an evaluation that the stopping rule finds ``moved`` (B, K)."""
        if self.measure is None:
            return moved[:, 0]
        judged = self.measure(mapped, state)[:, 0]
        return torch.where(moved[:, 0].isfinite(), judged, torch.inf)


LAST = Keep()
"""The last state is the answer."""

BEST = Keep(slack=0.0, first=2)
"""The state with the smallest residual is the answer."""


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """When a sample is done, and which of its states is the answer.

    Attributes:
        steps: most evaluations of the operator, at least 1.
        tolerance: a sample stops when every column of its residual is at most this; one number or one per
            column. 0 runs all steps and measures nothing on the way.
        minimum: fewest evaluations before a sample may stop.
        measure: ``measure(new, old)`` -> (B, K), how far one evaluation moved each sample.
        keep: which state is the answer.
        trace: measure every evaluation, also where nothing depends on it.
    """

    steps: int
    tolerance: float | tuple[float, ...] = 0.0
    minimum: int = 2
    measure: Measure = relative_change
    keep: Keep = LAST
    trace: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not min(self._tolerances()) >= 0:
            raise ValueError(f"tolerance must not be negative, not {self.tolerance}")

    def _tolerances(self) -> tuple[float, ...]:
        return self.tolerance if isinstance(self.tolerance, tuple) else (self.tolerance,)

    @property
    def watches(self) -> bool:
        """Whether residuals can end the solve at all."""
        return min(self._tolerances()) > 0

    @property
    def measures(self) -> bool:
        """Whether every evaluation is measured, and not the last one only."""
        return self.trace or self.watches or not self.keep.everything

    def satisfied(self, residual: Tensor) -> Tensor:
        """Which samples (B,) are within tolerance, from residuals (B, K)."""
        return (residual <= residual.new_tensor(self._tolerances())).all(dim=1)
