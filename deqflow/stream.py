"""Flow between frames as they come: each solve starts from the last fixed point where that can be trusted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Unpack, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqflow.config import SolveOptions, SolveSettings
from deqflow.equilibrium import Outcome
from deqflow.errors import ConfigError, VideoError
from deqflow.estimate import FlowEstimate, cost_of
from deqflow.estimator import DEQFlow
from deqflow.geometry import occlusion
from deqflow.io.frames import Frame, to_array
from deqflow.io.images import ValueRange, value_range_of
from deqflow.pair import EncodedFrame, PreparedPair
from deqflow.reuse import (
    CHECK_COST,
    LONG,
    LOST,
    LOST_BEFORE_FINER,
    MOST_AFRESH,
    UNMATCHED,
    UNSETTLED,
    CarriedState,
    Matching,
    blocks,
    carried_flow,
    nearly_equal,
)
from deqflow.step import FlowState

Direction = Literal["forward", "backward"]
"""In time: from a frame to the next, or from that back."""

_CARRIED = ("hidden", "flow", "found", "distance")
"""The names of the tensors of a carried state in `FlowStream.state_dict`; where there is one, "finer" too."""


class Start(NamedTuple):
    """How a pair of a stream is solved.

    Attributes:
        settings: with the scales that the solve goes through.
        state: where it starts, of the reused scale's size; None starts cold.
        trusted: (1, 1, H/s, W/s) bool, the cells that start from there; None is all.
        finer: (1, 2, H/s, W/s) flow for the finest scale, if that is a finer one, see `DEQFlow.solve`.
    """

    settings: SolveSettings
    state: FlowState | None = None
    trusted: Tensor | None = None
    finer: Tensor | None = None


class FlowStream:
    """Flow between consecutive frames as they come.

    Every frame is encoded once. With ``reuse``, the fixed point of a pair starts the solve of the next
    (fixed-point reuse, Bai et al., CVPR 2022): motion mostly goes on, so fewer steps remain to the same
    tolerance. A state is carried along its own flow to the pixels of the next frame and checked there (see
    ``deqflow.reuse``): cells that it does not explain start as a cold solve does; if most do, all of them.

    A frame that equals the one before to the bit has zero flow without a solve; one that nearly equals it is
    solved cold. Neither replaces the state that waits for motion to go on (animation on twos). Across a cut
    there is an estimate too, and nothing of it is reused.

    `push` takes a frame and returns the flow to it. For flow back, or both, `take` takes a frame, and
    `forward` and `backward` each solve between the last two; each direction reuses its own states.

    Attributes:
        frames: how many frames have been taken.
        pair: the last two frames, encoded; None before the second.
        duplicate: whether the last frame equals the one before.
        cut: whether the last two frames show different scenes, as the estimates between them have told.
        reused: whether the last estimate started from the one before.
        afresh: share of its cells that did not.
        cost: of the last estimate, in evaluations of the 1/8 grid: all scales, and the checks of its start.
    """

    def __init__(
        self,
        model: DEQFlow,
        *,
        reuse: bool = True,
        check: bool = True,
        detect_cuts: bool = True,
        value_range: ValueRange | None = None,
        stills: bool = False,
        **options: Unpack[SolveOptions],
    ) -> None:
        """Prepare a stream.

        Args:
            model: the estimator.
            reuse: start each solve from the one before.
            check: trust a start only where it explains the frames.
            detect_cuts: drop the state of a pair across a cut.
            value_range: of floating-point frames; None decides at the first pair, see `DEQFlow.estimate`.
            stills: the frames do not follow each other: each pair is solved as `DEQFlow.estimate` does, cold.
            options: how to solve, as in `DEQFlow.forward`.
        """
        self.model, self.stills = model, stills
        self._settings = model.settings(**options)
        self.reuse, self.check, self.detect_cuts = reuse and not stills, check, detect_cuts
        self.value_range = value_range
        self.reset()

    @property
    def settings(self) -> SolveSettings:
        """How pairs are solved, which may depend on the size of their frames."""
        if not self.stills:
            return self._settings.on_video()
        return self._settings if self._size is None else self._settings.on_stills(*self._size[-2:])

    def reset(self) -> None:
        """Forget everything: the next frame is a first frame, of any size."""
        self.frames, self.afresh, self.cost = 0, 1.0, 0.0
        self.reused = self.duplicate = self.cut = False
        self._range = self.value_range
        self._first: NDArray[Any] | None = None  # until its range of values is decided
        self._size: torch.Size | None = None
        self._frame: EncodedFrame | None = None
        self._carried: dict[Direction, CarriedState] = {}
        self._found: dict[Direction, FlowEstimate] = {}  # between the last two frames
        self.pair: PreparedPair | None = None

    def push(self, frame: Frame) -> FlowEstimate | None:
        """Take the next frame and return the flow from the one before to it; None for the first.

        Args:
            frame: of any kind that `DEQFlow.estimate` takes.

        Raises:
            ImageError: the frame cannot be used.
            VideoError: its size is not that of the frames before.
        """
        return self.forward() if self.take(frame) else None

    @torch.inference_mode()
    def take(self, frame: Frame) -> bool:
        """Take the next frame as `push` does and return whether there is one before it; solve nothing."""
        name = f"frame {self.frames + 1}"
        image = self._tensor(to_array(frame, name), name)
        if self._size is not None and image.shape != self._size:
            raise VideoError(
                f"{name} is {image.shape[3]}x{image.shape[2]} pixels, "
                f"those before are {self._size[3]}x{self._size[2]}"
            )
        self._size = image.shape
        padding = self.model.padding(image)
        padded = padding.pad(image)
        last = self._frame
        self.duplicate = last is not None and torch.equal(last.image, padded)
        if last is None or not self.duplicate:
            self._frame = self.model.encode(padded, self._scales(padded))
        assert self._frame is not None
        self.frames += 1
        if self.pair is not None:
            # What was not solved between the frames before has no state that could go on.
            self._carried = {
                direction: state
                for direction, state in self._carried.items()
                if direction in self._found and not self.cut
            }
        self._found, self.cut = {}, False
        self.pair = None if last is None else PreparedPair(last, self._frame, padding)
        return last is not None

    def forward(self) -> FlowEstimate:
        """Return the flow from the frame before the last to the last.

        Raises:
            VideoError: there are no two frames.
        """
        return self._estimate("forward")

    def backward(self) -> FlowEstimate:
        """Return the flow from the last frame to the one before it.

        Raises:
            VideoError: there are no two frames.
        """
        return self._estimate("backward")

    def occlusion(self, direction: Direction = "forward") -> NDArray[np.bool_]:
        """Return what is hidden in the other one of the last two frames, see `deqflow.geometry.occlusion`.

        Returns:
            Bool (H, W), at the pixels of the frame that the flow of this direction starts from.
        """
        flows = self.forward().flow, self.backward().flow
        return occlusion(*(flows if direction == "forward" else flows[::-1]))

    @torch.inference_mode()
    def movement(self, direction: Direction = "forward") -> NDArray[np.float32]:
        """Return how far one more step would move the estimate between the last two frames, (H, W) pixels."""
        state = self._estimate(direction).state
        return self.model.next_movement(self._pair(direction), state)[0].cpu().numpy()

    def _pair(self, direction: Direction) -> PreparedPair:
        if self.pair is None:
            raise VideoError("flow needs two frames")
        pair = self.pair
        return pair if direction == "forward" else PreparedPair(pair.second, pair.first, pair.padding)

    def _scales(self, padded: Tensor) -> tuple[int, ...]:
        """Return the scales that every frame is encoded at: with reuse the finest, others when needed."""
        return self.settings.scales[-1:] if self.reuse else self.model.scales(padded, self.settings)

    def _encode_all_scales(self) -> None:
        """Encode the last two frames at the scales of a cold solve, so that each is so only once."""
        assert self.pair is not None
        scales = self.model.scales(self.pair.first.image, self.settings)
        self.pair = self.model.encoded_at(self.pair, scales)
        self._frame = self.pair.second

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next frames depend on, for `load_state_dict` of a stream like this one.

        Tensors only, of any storage (safetensors, for one); they are not changed by going on.
        """
        found = {"frames": torch.tensor(self.frames)}
        if self._range is not None:
            found["range"] = torch.tensor(self._range, dtype=torch.float64)
        if self._first is not None:
            found["first"] = torch.from_numpy(np.ascontiguousarray(self._first))
        if self._frame is not None and self._size is not None:
            image = self.model.padding(torch.empty(self._size)).crop(self._frame.image)
            found["image"] = image.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
        for direction, carried in self._carried.items():
            if self.pair is None or (direction in self._found and not self.cut):
                parts = (*carried.state, carried.found, carried.distance)
                for name, part in zip(_CARRIED, parts, strict=True):
                    found[f"{direction}.{name}"] = part.contiguous()
                if carried.finer is not None:
                    found[f"{direction}.finer"] = carried.finer.contiguous()
        return found

    @torch.inference_mode()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another stream, of the same model and settings, was at `state_dict`.

        The estimates that follow are those of the other one to the bit, on the same machine. `pair` and what
        the last estimate was like are not part of it.

        Raises:
            ConfigError: it is no state of a stream.
        """
        self.reset()
        device = self.model.device
        try:
            self.frames = int(state["frames"])
            if "range" in state:
                low, high = state["range"].tolist()
                self._range = low, high
            if "first" in state:
                self._first = state["first"].numpy()
            if self.frames:
                image = state["image"].to(device).permute(0, 3, 1, 2).float()
                self._size = image.shape
                padded = self.model.padding(image).pad(image)
                self._frame = self.model.encode(padded, self._scales(padded))
            for direction in get_args(Direction):
                if f"{direction}.hidden" in state:
                    hidden, flow, known, distance = (
                        state[f"{direction}.{name}"].to(device) for name in _CARRIED
                    )
                    hidden = hidden.contiguous(memory_format=torch.channels_last)
                    finer = state.get(f"{direction}.finer")
                    self._carried[direction] = CarriedState(
                        FlowState(hidden, flow), known, distance, None if finer is None else finer.to(device)
                    )
        except (KeyError, ValueError, RuntimeError) as error:
            self.reset()
            raise ConfigError(f"this is not the state of a stream: {error}") from error

    def _tensor(self, array: NDArray[Any], name: str) -> Tensor:
        """Return a frame as (1, 3, H, W) of 0..255; the first two decide how floats are read."""
        if self._range is None and self._first is not None:
            self._range = value_range_of([self._first, array], f"frames {self.frames} and {self.frames + 1}")
            if value_range_of([self._first]) != self._range:
                first = self.model.to_tensor(self._first, f"frame {self.frames}", self._range)
                padded = self.model.padding(first).pad(first)
                self._frame = self.model.encode(padded, self._scales(padded))
            self._first = None
        if self.frames == 0 and np.issubdtype(array.dtype, np.floating):
            self._first = array
        return self.model.to_tensor(array, name, self._range)

    @torch.inference_mode()
    def _estimate(self, direction: Direction) -> FlowEstimate:
        """Solve between the last two frames from what is known of those before, if that is not done yet."""
        pair = self._pair(direction)
        if direction not in self._found:
            self._found[direction] = self._still(pair) if self.duplicate else self._solve(direction)
        return self._found[direction]

    def _solve(self, direction: Direction) -> FlowEstimate:
        """Solve a pair, and keep what the next may start from."""
        pair, stride = self._pair(direction), self.settings.reused_scale
        waits = self.check and nearly_equal(pair)
        start = None if waits or not self.reuse else self._carried.get(direction)
        matching = Matching.of(pair, stride)
        begin = Start(self.settings) if start is None else self._start(pair, start, matching)
        if begin.settings.scales == self.settings.scales:
            self._encode_all_scales()
            pair = self._pair(direction)
        self.reused, self.afresh = begin.state is not None, 1.0
        if begin.state is not None:
            self.afresh = 0.0 if begin.trusted is None else 1 - float(begin.trusted.float().mean())
        solution = self.model.solve(
            pair, begin.state, begin.settings, trusted=begin.trusted, finer=begin.finer
        )
        estimate = self.model.decode(solution, pair.padding)[0]
        checks = CHECK_COST * cost_of({stride: 1}) if start is not None and self.check else 0.0
        self.cost = estimate.cost + checks
        kept = solution.reusable.state
        distance, inside = matching.distance(kept.flow)
        matched = distance[inside]
        cut = self.detect_cuts and matched.numel() > 0 and float(matched.median()) > UNMATCHED
        self.cut = self.cut or cut
        unsettled = self.check and self._unsettled(float(solution.reusable.residual[0, 0]))
        diverged = Outcome.DIVERGED in (estimate.outcome, int(solution.reusable.outcome[0]))
        if cut or unsettled or diverged:
            self._carried.pop(direction, None)  # no place to start from
        elif not waits:
            # Motion goes on: what came from there moves on by as much.
            sign = 1 if direction == "forward" else -1
            distance = torch.where(inside, distance, torch.inf)
            carried = CarriedState.along(kept, distance, sign * kept.flow)
            if solution.scale < stride:
                flow = solution.finest.state.flow
                carried = replace(carried, finer=carried_flow(flow, sign * flow))
            self._carried[direction] = carried
        return estimate

    def _unsettled(self, residual: float) -> bool:
        """Whether a solve still moves that had the steps to settle; a shorter one goes on with the next."""
        scale = self.settings.reused_scale
        long = self.settings.steps_at(scale) >= LONG
        return long and residual > max(UNSETTLED, 2 * self.settings.tolerance_at(scale))

    def _start(self, pair: PreparedPair, carried: CarriedState, matching: Matching) -> Start:
        """Choose where to start a pair; what is trusted in every cell needs no coarser scale."""
        scale = self.settings.reused_scale
        begun = self.settings.begun_at(scale)
        if carried.finer is not None:
            begun = begun.from_carried()
        if not self.check:
            return Start(begun, carried.state, finer=carried.finer)
        failed, seen = carried.checked(matching)
        if int(failed.sum()) >= MOST_AFRESH * int(seen.sum()):
            return Start(self.settings)
        lost = LOST if carried.finer is None else LOST_BEFORE_FINER
        if bool(blocks(failed, max(2, lost // scale)).any()):
            return Start(self.settings, carried.state, carried.found & ~failed, carried.finer)
        # A small thing and what was uncovered only forget: the flow around them is as good a start as any.
        fresh = self.model.initial_state(pair.first, scale)._replace(flow=carried.state.flow)
        return Start(begun, carried.state.where(carried.found & ~failed, fresh), finer=carried.finer)

    def _still(self, pair: PreparedPair) -> FlowEstimate:
        """Return the estimate of two equal frames: nothing moves, and nothing was solved."""
        self.reused, self.afresh, self.cost = False, 0.0, 0.0
        state = self.model.initial_state(pair.first, self.settings.scales[-1])
        height, width = (self._size or pair.first.image.shape)[2:]
        known = self.model.uncertainty is not None
        return FlowEstimate(
            flow=np.zeros((height, width, 2), np.float32),
            uncertainty=np.zeros((height, width), np.float32) if known else None,
            state=state,
            residual=0.0,
            residual_peak=0.0,
            steps=0,
            evaluations={self.settings.scales[-1]: 0},
            outcome=Outcome.CONVERGED,
            trace=np.zeros(0, np.float32),
        )
