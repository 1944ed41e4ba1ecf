"""Streams: what is reused, how it is carried, when it is forgotten. The model has random weights."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqflow.errors import VideoError
from deqflow.estimator import DEQFlow
from deqflow.io import write_image
from deqflow.step import FlowState
from deqflow.stream import FlowStream, carry, estimate_video, is_cut
from deqflow.zoo import create

STEPS = 3


@pytest.fixture(scope="module")
def model() -> DEQFlow:
    torch.manual_seed(0)
    return create("deqflow-s").eval().requires_grad_(False)


@pytest.fixture
def starts(model: DEQFlow, monkeypatch: pytest.MonkeyPatch) -> list[FlowState | None]:
    """The state that each solve started from."""
    seen: list[FlowState | None] = []
    solve = model.solve

    def recording(pair: Any, state: FlowState | None = None, settings: Any = None) -> Any:
        seen.append(state)
        return solve(pair, state, settings)

    monkeypatch.setattr(model, "solve", recording)
    return seen


def scene(seed: int, count: int, size: tuple[int, int] = (50, 70)) -> list[np.ndarray]:
    """A smooth random pattern that moves 2 px to the right per frame."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.uniform(0, 255, (1, 3, 7, 12)))
    wide = torch.nn.functional.interpolate(small, (size[0], size[1] + 2 * count), mode="bicubic")
    wide = wide[0].clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    return [wide[:, 2 * (count - k) : 2 * (count - k) + size[1]] for k in range(count)]


def test_without_reuse_it_is_estimate_on_every_pair(model: DEQFlow) -> None:
    frames = scene(0, 3)
    streamed = list(estimate_video(frames, model, reuse=False, steps=STEPS, tolerance=0))
    assert len(streamed) == 2
    for estimate, (before, after) in zip(streamed, pairwise(frames), strict=True):
        expected = model.estimate(before, after, steps=STEPS, tolerance=0)
        np.testing.assert_allclose(estimate.flow, expected.flow, atol=1e-4)
        assert estimate.flow.shape == (50, 70, 2)
        assert estimate.steps == STEPS


