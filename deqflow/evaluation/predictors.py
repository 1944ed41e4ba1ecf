"""Methods under evaluation: a model on pairs, a model along sequences, and what to compare them with.

Each takes samples of one size and answers in their order. Frames are padded as in published evaluations
before the model sees them: KITTI at the bottom, everything else centered.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deqflow.data.datasets import PairDataset
from deqflow.data.sample import Sample
from deqflow.estimate import FlowEstimate
from deqflow.estimator import DEQFlow
from deqflow.evaluation.baselines import BASELINES
from deqflow.geometry import Padding
from deqflow.pair import PreparedPair
from deqflow.reuse import CarriedState, Matching
from deqflow.step import FlowState
from deqflow.stream import FlowStream, Start

PUBLISHED_MULTIPLE = 8
"""Published evaluations pad frames to multiples of it; models of coarser strides pad further themselves."""


@dataclass(frozen=True)
class Item:
    """A sample and where it comes from."""

    dataset: PairDataset
    sample: Sample

    @property
    def padding(self) -> Padding:
        """What the frames need around them."""
        height, width = self.sample.frame1.shape[:2]
        centered = self.dataset.convention.centered_padding
        return Padding.for_size(height, width, PUBLISHED_MULTIPLE, centered=centered)


class Prediction(NamedTuple):
    """What a method answers for a pair; the fields are those of ``SampleResult``."""

    flow: NDArray[np.float32]
    seconds: float
    steps: int | None = None
    cost: float | None = None
    converged: bool | None = None
    residual: float | None = None
    residual_peak: float | None = None
    reused: bool | None = None


class Predictor(Protocol):
    """A method under evaluation.

    Attributes:
        sequential: whether an answer depends on the pairs before.
    """

    sequential: ClassVar[bool]

    def __call__(self, items: Sequence[Item]) -> list[Prediction]:
        """Estimate the flow of each item; all are of one size and one padding."""


@dataclass(frozen=True)
class BaselinePredictor:
    """One of ``BASELINES``."""

    sequential: ClassVar[bool] = False
    name: str

    def __call__(self, items: Sequence[Item]) -> list[Prediction]:
        """See ``Predictor``."""
        return [self._predict(item.sample) for item in items]

    def _predict(self, sample: Sample) -> Prediction:
        start = time.perf_counter()
        flow = BASELINES[self.name](sample.frame1, sample.frame2)
        return Prediction(flow, time.perf_counter() - start)


@dataclass(frozen=True)
class PairPredictor:
    """A model on pairs that have nothing to do with each other, as a batch.

    Attributes:
        model: the estimator, which solves as it does by default.
    """

    sequential: ClassVar[bool] = False
    model: DEQFlow

    @torch.inference_mode()
    def __call__(self, items: Sequence[Item]) -> list[Prediction]:
        """See ``Predictor``."""
        start = time.perf_counter()
        first, second = (
            torch.from_numpy(np.stack([_padded(getattr(item.sample, name), item.padding) for item in items]))
            .to(self.model.device)
            .permute(0, 3, 1, 2)
            .float()
            for name in ("frame1", "frame2")
        )
        estimates = list(self.model(first, second))
        seconds = (time.perf_counter() - start) / len(items)
        return [
            _prediction(estimate, item.padding, seconds, reused=False)
            for estimate, item in zip(estimates, items, strict=True)
        ]


class FlowOnlyStream(FlowStream):
    """Warm start as RAFT does it: the last flow, splatted forward, starts the solve; hidden starts afresh.

    Teed and Deng, ECCV 2020, section 3.3.
    """

    def _start(self, pair: PreparedPair, carried: CarriedState, matching: Matching) -> Start:
        hidden = self.model.initial_state(pair.first, self.settings.reused_scale).hidden
        return Start(self.settings, FlowState(hidden, carried.state.flow))


class SequencePredictor:
    """A model along sequences: each solve starts from the pair before, and each frame is encoded once.

    Between sequences, and where pairs of one do not follow each other, it starts anew. Cuts are not looked
    for: the data set says where a sequence ends.
    """

    sequential: ClassVar[bool] = True

    def __init__(self, model: DEQFlow, *, flow_only: bool = False) -> None:
        """Start from the whole fixed point of the pair before, or as RAFT does from its ``flow_only``."""
        self.stream = (FlowOnlyStream if flow_only else FlowStream)(
            model,
            detect_cuts=False,
            solver=model.defaults.solver,  # only the starts are not those of pairs
        )
        self._expected: tuple[str, str, int, tuple[int, ...]] | None = None

    def __call__(self, items: Sequence[Item]) -> list[Prediction]:
        """See ``Predictor``; items follow each other in time."""
        return [self._predict(item) for item in items]

    def _predict(self, item: Item) -> Prediction:
        start = time.perf_counter()
        sample, padding = item.sample, item.padding
        place = (item.dataset.title, sample.sequence, sample.index, sample.frame1.shape)
        if place != self._expected:
            self.stream.reset()
            self.stream.push(_padded(sample.frame1, padding))
        estimate = self.stream.push(_padded(sample.frame2, padding))
        assert estimate is not None  # it is not the first frame
        self._expected = (*place[:2], sample.index + 1, sample.frame1.shape)
        return _prediction(estimate, padding, time.perf_counter() - start, reused=self.stream.reused)


def _prediction(estimate: FlowEstimate, padding: Padding, seconds: float, *, reused: bool) -> Prediction:
    """Answer with an estimate of padded frames."""
    height, width = estimate.flow.shape[:2]
    flow = estimate.flow[padding.top : height - padding.bottom, padding.left : width - padding.right]
    return Prediction(
        flow,
        seconds,
        estimate.steps,
        estimate.cost,
        estimate.converged,
        estimate.residual,
        estimate.residual_peak,
        reused,
    )


def _padded(frame: NDArray[np.uint8], padding: Padding) -> NDArray[np.uint8]:
    sides = ((padding.top, padding.bottom), (padding.left, padding.right), (0, 0))
    return np.pad(frame, sides, mode="edge")
