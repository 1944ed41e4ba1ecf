"""The estimator: two frames in, the flow at the fixed point of the update operator out."""

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from deqflow.config import InferenceDefaults, ModelConfig
from deqflow.devices import autocast
from deqflow.equilibrium import (
    Correction,
    Gradient,
    Outcome,
    Solution,
    Solver,
    StoppingRule,
    Trajectory,
    solve,
)
from deqflow.errors import ConfigError, ImageError
from deqflow.geometry import Padding
from deqflow.io.images import read_image, to_rgb
from deqflow.network import CorrelationPyramid
from deqflow.step import STRIDE, FlowState, FrameFeatures, UpdateStep, movement

COARSEST_SIDE = 80
"""Frames are not halved to fewer pixels than this on the shorter side: little is left to match."""

Frame = str | PathLike[str] | NDArray[Any]


@dataclass(frozen=True)
class FlowEstimate:
    """Flow and how it was reached.

    Attributes:
        flow: u right and v down in pixels; float32 array (H, W, 2) from ``estimate``, tensor (B, 2, H, W)
            from ``forward``.
        state: the fixed point, to start the next frame's solve from.
        residual: how far the flow still moved in the last step, RMS over the frame in pixels. It bounds
            movement, not error.
        residual_peak: the 99.9th percentile of the same, which a small fast object shows up in.
        steps: evaluations of the update operator on frames of this size (those on halved frames come before).
        converged: whether the tolerance was met.
        outcome: how the solve ended, an ``Outcome``; after one that diverged the flow is that of the last
            finite state.
        trace: (N, B) residual after each step, NaN once a sample had stopped.
        uncertainty: mean absolute error of u and of v to expect in each pixel, as the model judges itself,
            pixels; array (H, W) from ``estimate``, tensor (B, H, W) from ``forward``; None from models that
            do not tell.
    """

    flow: Any
    state: FlowState
    residual: Any
    residual_peak: Any
    steps: Any
    converged: Any
    outcome: Any
    trace: Tensor
    uncertainty: Any = None


