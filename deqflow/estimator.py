"""The estimator: solve a pair of frames scale by scale, from tensors or from frames of any kind."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deqflow.config import REFERENCE_STRIDE, ModelConfig, SolveOptions, SolveSettings
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
from deqflow.errors import ConfigError
from deqflow.estimate import BatchEstimate, FlowEstimate
from deqflow.flow_network import FlowNetwork
from deqflow.given_start import GivenStart
from deqflow.io.frames import Batch, Frame, is_batch, to_rgb_batches, to_rgb_frames
from deqflow.io.images import ValueRange
from deqflow.network.sizes import require_choice
from deqflow.pair import PairSolution, PreparedPair
from deqflow.reuse import Matching
from deqflow.second_start import solve_again
from deqflow.step import FlowState, Movement, UpdateStep

FEWEST_CELLS = 10
"""Frames are not shrunk to a grid of fewer on the shorter side: little is left to match."""


class DEQFlow(FlowNetwork):
    """Deep-equilibrium optical flow (Bai et al., CVPR 2022): a network, and the solve of its fixed point.

    Args:
        config: sizes.
        defaults: how to solve unless told otherwise.
        name: what to call the model in messages and tables.
    """

    def __init__(
        self, config: ModelConfig, defaults: SolveSettings | None = None, *, name: str = "custom"
    ) -> None:
        super().__init__(config)
        self.name = name
        self.defaults = SolveSettings(scales=(config.stride,)) if defaults is None else defaults
        self._warned: set[str] = set()

    def settings(self, **options: Unpack[SolveOptions]) -> SolveSettings:
        """Return the model's defaults, but for what is given; raise ConfigError for what it cannot do."""
        strides = self.config.strides
        named = options.get("scales")
        if isinstance(named, str):
            require_choice("solve", "scales", named, ("all", "fast", "fine"))
            own = {scale for scale in (*self.defaults.scales, *strides) if scale >= strides[-1]}
            if named == "fast":
                own = {scale for scale in own if scale >= REFERENCE_STRIDE}
            options["scales"] = tuple(sorted(own, reverse=True))
        settings = self.defaults.changed(**options)
        if named == "fine":
            settings = settings.refined()
        ends = (*strides, strides[-1] // 2)
        for scale in settings.scales:
            if scale not in ends and scale % max(strides):
                known = ", ".join(map(str, ends))
                raise ConfigError(f"scale {scale}: {self.name} has {known} and multiples of the first")
        if settings.scales[-1] not in ends:
            known = " or ".join(map(str, ends))
            raise ConfigError(f"scales must end with {known}, not {settings.scales[-1]}")
        return settings

    def scales(self, image: Tensor, settings: SolveSettings) -> tuple[int, ...]:
        """Return the scales of a cold solve of padded frames; small frames leave out the coarsest."""
        side, coarsest = min(image.shape[2:]), max(self.config.strides)
        return tuple(scale for scale in settings.scales if scale <= coarsest or side // scale >= FEWEST_CELLS)

    @torch.no_grad()
    def solve(
        self,
        pair: PreparedPair,
        state: FlowState | None = None,
        settings: SolveSettings | None = None,
        *,
        trusted: Tensor | None = None,
        finer: Tensor | None = None,
    ) -> PairSolution:
        """Return the fixed point of a pair; each scale starts from the enlarged one of the scale before.

        A step at twice the stride costs a quarter and reaches twice as far, so that large motions are found
        sooner and more of them at all.

        Args:
            pair: from ``prepare``.
            state: where to start, of the size of one of the scales. Its flow is shrunk for the first of them:
                few steps at 1/4 do not leave the state of another motion (`SolveSettings.begun_at`). The
                hidden state starts with it where that scale is the first.
            settings: None means the model's defaults.
            trusted: (B, 1, H/s, W/s) bool, where to start from ``state`` at the scale of its size; elsewhere
                that starts as it does without, and what goes before it knows nothing of ``state``.
            finer: (B, 2, H/s, W/s) flow to start from at the finest scale, which is not that of ``state``,
                where the scale before agrees with it, see ``deqflow.given_start``; NaN where unknown.

        Raises:
            ConfigError: a state of another size.
        """
        return self._solve(pair, state, self.defaults if settings is None else settings, trusted, finer)[0]

    def _solve(
        self,
        pair: PreparedPair,
        start: FlowState | None,
        settings: SolveSettings,
        trusted: Tensor | None = None,
        finer: Tensor | None = None,
    ) -> tuple[PairSolution, UpdateStep]:
        """As ``solve``, and the operator of the finest scale, with a graph where grad mode is on."""
        scales = self.scales(pair.first.image, settings)
        pair = self.encoded_at(pair, scales)
        evaluations: dict[int, Tensor] = {}
        state, before, reusable, coarse, guide = None, 0, None, None, None
        given = None
        if start is not None:
            given = GivenStart.of(start, pair.first, scales, self.config.hidden, trusted, finer)
        for scale in scales:
            finest = scale == scales[-1]
            with torch.set_grad_enabled(finest and torch.is_grad_enabled()):
                operator = self.operator(pair, scale)
            twice = settings.second_start and given is None and state is not None
            matching = Matching.of(pair, scale) if twice and scale in self.config.strides[:-1] else None
            if finest:
                del pair  # what a caller does not keep is free while the largest grid is solved
            begin = operator.start
            if state is not None:
                if scale < self.config.stride:
                    gone = scales[: scales.index(scale)]
                    guide = self.guide_of(state, before, self._disagreement(gone, coarse, state.flow))
                height, width = begin.flow.shape[2:]
                begin = state.enlarged(before // scale, (height, width)).fitted(begin)
                coarse = begin.flow
            if given is not None:
                begin = given.at(scale, begin, finest=finest)
            stop = settings.stopping(Movement(scale), scale)
            with self._part("solve" if finest else "coarse solve"):
                solution = solve(operator, begin, settings.solver, stop)
                if matching is not None:
                    solution = solve_again(operator, solution, settings.solver, stop, matching, self.doubt)
            before, state, evaluations[scale] = scale, solution.state, solution.steps
            if scale == settings.reused_scale:
                reusable = solution
            if given is not None:
                given = given.after(scale, state)
            if not finest:
                del operator  # its correlation need not be there beside the next one
        disagreement = self._disagreement(scales, coarse, solution.state.flow)
        found = PairSolution(scales[-1], solution, reusable or solution, evaluations, guide, disagreement)
        return found, operator

    def _disagreement(self, scales: Sequence[int], coarse: Tensor | None, fine: Tensor) -> Tensor | None:
        """Compare flows (B, 2, H/s, W/s) of the last two scales, see ``PairSolution``."""
        if coarse is None:
            return None
        before, finest = scales[-2:]
        if before not in self.config.strides or finest > self.config.stride:
            return None
        return self.config.stride * (fine.detach() - coarse).abs().mean(dim=1, keepdim=True)

    def coarse_start(
        self,
        pair: PreparedPair,
        settings: SolveSettings | None = None,
        state: FlowState | None = None,
    ) -> FlowState | None:
        """Where a cold solve starts at the finest scale; None where that scale is the only one.

        Args:
            pair: from ``prepare``.
            settings: None means the model's defaults.
            state: where the solve of the coarser scales starts, of the size of the last of them.
        """
        settings = self.defaults if settings is None else settings
        *coarser, finest = self.scales(pair.first.image, settings)
        if not coarser:
            return None
        ratio = coarser[-1] // finest
        alone = replace(settings, scales=tuple(coarser), tolerance=settings.tolerance_at(coarser[-1]))
        found: FlowState = self.solve(pair, state, alone).finest.state
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
        """Return a solve at the finest scale of the defaults that goes on whatever happens, to be looked at.

        Args:
            pair: from ``prepare``.
            start: None means zero flow, and hidden as the encoder says.
            steps: rising; the states after so many evaluations are recorded, and every one is measured.
        """
        scale = self.defaults.scales[-1]
        operator = self.operator(self.encoded_at(pair, (scale,)), scale)
        stop = StoppingRule(steps=steps[-1], measure=Movement(scale), trace=True)
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
        for gradients; the flow is then that of the gradient's own evaluations, which go on from that point,
        and of small frames too the fixed point is that of the finest scale that the model is trained at.

        Args:
            image1: (B, 3, H, W) of 0..255, any size from 16x16.
            image2: (B, 3, H, W).
            state: where to start, as returned for frames of this size; its flow is shrunk for the first of
                the scales, and the hidden state used if it is of that scale.
            gradient: how the fixed point is differentiated; None means by one step (Bai et al., 2022).
            options: how to solve, see ``SolveOptions``.

        Raises:
            ImageError: frames of different or wrong shapes.
            ConfigError: an option outside its range, or a state of another size.
        """
        settings = self.settings(**options)
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        if not learns:
            settings = settings.on_stills(*image1.shape[-2:])
        self._warn_of_misuse(image1, image2, learns=learns)
        with torch.set_grad_enabled(learns):
            padding = self.padding(image1)
            # Not kept here: features are free once the correlation of the finest scale is made of them.
            solution, operator = self._solve(
                self.prepare(image1, image2, scales=settings.scales[-1:]), state, settings
            )
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
        return self._to_device(np.stack(to_rgb_frames([frame], [name], value_range)))

    def _to_device(self, frames: NDArray[np.uint8]) -> Tensor:
        """Return arrays (B, H, W, 3) as the frames (B, 3, H, W) that the network takes."""
        return torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).float()

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
            state: where to start, as returned for frames of this size; shrunk for the first of ``scales``.
            flow: where to start instead, (H, W, 2) in pixels (of batches, (B, H, W, 2)), such as another
                method's; hidden starts as the model says.
            value_range: of floating-point values; None decides for each pair: 0..1 or 0..255.
            options: how to solve, see ``SolveOptions``.

        Raises:
            ImageError: a frame that cannot be read, or two of different sizes.
            ConfigError: an option outside its range, or a state or flow of another size.
        """
        image1, image2 = map(self._to_device, to_rgb_batches(frame1, frame2, value_range))
        batched = is_batch(frame1)
        given = flow if batched or flow is None else flow[None]
        if given is not None:
            if state is not None:
                raise ConfigError("state and flow are two places to start from: expected one of them")
            state = self._state_of(image1, given, self.settings(**options).scales[-1])
        estimates = self(image1, image2, state, **options)
        return list(estimates) if batched else estimates[0]

    def _state_of(self, image: Tensor, flow: NDArray[np.floating], scale: int) -> FlowState:
        """Return the initial state of frames (B, 3, H, W) that holds a full-resolution flow (B, H, W, 2)."""
        wanted = (len(image), *image.shape[2:], 2)
        if flow.shape != wanted or not np.isfinite(flow).all():
            raise ConfigError(f"flow has shape {flow.shape}, expected {wanted} of finite values")
        padding = self.padding(image)
        full = padding.pad(torch.from_numpy(flow).to(image).permute(0, 3, 1, 2))
        start = self.initial_state(self.encode(padding.pad(image), (scale,)), scale)
        return FlowState(start.hidden, F.avg_pool2d(full, scale) / scale)
