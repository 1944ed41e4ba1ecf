"""What inference returns: the flow of a pair or of a batch of pairs, and how it was reached."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deqflow.config import REFERENCE_STRIDE
from deqflow.equilibrium import Outcome
from deqflow.io.flow_files import write_flow
from deqflow.step import FlowState
from deqflow.visualize import flow_to_image


def cost_of(evaluations: Mapping[int, int]) -> float:
    """Return evaluations by stride in those of the 1/8 grid: at 1/16 one counts 0.25, at 1/4 it counts 4."""
    return sum(count * (REFERENCE_STRIDE / stride) ** 2 for stride, count in evaluations.items())


@dataclass(frozen=True, kw_only=True)
class FlowEstimate:
    """Flow of one pair of frames and how it was reached.

    Attributes:
        flow: float32 (H, W, 2), u right and v down in pixels.
        uncertainty: float32 (H, W), mean absolute error of u and of v to expect in each pixel, as the model
            judges itself, pixels; None from models that do not tell.
        state: the fixed point, tensors of a batch of one, to start the next frame's solve from.
        residual: how far the flow still moved in the last step, RMS over the frame in pixels. It bounds
            movement, not error.
        residual_peak: the 99.9th percentile of the same, which a small fast object shows up in.
        steps: evaluations of the update operator at the finest scale.
        evaluations: of the update operator at every scale, by stride.
        outcome: how the solve ended; after one that diverged the flow is that of the last finite state.
        trace: (N,) residual after each step that was measured.
    """

    flow: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None
    state: FlowState
    residual: float
    residual_peak: float
    steps: int
    evaluations: Mapping[int, int]
    outcome: Outcome
    trace: NDArray[np.float32]

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met."""
        return self.outcome is Outcome.CONVERGED

    def save(self, path: str | PathLike[str]) -> None:
        """Write the flow to a file of the format that the suffix names, see ``deqflow.write_flow``."""
        write_flow(path, self.flow)

    def to_image(self, max_flow: float | None = None) -> NDArray[np.uint8]:
        """Return the flow in the usual color wheel, uint8 RGB (H, W, 3).

        Args:
            max_flow: length in pixels at full saturation; None means the largest of this flow.
        """
        return flow_to_image(self.flow, max_flow, clip=max_flow is not None)

    @property
    def cost(self) -> float:
        """All evaluations, in evaluations of the 1/8 grid."""
        return cost_of(self.evaluations)


@dataclass(frozen=True, kw_only=True)
class BatchEstimate:
    """Flow of B pairs as tensors, every field per sample; ``batch[i]`` is the ``FlowEstimate`` of one.

    Attributes:
        flow: (B, 2, H, W), u right and v down in pixels.
        uncertainty: (B, H, W), see ``FlowEstimate``; None from models that do not tell.
        state: the fixed points, to start the next frames' solves from.
        residual: (B,) RMS movement of the flow in the last step, pixels.
        residual_peak: (B,) the 99.9th percentile of the same.
        steps: (B,) evaluations of the update operator at the finest scale.
        evaluations: (B,) at every scale, by stride.
        outcome: (B,) how each solve ended, an ``Outcome``.
        trace: (N, B) residual after each step that was measured, NaN once a sample had stopped.
    """

    flow: Tensor
    uncertainty: Tensor | None
    state: FlowState
    residual: Tensor
    residual_peak: Tensor
    steps: Tensor
    evaluations: Mapping[int, Tensor]
    outcome: Tensor
    trace: Tensor

    @property
    def converged(self) -> Tensor:
        """(B,) whether the tolerance was met."""
        return self.outcome == Outcome.CONVERGED

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.flow)

    def __iter__(self) -> Iterator[FlowEstimate]:
        """Each pair, as arrays and plain numbers."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> FlowEstimate:
        """One pair, as arrays and plain numbers."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of a batch of {len(self)}")
        index %= len(self)
        trace = self.trace[:, index].cpu().numpy()
        one = slice(index, index + 1)
        return FlowEstimate(
            flow=self.flow[index].detach().permute(1, 2, 0).contiguous().cpu().numpy(),
            uncertainty=None if self.uncertainty is None else self.uncertainty[index].detach().cpu().numpy(),
            state=FlowState(self.state.hidden[one], self.state.flow[one]),
            residual=float(self.residual[index]),
            residual_peak=float(self.residual_peak[index]),
            steps=int(self.steps[index]),
            evaluations={stride: int(counts[index]) for stride, counts in self.evaluations.items()},
            outcome=Outcome(int(self.outcome[index])),
            trace=trace[np.isfinite(trace)],
        )
