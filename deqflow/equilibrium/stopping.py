"""When a sample is done, and how it ended."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

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
class StoppingRule:
    """When a sample is done, and which of its states is the answer.

    Attributes:
        steps: most evaluations of the operator, at least 1.
        tolerance: a sample stops when every column of its residual is at most this; one number or one per
            column. 0 runs all steps and measures nothing on the way.
        minimum: fewest evaluations before a sample may stop, or before its state may be the best.
        measure: ``measure(new, old)`` -> (B, K), how far one evaluation moved each sample.
        keep: the ``last`` state is the answer, or the ``best``: that with the smallest first column of the
            residual, which costs one more state and a measurement per evaluation.
    """

    steps: int
    tolerance: float | tuple[float, ...] = 0.0
    minimum: int = 2
    measure: Measure = relative_change
    keep: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not min(self._tolerances()) >= 0:
            raise ValueError(f"tolerance must not be negative, not {self.tolerance}")
        if self.keep not in ("last", "best"):
            raise ValueError(f"keep must be 'last' or 'best', not {self.keep!r}")

    def _tolerances(self) -> tuple[float, ...]:
        return self.tolerance if isinstance(self.tolerance, tuple) else (self.tolerance,)

    @property
    def watches(self) -> bool:
        """Whether residuals can end the solve at all."""
        return min(self._tolerances()) > 0

    @property
    def measures(self) -> bool:
        """Whether every evaluation is measured, and not the last one only."""
        return self.watches or self.keep == "best"

    def satisfied(self, residual: Tensor) -> Tensor:
        """Which samples (B,) are within tolerance, from residuals (B, K)."""
        return (residual <= residual.new_tensor(self._tolerances())).all(dim=1)
