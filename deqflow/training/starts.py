"""The solve of a training step: where it starts, and the points of it that losses are taken on.

A model whose fixed point depends on where the solve began stays at whatever state it is given. Starting part
of the training steps from states of other motions over the same frame makes the losses pull from there too.
Source: Anil et al., Path Independent Equilibrium Models Can Better Exploit Test-Time Computation, NeurIPS
2022.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard

import torch
from torch import Generator, Tensor

from deqflow.config import REFERENCE_STRIDE, ModelConfig, SolveSettings
from deqflow.equilibrium import (
    Anderson,
    Broyden,
    Correction,
    FixedPointIteration,
    Gradient,
    Implicit,
    NeumannPhantom,
    OneStep,
    Phantom,
    Recorded,
    Segments,
    Solver,
    Step,
    StoppingRule,
    Trajectory,
    Unrolled,
    jacobian_penalty,
)
from deqflow.equilibrium.state import S
from deqflow.estimator import DEQFlow
from deqflow.pair import PreparedPair
from deqflow.reuse import carry
from deqflow.step import FlowState
from deqflow.training.options import SupervisedOptions, TrainOptions

WrongKind = Literal["still", "other-motion", "other-sample", "carried"]

SHARES: dict[WrongKind, float] = {"still": 0.2, "other-motion": 0.4, "other-sample": 0.2, "carried": 0.2}
"""How the wrong starts divide into kinds."""

REACHES = (12, 40)
"""Largest shifts of the second frame for another motion, pixels; either is as likely."""

EVALUATIONS = (3, 14)
"""Fewest and most evaluations that a wrong start is solved with."""


@dataclass(frozen=True)
class WrongStart:
    """A start that belongs to another pair of frames.

    Attributes:
        kind: ``still`` is the state of frame 1 with itself; ``other-motion`` that of frame 1 with frame 2
            rolled by ``shift``; ``other-sample`` that of another sample of the batch; ``carried`` that of the
            pair from the frame before to frame 1, carried along its own flow to frame 1; without such a frame
            that of frame 2 to frame 1, as of a motion that reverses.
        evaluations: of the solve that reaches it.
        shift: of frame 2 for ``other-motion``, rows and columns in pixels.
        offset: which other sample, any number from 0: that so much further plus one, in a circle without the
            sample itself.
    """

    kind: WrongKind
    evaluations: int
    shift: tuple[int, int] = (0, 0)
    offset: int = 0

    @classmethod
    def draw(cls, generator: Generator) -> "WrongStart":
        """Draw a start; every call takes the same number of draws."""
        kind = list(SHARES)[int(torch.tensor(list(SHARES.values())).multinomial(1, generator=generator))]
        fewest, most = EVALUATIONS
        evaluations = int(torch.randint(fewest, most + 1, (), generator=generator))
        reach = REACHES[int(torch.randint(len(REACHES), (), generator=generator))]
        down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
        offset = int(torch.randint(2**31, (), generator=generator))
        return cls(kind, evaluations, (down, right), offset)


@dataclass(frozen=True)
class StepRandomness:
    """What a step is drawn, from the seed and its number: the same on every process and in every resumed run.

    Attributes:
        subpixel_positions: (K,) positions inside a coarse pixel that losses look at, see
            ``ConvexUpsampling.at_positions``; none for losses that look at all.
        solver_steps: evaluations of the solve.
        coarse_start: whether the solve starts from the fixed point at twice the stride.
        probe: seed of the Jacobian penalty's probe; None leaves the penalty out.
        wrong_start: what to start from instead of zeros or the coarse fixed point; None does not.
        scale: number of the scale that is trained, coarse to fine; -1 is the finest.
        coarse_steps: evaluations at each coarser scale, where the solve goes through them; 0 is as many as
            ``solver_steps``.
        seed: of the positions inside coarse pixels of other strides than 8.
    """

    subpixel_positions: Tensor
    solver_steps: int
    coarse_start: bool = False
    probe: int | None = None
    wrong_start: WrongStart | None = None
    scale: int = -1
    coarse_steps: int = 0
    seed: int = 0

    @classmethod
    def of_step(
        cls, step: int, options: TrainOptions, device: torch.device, *, fine: int = 1
    ) -> "StepRandomness":
        """Draw the randomness of a step, counted from 0; the last ``fine`` scales take fine steps."""
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        positions = torch.randperm(64, generator=generator)[: _positions(options)].to(device)
        fewest, most = options.solver_steps
        solver_steps = int(torch.randint(fewest, most + 1, (), generator=generator))
        probe = int(torch.randint(2**31, (), generator=generator))
        coarse = float(torch.rand((), generator=generator)) < options.coarse_start_probability
        wrong = float(torch.rand((), generator=generator)) < options.wrong_start_probability
        wrong_start = WrongStart.draw(generator) if wrong else None
        scale, coarse_steps = _scale(options, generator), solver_steps
        if options.fine_steps is not None and (scale < 0 or scale >= len(options.scale_shares) - fine):
            fewest, most = options.fine_steps
            solver_steps, coarse = int(torch.randint(fewest, most + 1, (), generator=generator)), True
        return cls(
            positions,
            solver_steps,
            coarse and not wrong,
            probe if _penalized(options) and step % options.jacobian_every == 0 else None,
            wrong_start,
            scale,
            coarse_steps,
            generator.initial_seed(),
        )

    def stride(self, config: ModelConfig) -> int:
        """Return the stride of the scale that is trained."""
        return config.stride if self.scale < 0 else config.trainable_strides[self.scale]

    def positions(self, stride: int) -> Tensor:
        """Return as many subpixel positions of a coarse pixel of another stride than 8."""
        if stride == 8:
            return self.subpixel_positions
        generator = torch.Generator().manual_seed(self.seed)
        count = min(len(self.subpixel_positions), stride**2)
        return torch.randperm(stride**2, generator=generator)[:count].to(self.subpixel_positions.device)

    @classmethod
    def longest(cls, options: TrainOptions, device: torch.device) -> "StepRandomness":
        """Return the draws that a step costs most with, but for wrong starts."""
        return cls(
            torch.arange(_positions(options), device=device),
            (options.fine_steps or options.solver_steps)[1],
            options.coarse_start_probability > 0 or options.fine_steps is not None,
            0 if _penalized(options) else None,
            scale=max((scale for scale, share in enumerate(options.scale_shares) if share), default=-1),
            coarse_steps=options.solver_steps[1],
        )


def _scale(options: TrainOptions, generator: Generator) -> int:
    """Draw the number of the scale to train, coarse to fine; -1 is the finest."""
    if not options.scale_shares:
        return -1
    return int(torch.tensor(options.scale_shares).multinomial(1, generator=generator))


def _positions(options: TrainOptions) -> int:
    return options.subpixel_positions if isinstance(options, SupervisedOptions) else 0


def _penalized(options: TrainOptions) -> TypeGuard[SupervisedOptions]:
    return isinstance(options, SupervisedOptions) and options.jacobian_weight > 0


def follow(
    model: DEQFlow,
    options: TrainOptions,
    image1: Tensor,
    image2: Tensor,
    randomness: StepRandomness,
    *,
    bidirectional: bool,
    before: Tensor | None = None,
) -> Trajectory[FlowState]:
    """Solve a batch from where the step's randomness says to the points that losses are taken on.

    Args:
        model: whose parameters are trained.
        options: how the solve goes, where its points are and how each is differentiated.
        image1: (B, 3, H, W) of 0..255.
        image2: (B, 3, H, W).
        randomness: of this step.
        bidirectional: the states are those of 2B pairs, the way back after the way there.
        before: (B, 3, H, W), the frames before the first, which carried starts come from.

    Returns:
        The points, a `PenalizedTrajectory` where the randomness has a probe.
    """
    solver, scale = choose_solver(options, model), randomness.stride(model.config)
    settings = _settings(model, solver, randomness.solver_steps)
    coarser = tuple(stride for stride in model.config.strides if stride > scale) or (2 * scale,)
    coarse_steps = randomness.coarse_steps or randomness.solver_steps
    coarse = replace(settings, steps=coarse_steps, scales=(*coarser, scale))
    scales = model.scales(image1, coarse) if randomness.coarse_start else (scale,)
    correction: Correction = choose_correction(options, randomness.solver_steps)
    if randomness.probe is not None:
        correction = Penalized(correction, randomness.probe)
    pair = model.prepare(image1, image2, scales=scales, bidirectional=bidirectional)
    start = model.coarse_start(pair, coarse) if randomness.coarse_start else None
    wrong = randomness.wrong_start
    if wrong is not None and scale >= REFERENCE_STRIDE:
        start = wrong_state(model, pair, wrong, solver, scale=scale, before=before)
    elif wrong is not None:
        # As in use: the state of another pair is solved at 1/8 before it comes to 1/4.
        begun = coarse.begun_at(coarse.reused_scale)
        other = wrong_state(model, pair, wrong, solver, scale=begun.scales[0], before=before)
        start = model.coarse_start(pair, begun, other)
    return model.trajectory(
        pair,
        start,
        correction=correction,
        gradient=choose_gradient(options),
        solver=solver,
        steps=randomness.solver_steps,
        scale=scale,
        attach_flow=options.attach_flow,
    )


@torch.no_grad()
def wrong_state(
    model: DEQFlow,
    pair: PreparedPair,
    start: WrongStart,
    solver: Solver,
    *,
    scale: int | None = None,
    before: Tensor | None = None,
) -> FlowState:
    """Return the state that a wrong start solves to, without a graph.

    Args:
        model: whose state it is.
        pair: the right one, whose encoded frames serve again.
        start: what to solve. In a batch of one sample ``other-sample`` has none and is ``other-motion``.
        solver: where to evaluate next.
        scale: stride to solve at; None is the finest.
        before: frames before the first of the pairs there, for ``carried``; of the pairs back, which follow
            them, none is needed.
    """
    first, second = pair.first, pair.second
    count, kind = len(first.image), start.kind
    scale = scale or model.config.stride
    # What a video carries was found through all scales; only shrunk frames, which are encoded anew, are not.
    scales = tuple(stride for stride in model.config.strides if stride >= scale)
    if kind == "still":
        second = first
    elif kind == "carried":
        first, second = second, first
        if before is not None:
            images = torch.cat((pair.padding.pad(before), first.image[len(before) :]))
            first = model.encode(images, scales)
    elif kind == "other-motion" or count == 1:
        second = model.encode(second.image.roll(start.shift, dims=(2, 3)), scales)
    settings = replace(_settings(model, solver, start.evaluations), scales=scales)
    other = replace(pair, first=first, second=second)
    state: FlowState = model.solve(other, settings=settings).finest.state
    if kind == "carried":
        return carry(state)
    if kind == "other-sample" and count > 1:
        by = 1 + start.offset % (count - 1)
        return FlowState(*(part.roll(-by, dims=0) for part in state))
    return state


def _settings(model: DEQFlow, solver: Solver, steps: int) -> SolveSettings:
    """How training solves: all of the steps, and from one start, for time's sake."""
    return replace(model.defaults, steps=steps, tolerance=0.0, solver=solver, second_start=False)


