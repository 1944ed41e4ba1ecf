"""The estimator: prepare a pair of frames, solve it scale by scale, decode the fixed point."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.profiler import record_function

from deqflow.config import REFERENCE_STRIDE, ModelConfig, SolveOptions, SolveSettings
from deqflow.devices import autocast
from deqflow.equilibrium import (
    Correction,
    Gradient,
    OneStep,
    Solution,
    Solver,
    StoppingRule,
    Trajectory,
    solve,
)
from deqflow.errors import ConfigError, ImageError
from deqflow.estimate import BatchEstimate, FlowEstimate
from deqflow.geometry import Padding
from deqflow.io.frames import Batch, Frame, is_batch, to_rgb_frames
from deqflow.io.images import SMALLEST_SIDE, ValueRange
from deqflow.network import BilinearUpsampling, Mixture, build_correlation
from deqflow.network.correlation import AUTO
from deqflow.network.sizes import require_choice
from deqflow.pair import EncodedFrame, FrameFeatures, PairSolution, PreparedPair
from deqflow.step import FlowState, Movement, UpdateStep

COARSEST_SIDE = 80
"""Frames are not shrunk to fewer pixels than this on the shorter side: little is left to match."""


class DEQFlow(nn.Module):
    """Deep-equilibrium optical flow (Bai et al., CVPR 2022).

    Args:
        config: sizes.
        defaults: how to solve unless told otherwise.
        name: what to call the model in messages and tables.

    Attributes:
        precision: of convolutions and matrix products.
        correlation: a name of ``network.CORRELATIONS``, or ``auto``: by size and free memory.
    """

    def __init__(
        self, config: ModelConfig, defaults: SolveSettings | None = None, *, name: str = "custom"
    ) -> None:
        super().__init__()
        self.config, self.name = config, name
        self.defaults = SolveSettings(scales=(config.stride,)) if defaults is None else defaults
        self.precision, self.correlation = torch.float32, AUTO
        self._warned: set[str] = set()
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

    def settings(self, **options: Unpack[SolveOptions]) -> SolveSettings:
        """Return the model's defaults, but for what is given; raise ConfigError for what it cannot do."""
        strides = self.config.strides
        named = options.get("scales")
        if isinstance(named, str):
            require_choice("solve", "scales", named, ("all", "fast"))
            every = sorted({*self.defaults.scales, *strides}, reverse=True)
            options["scales"] = tuple(scale for scale in every if named == "all" or scale >= REFERENCE_STRIDE)
        settings = self.defaults.changed(**options)
        for scale in settings.scales:
            if scale not in strides and scale % max(strides):
                known = ", ".join(map(str, strides))
                raise ConfigError(f"scale {scale}: {self.name} has {known} and multiples of the first")
        if settings.scales[-1] not in strides:
            known = " or ".join(map(str, strides))
            raise ConfigError(f"scales must end with {known}, not {settings.scales[-1]}")
        return settings

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
            scales: to encode now, besides the model's own; ``solve`` encodes others when it needs them.
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
        """Encode padded frames (B, 3, H, W) of 0..255, at the model's strides and at ``scales``.

        At a scale beyond the model's strides it is shrunk frames that are encoded, without a graph: what is
        found there only says where to start. What is ``known`` already is not encoded again.
        """
        features = dict(known or {})
        if not features.keys() >= set(self.config.strides):
            features |= self._features(image)
        for scale in set(scales) - features.keys():
            with torch.no_grad():
                features[scale] = self._features(self._shrunk(image, scale))[max(self.config.strides)]
        return EncodedFrame(image, features)

    def _features(self, image: Tensor) -> dict[int, FrameFeatures]:
        scaled = (image * (2 / 255) - 1).contiguous(memory_format=torch.channels_last)
        with self._part("encode"):
            encoded = self.encoder(scaled)
        return {
            stride: FrameFeatures(*parts) for stride, parts in zip(self.config.strides, encoded, strict=True)
        }

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
        with self._part("correlation"):
            correlation = build_correlation(
                first.matching,
                second.matching,
                levels=self.config.levels,
                radius=self.config.radius,
                kind=self.correlation,
            )
        with self._part("context"):
            context, hidden = self.encoder.context(first.trunk, self._level(scale))
            prepared = self.update.prepare(context)
        start = self._start(first, hidden)
        return UpdateStep(self.update, correlation, prepared, start, attach_flow=attach_flow)

    def _level(self, scale: int) -> int:
        """Return the encoder's level for a scale; 0 is the coarsest, which shrunk frames have too."""
        return self.config.strides.index(min(scale, max(self.config.strides)))

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

    def scales(self, image: Tensor, settings: SolveSettings) -> tuple[int, ...]:
        """Return the scales of a cold solve of padded frames; small frames leave out the coarsest."""
        side = min(image.shape[2:])
        strides = self.config.strides
        return tuple(
            scale
            for scale in settings.scales
            if scale in strides or side // (scale // max(strides)) >= COARSEST_SIDE
        )

    @torch.no_grad()
    def solve(
        self,
        pair: PreparedPair,
        state: FlowState | None = None,
        settings: SolveSettings | None = None,
        *,
        trusted: Tensor | None = None,
    ) -> PairSolution:
        """Return the fixed point of a pair; each scale starts from the enlarged one of the scale before.

        A step at twice the stride costs a quarter and reaches twice as far, so that large motions are found
        sooner and more of them at all.

        Args:
            pair: from ``prepare``.
            state: where to start at the finest scale, which is then the only one.
            settings: None means the model's defaults.
            trusted: (B, 1, H/s, W/s) bool, where to start from ``state``; elsewhere the solve starts as a
                cold one does, and goes through every scale for it.

        Raises:
            ConfigError: a state of another size.
        """
        return self._solve(pair, state, self.defaults if settings is None else settings, trusted)[0]

    def _solve(
        self,
        pair: PreparedPair,
        given: FlowState | None,
        settings: SolveSettings,
        trusted: Tensor | None = None,
    ) -> tuple[PairSolution, UpdateStep]:
        """As ``solve``, and the operator of the finest scale, with a graph where grad mode is on."""
        cold = given is None or trusted is not None
        scales = self.scales(pair.first.image, settings) if cold else settings.scales[-1:]
        pair = replace(
            pair,
            first=self.encode(pair.first.image, scales, known=pair.first.features),
            second=self.encode(pair.second.image, scales, known=pair.second.features),
        )
        evaluations: dict[int, Tensor] = {}
        state, before = None, 0
        for scale in scales:
            finest = scale == scales[-1]
            with torch.set_grad_enabled(finest and torch.is_grad_enabled()):
                operator = self.operator(pair, scale)
            if finest:
                del pair  # what a caller does not keep is free while the largest grid is solved
            start = operator.start
            if state is not None:
                height, width = start.flow.shape[2:]
                start = _fitted(state.enlarged(before // scale, (height, width)), start)
            if finest and given is not None:
                fitted = _fitted(given, start)
                start = fitted if trusted is None else fitted.where(trusted, start)
            stop = settings.stopping(Movement(scale), scale)
            with self._part("solve" if finest else "coarse solve"):
                solution = solve(operator, start, settings.solver, stop)
            before, state, evaluations[scale] = scale, solution.state, solution.steps
            if not finest:
                del operator  # its correlation need not be there beside the next one
        return PairSolution(scales[-1], solution, evaluations), operator

    def coarse_start(self, pair: PreparedPair, settings: SolveSettings | None = None) -> FlowState | None:
        """Where a cold solve starts at the finest scale; None where that scale is the only one."""
        settings = self.defaults if settings is None else settings
        *coarser, finest = self.scales(pair.first.image, settings)
        if not coarser:
            return None
        ratio = coarser[-1] // finest
        alone = replace(settings, scales=tuple(coarser), tolerance=ratio * settings.tolerance)
        found: FlowState = self.solve(pair, settings=alone).finest.state
        height, width = (side // finest for side in pair.first.image.shape[2:])
        return found.enlarged(ratio, (height, width))

    def trajectory(
        self,
        pair: PreparedPair,
        start: FlowState | None = None,
        *,
        correction: Correction,
        gradient: Gradient,
        solver: Solver,
        steps: int,
        scale: int | None = None,
        attach_flow: bool = False,
    ) -> Trajectory[FlowState]:
        """Points of the solve at one scale that losses can be taken on, each with a graph (training).

        Args:
            pair: from ``prepare``.
            start: None means zero flow, and hidden as the encoder says.
            correction: where along the path.
            gradient: how each point is differentiated.
            solver: where to evaluate next.
            steps: evaluations without a graph.
            scale: one of the model's strides; None is the finest.
            attach_flow: see ``operator``.
        """
        scale = self.config.stride if scale is None else scale
        operator = self.operator(pair, scale, attach_flow=attach_flow)
        stop = StoppingRule(steps=steps, measure=Movement(scale))
        with self._part("solve"):
            return correction.follow(
                operator, operator.start if start is None else start, solver, gradient, stop
            )

    @torch.no_grad()
    def record(self, pair: PreparedPair, start: FlowState | None, steps: Sequence[int]) -> Solution:
        """Return a solve at the finest scale that goes on whatever happens, to be looked at.

        Args:
            pair: from ``prepare``.
            start: None means zero flow, and hidden as the encoder says.
            steps: rising; the states after so many evaluations are recorded, and every one is measured.
        """
        operator = self.operator(pair)
        stop = StoppingRule(steps=steps[-1], measure=Movement(self.config.stride), trace=True)
        with self._part("solve"):
            begin = operator.start if start is None else start
            return solve(operator, begin, self.defaults.solver, stop, record=steps)

    @torch.no_grad()
    def next_movement(self, pair: PreparedPair, state: FlowState) -> Tensor:
        """How far one more evaluation at the scale of a state moves its flow, (B, H, W) in pixels."""
        stride = pair.first.image.shape[2] // state.flow.shape[2]
        operator = self.operator(pair, stride)
        with self._part("solve"):
            moved = (operator(state).flow - state.flow).float().norm(dim=1, keepdim=True)
        return pair.padding.crop(F.interpolate(stride * moved, scale_factor=stride))[:, 0]

    def decode(self, solution: PairSolution, padding: Padding) -> BatchEstimate:
        """Return a solution as full-resolution flow, per sample."""
        found, uncertainty = solution.finest, None
        state: FlowState = found.state
        flow = padding.crop(self.flow_at(state, scale=solution.scale))
        if self.uncertainty is not None:
            with self._part("decode"):
                expected = self.uncertainty(state.hidden).expected_error
            if solution.scale > self.config.stride:
                expected = F.interpolate(expected, scale_factor=solution.scale / self.config.stride)
            uncertainty = padding.crop(expected[:, 0])
        residual, peak, _ = found.residual.unbind(dim=1)
        return BatchEstimate(
            flow=flow,
            uncertainty=uncertainty,
            state=state,
            residual=residual,
            residual_peak=peak,
            steps=found.steps,
            evaluations=solution.evaluations,
            outcome=found.outcome,
            trace=found.trace,
        )

    def flow_at(
        self, state: FlowState, positions: Tensor | None = None, *, scale: int | None = None
    ) -> Tensor:
        """Full-resolution flow of a state, (B, 2, H, W), or at some subpixel positions, (B, 2, K, H/s, W/s).

        Args:
            state: the fixed point, say.
            positions: (K,) see ``ConvexUpsampling.at_positions``; None means all, in their places.
            scale: stride of the state; None is the finest.
        """
        upsample: Any = self.upsample
        if scale is not None and scale != self.config.stride:
            upsample = self.coarse_upsample[str(scale)]
        with self._part("decode"):
            if positions is None:
                found: Tensor = upsample(state.hidden, state.flow)
            else:
                found = upsample.at_positions(state.hidden, state.flow, positions)
        return found

    def uncertainty_at(self, hidden: Tensor, positions: Tensor) -> Mixture:
        """Return the uncertainty head's output for hidden at some subpixel positions; the model has one."""
        assert self.uncertainty is not None
        with self._part("decode"):
            return self.uncertainty.at_positions(hidden, positions)

    def forward(
        self,
        image1: Tensor,
        image2: Tensor,
        state: FlowState | None = None,
        *,
        gradient: Gradient | None = None,
        **options: Unpack[SolveOptions],
    ) -> BatchEstimate:
        """Flow from frame 1 to frame 2.

        It carries a graph, from the fixed point to the parameters, where grad mode is on and parameters ask
        for gradients; the flow is then that of the gradient's own evaluations, which go on from that point.

        Args:
            image1: (B, 3, H, W) of 0..255, any size from 16x16.
            image2: (B, 3, H, W).
            state: where to start, as returned for frames of this size; None means scale by scale.
            gradient: how the fixed point is differentiated; None means by one step (Bai et al., 2022).
            options: how to solve, see ``SolveOptions``.

        Raises:
            ImageError: frames of different or wrong shapes.
            ConfigError: an option outside its range, or a state of another size.
        """
        settings = self.settings(**options)
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        self._warn_of_misuse(image1, image2, learns=learns)
        with torch.set_grad_enabled(learns):
            padding = self.padding(image1)
            solution, operator = self._solve(self.prepare(image1, image2), state, settings)
            if not learns:
                del operator  # its correlation is the largest thing there is
                return self.decode(solution, padding)
            with self._part("gradient"):
                attached = (gradient or OneStep()).attach(operator, solution.finest.state)
            found = replace(solution.finest, state=attached)
            estimate = self.decode(replace(solution, finest=found), padding)
            return replace(estimate, state=solution.finest.state)

    def _warn_of_misuse(self, image1: Tensor, image2: Tensor, *, learns: bool) -> None:
        """Say once what a training loop of one's own or frames of another range most likely did not mean."""
        if torch.compiler.is_compiling() or torch._C._is_tracing():
            return
        if self.training and torch.is_grad_enabled() and not learns and "frozen" not in self._warned:
            self._warned.add("frozen")
            warnings.warn(
                "the model is in training mode and none of its parameters asks for a gradient: "
                "load(..., trainable=True) leaves them trainable",
                stacklevel=4,
            )
        if "range" not in self._warned and all(
            bool(image.numel() and image.amin() < image.amax() <= 1) for image in (image1, image2)
        ):
            self._warned.add("range")
            warnings.warn("frames hold nothing above 1, expected values of 0..255", stacklevel=4)

    def to_tensor(self, frame: Frame, name: str = "frame", value_range: ValueRange | None = None) -> Tensor:
        """Return a frame of any kind (`deqflow.io.frames.Frame`) as (1, 3, H, W) of 0..255 on the device."""
        return self._stacked(to_rgb_frames([frame], [name], value_range))

    def _stacked(self, frames: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Frames of one size as (B, 3, H, W) on the device."""
        return torch.from_numpy(np.stack(frames)).to(self.device).permute(0, 3, 1, 2).float()

    @overload
    def estimate(
        self,
        frame1: Frame,
        frame2: Frame,
        *,
        state: FlowState | None = None,
        flow: NDArray[np.floating] | None = None,
        value_range: ValueRange | None = None,
        **options: Unpack[SolveOptions],
    ) -> FlowEstimate: ...

    @overload
    def estimate(
        self,
        frame1: Batch,
        frame2: Batch,
        *,
        state: FlowState | None = None,
        flow: NDArray[np.floating] | None = None,
        value_range: ValueRange | None = None,
        **options: Unpack[SolveOptions],
    ) -> list[FlowEstimate]: ...

    @torch.inference_mode()
    def estimate(
        self,
        frame1: Frame | Batch,
        frame2: Frame | Batch,
        *,
        state: FlowState | None = None,
        flow: NDArray[np.floating] | None = None,
        value_range: ValueRange | None = None,
        **options: Unpack[SolveOptions],
    ) -> FlowEstimate | list[FlowEstimate]:
        """Flow between two images, as an array; of two lists, the flow of each pair.

        Args:
            frame1: path, array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) of uint8, uint16 or floating
                point, tensor (3, H, W), or PIL image; or a list of them, or a tensor (B, 3, H, W), which are
                solved as a batch and need one size.
            frame2: the same size.
            state: where to start, as returned for frames of this size; None means scale by scale.
            flow: where to start instead, (H, W, 2) in pixels (of batches, (B, H, W, 2)), such as another
                method's; hidden starts as the model says.
            value_range: of floating-point values; None decides for each pair: 0..1 or 0..255.
            options: how to solve, see ``SolveOptions``.

        Raises:
            ImageError: a frame that cannot be read, or two of different sizes.
            ConfigError: an option outside its range, or a state or flow of another size.
        """
        batched = is_batch(frame1)
        both: tuple[Any, Any] = (frame1, frame2)
        firsts, seconds = (list(frames) if is_batch(frames) else [frames] for frames in both)
        if batched != is_batch(frame2) or not 0 < len(firsts) == len(seconds):
            raise ImageError("expected two frames, or as many first frames as second ones and at least one")
        given = flow if batched or flow is None else flow[None]
        pairs = [
            to_rgb_frames(pair, (f"frame1{of}", f"frame2{of}"), value_range)
            for index, pair in enumerate(zip(firsts, seconds, strict=True))
            for of in (f" of pair {index + 1}" if batched else "",)
        ]
        shapes = {frame.shape for pair in pairs for frame in pair}
        if len(shapes) > 1:
            raise ImageError(f"frames have different shapes: {' and '.join(map(str, sorted(shapes)))}")
        image1, image2 = (self._stacked(frames) for frames in zip(*pairs, strict=True))
        if given is not None:
            if state is not None:
                raise ConfigError("state and flow are two places to start from: expected one of them")
            state = self._state_of(image1, given)
        estimates = self(image1, image2, state, **options)
        return list(estimates) if batched else estimates[0]

    def _state_of(self, image: Tensor, flow: NDArray[np.floating]) -> FlowState:
        """Return the initial state of frames (B, 3, H, W) that holds a full-resolution flow (B, H, W, 2)."""
        wanted = (len(image), *image.shape[2:], 2)
        if flow.shape != wanted or not np.isfinite(flow).all():
            raise ConfigError(f"flow has shape {flow.shape}, expected {wanted} of finite values")
        padding = self.padding(image)
        full = padding.pad(torch.from_numpy(flow).to(image).permute(0, 3, 1, 2))
        stride = self.config.stride
        start = self.initial_state(self.encode(padding.pad(image)))
        return FlowState(start.hidden, F.avg_pool2d(full, stride) / stride)


def _fitted(state: FlowState, start: FlowState) -> FlowState:
    """Return a state as this solve wants it; raises ConfigError for one of another size."""
    if state.flow.shape != start.flow.shape or state.hidden.shape != start.hidden.shape:
        raise ConfigError(
            f"state is for a flow of {tuple(state.flow.shape)}, these frames need {tuple(start.flow.shape)}"
        )
    hidden, flow = state.hidden.to(start.hidden), state.flow.to(start.flow)
    if torch.is_grad_enabled() and (hidden.is_inference() or flow.is_inference()):
        hidden, flow = hidden.clone(), flow.clone()  # autograd takes no tensors of inference mode
    return FlowState(hidden, flow)
