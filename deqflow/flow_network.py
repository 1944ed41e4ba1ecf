"""The network of the estimator: it encodes frames, makes a pair's update operator and decodes a solution."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from deqflow.config import ModelConfig
from deqflow.devices import autocast
from deqflow.errors import ImageError
from deqflow.estimate import BatchEstimate
from deqflow.geometry import Padding, enlarged, within
from deqflow.io.images import SMALLEST_SIDE
from deqflow.network import BilinearUpsampling, Mixture, build_correlation
from deqflow.network.correlation import AUTO
from deqflow.pair import EncodedFrame, FrameFeatures, Guide, PairSolution, PreparedPair
from deqflow.step import FlowState, UpdateStep

FARTHEST_REFINEMENT = 1.0
"""Pixels that enlarged frames may move a flow: far motion is found by scales that were trained to."""


def refined_error(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return the expected error, pixels, of a flow that enlarged frames refined, from before and after.

    Their geometric mean tells most of errors below a pixel. Larger ones they cannot mend, so that what they
    say of them counts the less, the larger they were expected to be.
    """
    share = 0.5 / (coarse / FARTHEST_REFINEMENT).clamp_min(1)
    return coarse ** (1 - share) * fine**share


class FlowNetwork(nn.Module):
    """Everything learned, and what surrounds a solve: encoded frames before it, its operator, flow after it.

    How the operator's fixed point is found is the estimator's business (``deqflow.DEQFlow``).

    Args:
        config: sizes.

    Attributes:
        precision: of convolutions and matrix products.
        correlation: a name of ``network.CORRELATIONS``, or ``auto``: by size and free memory.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.precision, self.correlation = torch.float32, AUTO
        self.encoder = config.encoder.build(
            features=config.features, context=config.context, hidden=config.hidden
        )
        self.update = config.update.build(
            hidden=config.hidden, context=config.context, correlation=config.correlation
        )
        self.upsample = config.upsampling.build(hidden=config.hidden, factor=config.stride)
        self.coarse_upsample = nn.ModuleDict(
            # Beyond an eighth a convex combination would have a hundred weights a pixel.
            {
                str(stride): config.upsampling.build(hidden=config.hidden, factor=stride)
                if stride <= 8
                else BilinearUpsampling(factor=stride)
                for stride in config.strides[:-1]
            }
        )
        self.uncertainty = (
            None
            if config.uncertainty is None
            else config.uncertainty.build(hidden=config.hidden, factor=config.stride)
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @contextlib.contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Run a part of the estimator in the model's precision, by name in the profiler."""
        if getattr(torch.compiler, "is_exporting", bool)():  # to runtimes that know neither
            yield
            return
        with record_function(name), autocast(self.device, self.precision):
            yield

    def padding(self, image: Tensor) -> Padding:
        """Return the padding of a frame (B, 3, H, W); raise ImageError for other shapes or below 16x16."""
        if image.dim() != 4 or image.shape[1] != 3 or min(image.shape[2:]) < SMALLEST_SIDE:
            raise ImageError(
                f"expected frames (B, 3, H, W) of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, "
                f"got {tuple(image.shape)}"
            )
        return Padding.for_size(image.shape[2], image.shape[3], max(self.config.strides))

    def prepare(
        self, image1: Tensor, image2: Tensor, *, scales: tuple[int, ...] = (), bidirectional: bool = False
    ) -> PreparedPair:
        """Pad and encode pairs of frames.

        Args:
            image1: (B, 3, H, W) of 0..255, any size from 16x16.
            image2: (B, 3, H, W).
            scales: to encode now, see ``encode``; ``solve`` encodes others when it needs them.
            bidirectional: prepare 2B pairs, those from frame 2 to frame 1 after those from 1 to 2.

        Raises:
            ImageError: frames of different or wrong shapes.
        """
        if image1.shape != image2.shape:
            raise ImageError(f"frames have different shapes: {tuple(image1.shape)} and {tuple(image2.shape)}")
        padding = self.padding(image1)
        images = [padding.pad(image.float()) for image in (image1, image2)]
        if not bidirectional and not torch.is_grad_enabled():
            # One after the other: half the peak memory, and a batch would not be faster.
            first, second = (self.encode(image, scales) for image in images)
        else:
            encoded = self.encode(torch.cat(images), scales)
            first, second = (encoded, encoded.rolled(len(image1))) if bidirectional else encoded.halves()
        return PreparedPair(first, second, padding)

    def encode(
        self,
        image: Tensor,
        scales: tuple[int, ...] = (),
        *,
        known: Mapping[int, FrameFeatures] | None = None,
    ) -> EncodedFrame:
        """Encode padded frames (B, 3, H, W) of 0..255 at ``scales``; without any, at the model's strides.

        At a scale beyond the model's strides it is shrunk frames that are encoded, without a graph: what is
        found there only says where to start. At one finer it is enlarged frames. What is ``known`` already
        is not encoded again.
        """
        features, strides = dict(known or {}), self.config.strides
        own = [stride for stride in strides if stride >= min(scales, default=0)]
        if not features.keys() >= set(own):
            features |= self._features(image, own)
        for scale in set(scales) - features.keys():
            if scale < strides[-1]:
                larger = enlarged(image, strides[-1] // scale)
                features |= {scale: self._features(larger, strides)[strides[-1]]}
                continue
            with torch.no_grad():
                features |= {scale: self._features(self._shrunk(image, scale), strides[:1])[strides[0]]}
        return EncodedFrame(image, features)

    def encoded_at(self, pair: PreparedPair, scales: tuple[int, ...]) -> PreparedPair:
        """Return a pair whose frames are encoded at ``scales`` too, see ``encode``."""
        first, second = (
            self.encode(frame.image, scales, known=frame.features) for frame in (pair.first, pair.second)
        )
        return replace(pair, first=first, second=second)

    def _features(self, image: Tensor, strides: Sequence[int]) -> dict[int, FrameFeatures]:
        """Encode frames at so many of the model's strides, coarse to fine."""
        scaled = (image * (2 / 255) - 1).contiguous(memory_format=torch.channels_last)
        with self._part("encode"):
            # Only a pyramid has levels to leave out, and takes their number.
            some = () if len(strides) == len(self.config.strides) else (len(strides),)
            encoded = self.encoder(scaled, *some)
        return {stride: FrameFeatures(*parts) for stride, parts in zip(strides, encoded, strict=True)}

    def _shrunk(self, image: Tensor, scale: int) -> Tensor:
        """Frames as small as the coarsest stride needs to stand for ``scale``, padded."""
        coarsest = max(self.config.strides)
        small = F.avg_pool2d(image, scale // coarsest)
        # Padding at the far sides keeps the corners of both grids together.
        return Padding(right=-small.shape[3] % coarsest, bottom=-small.shape[2] % coarsest).pad(small)

    def operator(
        self, pair: PreparedPair, scale: int | None = None, *, attach_flow: bool = False
    ) -> UpdateStep:
        """Return the update operator of a pair at a scale it is encoded at (None: the finest).

        Everything that is constant over a solve is computed here: correlation, and the context's share.
        With ``attach_flow`` gradients pass through the incoming flow of a step, not only through hidden.
        """
        scale = self.config.stride if scale is None else scale
        first, second = pair.first.features[scale], pair.second.features[scale]
        with self._part("context"):
            context, hidden = self.encoder.context(first.trunk, self._level(scale))
            prepared = self.update.prepare(context)
            del context  # and the correlation, which stays, comes after it: less is there at once
        with self._part("correlation"):
            correlation = build_correlation(
                first.matching,
                second.matching,
                levels=self.config.levels,
                radius=self.config.radius,
                kind=self.correlation,
            )
        start = self._start(first, hidden)
        return UpdateStep(self.update, correlation, prepared, start, attach_flow=attach_flow)

    def _level(self, scale: int) -> int:
        """Return the encoder's level for a scale: shrunk frames have the coarsest, enlarged the finest."""
        strides = self.config.strides
        return strides.index(max(min(scale, strides[0]), strides[-1]))

    def initial_state(self, frame: EncodedFrame, scale: int | None = None) -> FlowState:
        """Where a solve at a scale (None: the finest) starts without a better idea, with this first frame."""
        scale = self.config.stride if scale is None else scale
        features = frame.features[scale]
        with self._part("context"):
            return self._start(features, self.encoder.context(features.trunk, self._level(scale))[1])

    def _start(self, first: FrameFeatures, hidden: Tensor | None) -> FlowState:
        """Zero flow, and hidden as the encoder says or zero; float32 whatever the network's precision."""
        batch, _, height, width = first.matching.shape
        if hidden is None:
            hidden = torch.zeros(batch, self.config.hidden, height, width, device=first.matching.device)
        flow = torch.zeros(batch, 2, height, width, device=hidden.device)
        return FlowState(hidden.float().contiguous(memory_format=torch.channels_last), flow)

    def flow_at(
        self, state: FlowState, positions: Tensor | None = None, *, scale: int | None = None
    ) -> Tensor:
        """Full-resolution flow of a state, (B, 2, H, W), or at some subpixel positions, (B, 2, K, H/s, W/s).

        Args:
            state: the fixed point, say.
            positions: (K,) see ``ConvexUpsampling.at_positions``; None means all, in their places.
            scale: stride of the state, one of the model's if there are positions; None is the finest.
        """
        scale, stride = scale or self.config.stride, self.config.stride
        upsample: Any = self.upsample if scale <= stride else self.coarse_upsample[str(scale)]
        with self._part("decode"):
            if positions is not None:
                at_positions: Tensor = upsample.at_positions(state.hidden, state.flow, positions)
                return at_positions
            found: Tensor = upsample(state.hidden, state.flow)
        return found if scale >= stride else F.avg_pool2d(found, stride // scale) * (scale / stride)

    def uncertainty_at(self, hidden: Tensor, positions: Tensor) -> Mixture:
        """Return the uncertainty head's output for hidden at some subpixel positions; the model has one."""
        assert self.uncertainty is not None
        with self._part("decode"):
            return self.uncertainty.at_positions(hidden, positions)

    def expected_error_at(
        self, state: FlowState, scale: int, disagreement: Tensor | None = None
    ) -> Tensor | None:
        """Calibrated error to expect of a component of the flow of a state, (B, 1, H, W) pixels.

        Args:
            state: the fixed point, say.
            scale: its stride.
            disagreement: see ``PairSolution``.

        Returns:
            None where the model does not tell.
        """
        if self.uncertainty is None:
            return None
        with self._part("decode"):
            expected = self.uncertainty.expected_error(state.hidden, disagreement)
        ratio = scale / self.config.stride
        if ratio > 1:
            return F.interpolate(expected, scale_factor=ratio)
        return expected if ratio == 1 else ratio * F.avg_pool2d(expected, round(1 / ratio))

    @torch.no_grad()
    def guide_of(self, state: FlowState, scale: int, disagreement: Tensor | None) -> Guide:
        """Return what a state tells, for enlarged frames to refine; see ``expected_error_at``."""
        return Guide(self.flow_at(state, scale=scale), self.expected_error_at(state, scale, disagreement))

    def doubt(self, state: FlowState) -> Tensor | None:
        """Return what the head, if there is one, tells of the errors in a state's cells, (B, 1, H/s, W/s).

        It is not calibrated, and in pixels of frames whose finest grid this is: for comparisons at one scale.
        """
        if self.uncertainty is None:
            return None
        return F.avg_pool2d(self.uncertainty(state.hidden).expected_error, self.config.stride)

    def decode(self, solution: PairSolution, padding: Padding) -> BatchEstimate:
        """Return a solution as full-resolution flow, per sample."""
        found, guide = solution.finest, solution.guide
        state: FlowState = found.state
        flow = self.flow_at(state, scale=solution.scale)
        expected = self.expected_error_at(state, solution.scale, solution.disagreement)
        if guide is not None:
            flow = within(flow, guide.flow, FARTHEST_REFINEMENT)
            if expected is not None and guide.expected_error is not None:
                expected = refined_error(guide.expected_error, expected)
        residual, peak, _ = found.residual.unbind(dim=1)
        return BatchEstimate(
            flow=padding.crop(flow),
            uncertainty=None if expected is None else padding.crop(expected[:, 0]),
            state=state,
            residual=residual,
            residual_peak=peak,
            steps=found.steps,
            evaluations=solution.evaluations,
            outcome=found.outcome,
            trace=found.trace,
        )