class DEQFlow(nn.Module):
    """Deep-equilibrium optical flow (Bai et al., CVPR 2022).

    Args:
        config: sizes.
        defaults: how to solve unless told otherwise.
        name: what to call the model in messages and tables.
    """

    def __init__(
        self, config: ModelConfig, defaults: InferenceDefaults | None = None, *, name: str = "custom"
    ) -> None:
        super().__init__()
        self.config, self.name = config, name
        self.defaults = defaults or InferenceDefaults()
        self.precision = torch.float32
        self.encoder = config.encoder.build(
            features=config.features, context=config.context, hidden=config.hidden
        )
        self.update = config.update.build(
            hidden=config.hidden, context=config.context, correlation=config.correlation
        )
        self.upsample = config.upsampling.build(hidden=config.hidden, factor=STRIDE)
        self.uncertainty = (
            None
            if config.uncertainty is None
            else config.uncertainty.build(hidden=config.hidden, factor=STRIDE)
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def encode(self, image: Tensor) -> FrameFeatures:
        """Encode frames (B, 3, H, W) of 0..255 whose sides are multiples of 8; on video, once per frame."""
        scaled = (image * (2 / 255) - 1).contiguous(memory_format=torch.channels_last)
        with autocast(image.device, self.precision):
            features, trunk = self.encoder(scaled)
        return FrameFeatures(features, trunk, image)

    def encode_pair(
        self, image1: Tensor, image2: Tensor, *, bidirectional: bool = False
    ) -> tuple[FrameFeatures, FrameFeatures]:
        """Encode the two frames of pairs together.

        Args:
            image1: (B, 3, H, W) as for ``encode``.
            image2: (B, 3, H, W).
            bidirectional: return 2B pairs, those from frame 2 to frame 1 after those from 1 to 2.
        """
        encoded = self.encode(torch.cat((image1, image2)))
        if bidirectional:
            return encoded, FrameFeatures(*(part.roll(len(image1), dims=0) for part in encoded))
        first, second = zip(*(part.chunk(2) for part in encoded), strict=True)
        return FrameFeatures(*first), FrameFeatures(*second)

    def operator(self, first: FrameFeatures, second: FrameFeatures) -> UpdateStep:
        """The update operator of a pair of encoded frames."""
        with autocast(first.features.device, self.precision):
            correlation = CorrelationPyramid(
                first.features, second.features, levels=self.config.levels, radius=self.config.radius
            )
            context, hidden = self.encoder.context(first.trunk)
            prepared = self.update.prepare(context)
        start = self._start(first, hidden)
        return UpdateStep(self.update, correlation, prepared, start, attach_flow=self.config.attach_flow)

    def initial_state(self, first: FrameFeatures) -> FlowState:
        """Where a solve starts without a better idea; the operator of a pair has the same as ``start``."""
        with autocast(first.features.device, self.precision):
            return self._start(first, self.encoder.context(first.trunk)[1])

    def _start(self, first: FrameFeatures, hidden: Tensor | None) -> FlowState:
        """Zero flow, and hidden as the encoder says or zero; float32 whatever the network's precision."""
        batch, _, height, width = first.features.shape
        if hidden is None:
            hidden = torch.zeros(batch, self.config.hidden, height, width, device=first.features.device)
        flow = torch.zeros(batch, 2, height, width, device=hidden.device)
        return FlowState(hidden.float().contiguous(memory_format=torch.channels_last), flow)

    def trajectory(
        self,
        image1: Tensor,
        image2: Tensor,
        *,
        correction: Correction,
        gradient: Gradient,
        solver: Solver,
        steps: int,
        coarse_levels: int = 0,
        start: FlowState | None = None,
        bidirectional: bool = False,
    ) -> Trajectory[FlowState]:
        """Points of the solve that losses can be taken on, each with a graph (training).

        Args:
            image1: (B, 3, H, W) of 0..255, sides multiples of 8.
            image2: (B, 3, H, W).
            correction: where along the path.
            gradient: how each point is differentiated.
            solver: where to evaluate next.
            steps: evaluations without a graph.
            coarse_levels: see ``coarse_start``, whose solves take the same steps; 0 starts from zeros.
            start: where to start instead, without a graph.
            bidirectional: see ``encode_pair``; the states are those of 2B pairs then.
        """
        if start is None:
            start = self.coarse_start(
                image1,
                image2,
                levels=coarse_levels,
                steps=steps,
                tolerance=0.0,
                solver=solver,
                bidirectional=bidirectional,
            )
        first, second = self.encode_pair(image1, image2, bidirectional=bidirectional)
        step = self.operator(first, second)
        with autocast(image1.device, self.precision):
            stop = StoppingRule(steps=steps, measure=movement)
            return correction.follow(step, start or step.start, solver, gradient, stop)

    @torch.no_grad()
    def coarse_start(
        self,
        image1: Tensor,
        image2: Tensor,
        *,
        levels: int | None = None,
        steps: int | None = None,
        tolerance: float | None = None,
        solver: Solver | None = None,
        bidirectional: bool = False,
    ) -> FlowState | None:
        """Where to start a pair of frames: at the fixed point of the same frames at half the size.

        A step there costs a quarter and reaches twice as far, so that large motions are found sooner and
        more of them at all.

        Args:
            image1: (B, 3, H, W) of 0..255, sides multiples of 8.
            image2: (B, 3, H, W).
            levels: how often to halve; None means the preset's. Small frames are halved less often.
            steps: see ``forward``, of each size.
            tolerance: see ``forward``, in pixels of each size.
            solver: see ``forward``.
            bidirectional: see ``encode_pair``; the state is that of 2B pairs then.

        Returns:
            The state, or None where nothing is halved.
        """
        levels = self.defaults.coarse_levels if levels is None else levels
        height, width = image1.shape[2:]
        if levels == 0 or min(height, width) < 2 * COARSEST_SIDE:
            return None
        # Padding at the far sides keeps the corners of both grids together.
        padding = Padding(right=-(width // 2) % STRIDE, bottom=-(height // 2) % STRIDE)
        half1, half2 = (padding.pad(F.avg_pool2d(image, 2)) for image in (image1, image2))
        how: Any = {"steps": steps, "tolerance": tolerance, "solver": solver}
        first, second = self.encode_pair(half1, half2, bidirectional=bidirectional)
        found: FlowState = self.solve_pair(first, second, coarse_levels=levels - 1, **how).state
        return found.doubled(height // STRIDE, width // STRIDE)

    def solve_pair(
        self,
        first: FrameFeatures,
        second: FrameFeatures,
        state: FlowState | None = None,
        *,
        steps: int | None = None,
        tolerance: float | None = None,
        solver: Solver | None = None,
        coarse_levels: int | None = None,
    ) -> Solution:
        """The fixed point of a pair of encoded frames; see ``forward``, and ``coarse_start`` for levels."""
        if state is None:
            how: Any = {"steps": steps, "tolerance": tolerance, "solver": solver}
            state = self.coarse_start(first.image, second.image, levels=coarse_levels, **how)
        step = self.operator(first, second)
        start = step.start
        if state is not None:
            if state.flow.shape != start.flow.shape or state.hidden.shape != start.hidden.shape:
                raise ConfigError(
                    f"state is for a flow of {tuple(state.flow.shape)}, "
                    f"these frames need {tuple(start.flow.shape)}"
                )
            start = FlowState(state.hidden.to(start.hidden), state.flow.to(start.flow))
        tolerance = self.defaults.tolerance if tolerance is None else tolerance
        steps = self.defaults.steps if steps is None else steps
        if steps < 1 or not tolerance >= 0:
            raise ConfigError(
                f"expected steps >= 1 and tolerance >= 0, got steps={steps} and tolerance={tolerance}"
            )
        hidden_tolerance = self.defaults.hidden_tolerance if tolerance > 0 else 0.0
        stop = StoppingRule(
            steps=steps, tolerance=(tolerance, float("inf"), hidden_tolerance), measure=movement
        )
        with autocast(first.features.device, self.precision):
            return solve(step, start, solver or self.defaults.solver, stop)

    @torch.no_grad()
    def forward(
        self,
        image1: Tensor,
        image2: Tensor,
        state: FlowState | None = None,
        *,
        steps: int | None = None,
        tolerance: float | None = None,
        solver: Solver | None = None,
    ) -> FlowEstimate:
        """Flow from frame 1 to frame 2, without a graph (``trajectory`` is for training).

        Args:
            image1: (B, 3, H, W) of 0..255, any size from 16x16.
            image2: (B, 3, H, W).
            state: where to start, as returned for frames of this size; None means as ``coarse_start`` says.
            steps: most evaluations; None means the preset's.
            tolerance: stop once the flow moves less than this, RMS in pixels per step; 0 runs all steps.
            solver: where to evaluate next; None means the preset's.

        Raises:
            ImageError: frames of different or wrong shapes.
            ConfigError: an option outside its range, or a state of another size.
        """
        if image1.shape != image2.shape:
            raise ImageError(f"frames have different shapes: {tuple(image1.shape)} and {tuple(image2.shape)}")
        padding = self.padding(image1)
        first, second = (self.encode(padding.pad(image.float())) for image in (image1, image2))
        solution = self.solve_pair(first, second, state, steps=steps, tolerance=tolerance, solver=solver)
        return self.decode(solution, padding)

    def padding(self, image: Tensor) -> Padding:
        """What a frame (B, 3, H, W) needs around it; raises ImageError for other shapes or below 16x16."""
        if image.dim() != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 16:
            raise ImageError(
                f"expected frames (B, 3, H, W) of at least 16x16 pixels, got {tuple(image.shape)}"
            )
        return Padding.for_size(image.shape[2], image.shape[3], STRIDE)

    def decode(self, solution: Solution, padding: Padding) -> FlowEstimate:
        """A solution as full-resolution flow, per sample."""
        state, uncertainty = solution.state, None
        with autocast(state.flow.device, self.precision):
            flow = padding.crop(self.upsample(state.hidden, state.flow))
            if self.uncertainty is not None:
                uncertainty = padding.crop(self.uncertainty(state.hidden).expected_error[:, 0])
        residual, peak, _ = solution.residual.unbind(dim=1)
        return FlowEstimate(
            flow,
            state,
            residual,
            peak,
            solution.steps,
            solution.converged,
            solution.outcome,
            trace=solution.trace,
            uncertainty=uncertainty,
        )

    def to_tensor(self, frame: Frame, name: str = "frame") -> Tensor:
        """A path or array (see ``deqflow.io.images.to_rgb``) as (1, 3, H, W) of 0..255 on the device."""
        rgb = to_rgb(frame, name) if isinstance(frame, np.ndarray) else read_image(frame)
        return (
            torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device).permute(2, 0, 1).unsqueeze(0).float()
        )

    def estimate(
        self,
        frame1: Frame,
        frame2: Frame,
        *,
        steps: int | None = None,
        tolerance: float | None = None,
        solver: Solver | None = None,
        state: FlowState | None = None,
    ) -> FlowEstimate:
        """Flow between two images, as an array.

        Args:
            frame1: path, or array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4), uint8, uint16 or float.
            frame2: the same size.
            steps: see ``forward``.
            tolerance: see ``forward``.
            solver: see ``forward``.
            state: see ``forward``.

        Returns:
            The estimate, with ``flow`` a float32 array (H, W, 2) and plain numbers for the rest.

        Raises:
            ImageError: a frame that cannot be read, or two of different sizes.
            ConfigError: an option outside its range, or a state of another size.
        """
        image1, image2 = self.to_tensor(frame1, "frame1"), self.to_tensor(frame2, "frame2")
        return single(self(image1, image2, state, steps=steps, tolerance=tolerance, solver=solver))


def single(estimate: FlowEstimate) -> FlowEstimate:
    """A batch of one as an array (H, W, 2) and plain numbers."""
    return replace(
        estimate,
        flow=estimate.flow[0].permute(1, 2, 0).contiguous().cpu().numpy(),
        residual=float(estimate.residual[0]),
        residual_peak=float(estimate.residual_peak[0]),
        steps=int(estimate.steps[0]),
        converged=bool(estimate.converged[0]),
        outcome=Outcome(int(estimate.outcome[0])),
        uncertainty=None if estimate.uncertainty is None else estimate.uncertainty[0].cpu().numpy(),
    )