def choose_gradient(options: TrainOptions) -> Gradient:
    """Choose how each point is differentiated (unrolling differentiates the path itself instead)."""
    if options.gradient == "phantom":
        return Phantom(steps=options.gradient_steps, damping=options.damping)
    if options.gradient == "neumann":
        return NeumannPhantom(steps=options.gradient_steps, damping=options.damping)
    return Implicit() if options.gradient == "implicit" else OneStep()


def choose_correction(options: TrainOptions, steps: int) -> Correction:
    """Choose where along a path of so many solver steps losses are taken."""
    count, positions = min(options.corrections, steps), options.positions or None
    if options.gradient == "unrolled":
        return Unrolled(count=count, positions=positions)
    if options.scheme == "segments":
        return Segments(count=count, positions=positions)
    return Recorded(count=count, positions=positions, ratio=options.correction_ratio)


def choose_solver(options: TrainOptions, model: DEQFlow) -> Solver:
    """Choose the solver of the forward pass."""
    solvers: dict[str, Callable[[], Solver]] = {
        "plain": FixedPointIteration,
        "anderson": Anderson,
        "broyden": Broyden,
    }
    return model.defaults.solver if options.solver == "model" else solvers[options.solver]()


@dataclass(frozen=True)
class PenalizedTrajectory(Trajectory[S]):
    """A path, and the mean Jacobian penalty at its last point."""

    penalty: Tensor


@dataclass(frozen=True)
class Penalized:
    """A correction that also measures the Jacobian at the last point of the path.

    Attributes:
        inner: where losses are taken.
        seed: of the probe vector.
    """

    inner: Correction
    seed: int

    def follow(
        self, step: Step, state: S, solver: Solver, gradient: Gradient, stop: StoppingRule
    ) -> PenalizedTrajectory[S]:
        """See ``Correction.follow``."""
        path = self.inner.follow(step, state, solver, gradient, stop)
        probes = torch.Generator(state[0].device).manual_seed(self.seed)
        penalty = jacobian_penalty(step, path.points[-1], generator=probes).mean()
        return PenalizedTrajectory(path.points, path.states, path.residual, penalty)