def test_each_frame_is_encoded_once(model: DEQFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    encode = model._features

    def counting(image: torch.Tensor) -> Any:
        nonlocal count
        count += len(image)
        return encode(image)

    monkeypatch.setattr(model, "_features", counting)
    assert len(list(estimate_video(scene(0, 4), model, steps=1))) == 3
    assert count == 4


def test_reuse_starts_from_the_carried_fixed_point(model: DEQFlow, starts: list[FlowState | None]) -> None:
    estimates = list(estimate_video(scene(0, 4), model, steps=STEPS, tolerance=0))
    assert starts[0] is None
    for estimate, start in zip(estimates, starts[1:], strict=False):
        assert start is not None
        carried = carry(estimate.state)
        torch.testing.assert_close(start.flow, carried.flow)
        torch.testing.assert_close(start.hidden, carried.hidden)


def test_reuse_without_warp_starts_from_the_state_as_it_is(
    model: DEQFlow, starts: list[FlowState | None]
) -> None:
    estimates = list(estimate_video(scene(0, 3), model, warp=False, steps=STEPS))
    assert starts[0] is None
    assert starts[1] is estimates[0].state


def test_a_still_scene_needs_fewer_steps_with_reuse(model: DEQFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    class Halfway:
        """Random weights need not contract; this step does, to the same fixed point for every pair."""

        def __init__(self, start: FlowState) -> None:
            self.start = start

        def __call__(self, state: FlowState, active: Any = None) -> FlowState:
            return FlowState((state.hidden + 1) / 2, state.flow / 2)

    monkeypatch.setattr(model, "operator", lambda pair, scale: Halfway(model.initial_state(pair.first)))
    frames = [scene(0, 1)[0]] * 4
    cold = list(estimate_video(frames, model, reuse=False, steps=60, tolerance=0.05))
    warm = list(estimate_video(frames, model, steps=60, tolerance=0.05))
    assert warm[0].steps == cold[0].steps
    assert all(a.steps < b.steps for a, b in zip(warm[1:], cold[1:], strict=True))


def test_at_a_cut_nothing_is_reused(model: DEQFlow) -> None:
    frames = [*scene(1, 3), *scene(2, 3)]
    stream = FlowStream(model, steps=STEPS)
    reused = []
    for frame in frames:
        stream.push(frame)
        reused.append(stream.reused)
    assert reused == [False, False, True, False, True, True]
    undetected = FlowStream(model, steps=STEPS, detect_cuts=False)
    for frame in frames[:4]:
        undetected.push(frame)
    assert undetected.reused


def test_what_is_a_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.full((1, 1, 12, 16), 100.0)
    one, other = (255 * torch.rand(1, 1, 12, 16, generator=generator) for _ in range(2))
    still = torch.zeros(1, 2, 12, 16)
    assert is_cut(one, other, still)
    assert not is_cut(one, one + 40, still)  # a flash
    assert not is_cut(one, 0.6 * one, still)  # exposure
    assert not is_cut(flat, flat + 3, still)
    moved = one.roll(5, dims=3)  # unlike the last frame, but just what its motion leads to
    assert is_cut(one, moved, still)
    motion = still.clone()
    motion[:, 0] = 5
    assert not is_cut(one, moved, motion)


def test_carry_moves_flow_and_hidden_and_fills_holes() -> None:
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0, :, :4] = 2.0  # the left half moves right by two
    hidden = torch.arange(8.0).expand(1, 3, 6, 8).contiguous()
    carried = carry(FlowState(hidden, flow))
    row = carried.flow[0, 0, 3]
    assert row[2:4].tolist() == [2, 2]
    assert row[6:].tolist() == [0, 0]
    assert row[:2].tolist() == [2, 2]  # uncovered: what was there before
    assert carried.hidden[0, 0, 3, 2:4].tolist() == [0, 1]
    assert carried.hidden[0, 0, 3, :2].tolist() == [0, 1]
    assert torch.isfinite(carried.hidden).all()
    bfloat = carry(FlowState(hidden.to(torch.bfloat16), flow))
    assert bfloat.hidden.dtype == torch.bfloat16


def test_too_few_frames(model: DEQFlow, tmp_path: Path) -> None:
    for count, found in ((0, "no frames"), (1, "only one frame")):
        with pytest.raises(VideoError, match=found):
            list(estimate_video(scene(0, 1)[:count], model))
    write_image(tmp_path / "1.png", scene(0, 1)[0])
    with pytest.raises(VideoError, match=r"the folder .* has only one frame"):
        list(estimate_video(tmp_path, model))


def test_frames_of_two_sizes(model: DEQFlow) -> None:
    stream = FlowStream(model, steps=1)
    stream.push(scene(0, 1)[0])
    with pytest.raises(VideoError, match="frame 2 is 60x50 pixels, those before are 70x50"):
        stream.push(scene(0, 1, (50, 60))[0])
    stream.reset()
    assert stream.push(scene(0, 1, (50, 60))[0]) is None


def test_limits(model: DEQFlow) -> None:
    estimates = list(estimate_video(iter(scene(0, 9)), model, steps=1, max_frames=3, max_side=35))
    assert [estimate.flow.shape for estimate in estimates] == [(25, 35, 2)] * 2


def test_where_nothing_is_reused_the_pair_is_solved_at_every_scale(
    model: DEQFlow, starts: list[FlowState | None]
) -> None:
    frames = [*scene(1, 3, (164, 170)), *scene(2, 1, (164, 170))]
    streamed = list(estimate_video(frames, model, steps=STEPS, tolerance=0))
    # A first pair and the one across the cut; the carried one starts at the finest scale.
    cold, reused = {16: STEPS, 8: STEPS}, {8: STEPS}
    assert [estimate.evaluations for estimate in streamed] == [cold, reused, cold]
    assert [None if state is None else tuple(state.flow.shape[2:]) for state in starts] == [
        None,
        (21, 22),
        None,
    ]
    for index in (0, 2):
        expected = model.estimate(frames[index], frames[index + 1], steps=STEPS, tolerance=0)
        np.testing.assert_allclose(streamed[index].flow, expected.flow, atol=1e-3)
