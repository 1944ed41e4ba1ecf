"""A pair looked at closely: what more steps bring, how the solve settles, and whether other starts agree."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deqflow.estimate import FlowEstimate
from deqflow.estimator import DEQFlow
from deqflow.evaluation.metrics import end_point_error, measure_sample
from deqflow.evaluation.predictors import Item
from deqflow.step import FlowState

Map = NDArray[np.float64]


@dataclass(frozen=True)
class PairStudy:
    """One pair and how its solve behaves.

    Attributes:
        item: the pair.
        flow: the estimate, (H, W, 2) in pixels.
        error: its end-point error, (H, W) in pixels; NaN where the truth is not known.
        epe: mean of that, by the data set's definition.
        steps: evaluations it took.
        residual: how far the flow moved in the last of them, RMS in pixels.
        curve: EPE after so many steps, whatever the tolerance.
        trace: residual after each step of the same solve.
        disagreement: how far the flows from several starts lie apart, (H, W): root mean square distance from
            their mean in pixels.
        starts: how many starts.
        uncertainty: what the model says of its own error, (H, W) in pixels; None if it says nothing.
    """

    item: Item
    flow: NDArray[np.float32]
    error: Map
    epe: float
    steps: int
    residual: float
    curve: dict[int, float]
    trace: Map
    disagreement: Map
    starts: int
    uncertainty: NDArray[np.float32] | None = None

    @property
    def name(self) -> str:
        """The data set and the pair."""
        return f"{self.item.dataset.title} {self.item.sample.name}"

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where there is an error to speak of."""
        return np.isfinite(self.error)

    @property
    def mean_disagreement(self) -> float:
        """Over all pixels of the frame, so that no ground truth is needed."""
        return float(self.disagreement.mean())

    @property
    def correlation(self) -> float:
        """Rank correlation of disagreement and error over the pixels whose error is known."""
        return spearman(self.disagreement[self.known], self.error[self.known])

    @property
    def told(self) -> float:
        """The same of what the model says of its own error; NaN if it says nothing."""
        if self.uncertainty is None:
            return math.nan
        return spearman(self.uncertainty[self.known], self.error[self.known])


@torch.no_grad()
def study_pair(
    model: DEQFlow,
    item: Item,
    *,
    starts: int = 3,
    seed: int = 0,
) -> PairStudy:
    """Solve a pair in several ways.

    Args:
        model: the estimator, which solves as it does by default.
        item: a pair with ground truth.
        starts: how many starts are compared: the usual one, and states of noise.
        seed: of the noise.
    """
    sample, padding = item.sample, item.padding
    image1, image2 = (
        padding.pad(model.to_tensor(frame, name))
        for name, frame in (("frame1", sample.frame1), ("frame2", sample.frame2))
    )
    pair = model.prepare(image1, image2)
    padding = pair.padding + padding

    settings = model.defaults.on_stills(*image1.shape[-2:])

    def settle(state: FlowState | None) -> FlowEstimate:
        return model.decode(model.solve(pair, state, settings), padding)[0]

    found = settle(None)
    generator = torch.Generator(found.state.flow.device).manual_seed(seed)
    flows = [found.flow] + [settle(noise_like(found.state, generator)).flow for _ in range(starts - 1)]

    # Every step up to twice the usual number; all are measured, and none ends the solve.
    counts, scale = step_counts(model.defaults.steps), model.defaults.scales[-1]
    path = model.record(pair, model.coarse_start(pair), counts)
    on_the_way = (_array(padding.crop(model.flow_at(state, scale=scale))) for state in path.recorded)
    curve = {
        count: measure_sample(flow, sample)["all"].epe_image
        for count, flow in zip(counts, on_the_way, strict=True)
    }
    return PairStudy(
        item=item,
        flow=found.flow,
        error=np.where(sample.valid, end_point_error(found.flow, sample.flow), np.nan),
        epe=measure_sample(found.flow, sample)["all"].epe_image,
        steps=found.steps,
        residual=found.residual,
        curve=curve,
        trace=path.trace[:, 0].double().cpu().numpy(),
        disagreement=disagreement(flows),
        starts=starts,
        uncertainty=found.uncertainty,
    )


def _array(flow: torch.Tensor) -> NDArray[np.float32]:
    """Return flow (1, 2, H, W) as an array (H, W, 2)."""
    return flow[0].float().permute(1, 2, 0).cpu().numpy()


def noise_like(state: FlowState, generator: torch.Generator) -> FlowState:
    """Draw noise as large as a state: flow as long (at least a pixel of the grid), hidden as spread."""

    def noise(part: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(part.shape, generator=generator, device=part.device)
        return (drawn * size).to(part.dtype)

    length = state.flow.float().square().mean().sqrt().clamp_min(1.0)
    return FlowState(noise(state.hidden, state.hidden.float().std()), noise(state.flow, length))


def disagreement(flows: Sequence[NDArray[np.floating]]) -> Map:
    """Return the RMS distance of flows (H, W, 2) from their mean at each pixel, (H, W) in pixels."""
    stacked = np.stack(flows).astype(np.float64)
    return np.sqrt(np.square(stacked - stacked.mean(axis=0)).sum(axis=-1).mean(axis=0))


def step_counts(steps: int) -> list[int]:
    """Return powers of two below ``steps``, ``steps`` itself and its double."""
    return [2**power for power in range(steps.bit_length()) if 2**power < steps] + [steps, 2 * steps]


def spearman(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation of (N,) and (N,), ties at mean rank; NaN below three points."""
    if len(x) < 3:
        return math.nan
    a, b = (_ranks(values) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size else math.nan


def _ranks(values: NDArray[np.floating]) -> Map:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()]


def sparsification(
    error: NDArray[np.floating], uncertainty: NDArray[np.floating], shares: Iterable[float]
) -> Map:
    """Return the mean error of what is left without the most uncertain pixels, relative to that of all.

    Source: Ilg et al., Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow, ECCV 2018.

    Args:
        error: (N,) errors.
        uncertainty: (N,) what ranks them.
        shares: of the pixels to take away, each below 1.

    Returns:
        One number per share; 1 throughout if the uncertainty says nothing about the error.
    """
    ordered = error[np.argsort(uncertainty, kind="stable")].astype(np.float64)
    means = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    left = [max(1, round((1 - share) * len(ordered))) for share in shares]
    return np.array([means[count - 1] for count in left]) / (means[-1] or 1.0)
