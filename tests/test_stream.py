"""Streams: what is reused, how it is carried, when it is forgotten. The model has random weights."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import deqflow
from deqflow.config import SolveSettings
from deqflow.errors import ConfigError, ImageError, VideoError
from deqflow.estimator import DEQFlow
from deqflow.geometry import occlusion
from deqflow.given_start import following
from deqflow.io import open_video, write_image
from deqflow.reuse import (
    CHECK_COST,
    LONG,
    UNSETTLED,
    CarriedState,
    Matching,
    blocks,
    carry,
    filled,
)
from deqflow.step import FlowState
from deqflow.stream import FlowStream, Start
from deqflow.video import estimate_video
from deqflow.zoo import create

STEPS = 3


@pytest.fixture(scope="module")
def model() -> DEQFlow:
    torch.manual_seed(0)
    return create("deqflow-s-v0").eval().requires_grad_(False)  # of one scale


@pytest.fixture
def starts(model: DEQFlow, monkeypatch: pytest.MonkeyPatch) -> list[FlowState | None]:
    """The state that each solve started from."""
    seen: list[FlowState | None] = []
    solve = model.solve

    def recording(pair: Any, state: FlowState | None = None, settings: Any = None, **options: Any) -> Any:
        seen.append(state)
        return solve(pair, state, settings, **options)

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
    options: Any = {"steps": STEPS, "tolerance": 0, "solver": deqflow.DampedIteration()}
    streamed = list(estimate_video(frames, model, reuse=False, **options))
    assert len(streamed) == 2
    for estimate, (before, after) in zip(streamed, pairwise(frames), strict=True):
        expected = model.estimate(before, after, **options)
        np.testing.assert_allclose(estimate.flow, expected.flow, atol=1e-4)
        assert estimate.flow.shape == (50, 70, 2)
        assert estimate.steps == STEPS


def test_video_has_a_solver_of_its_own_unless_one_is_named(model: DEQFlow) -> None:
    def solver(**options: Any) -> deqflow.Solver:
        return FlowStream(model, **options).settings.solver

    assert solver() == solver(tolerance=0.04) == deqflow.DampedIteration()
    assert solver(tolerance=0.01) == deqflow.Anderson()
    assert solver(solver=deqflow.FixedPointIteration()) == deqflow.FixedPointIteration()
    assert model.settings().solver == deqflow.FixedPointIteration()
    recurrent = create("raft-small")
    assert FlowStream(recurrent).settings == recurrent.defaults
    recurrent.defaults = model.settings(solver=deqflow.Broyden())
    assert FlowStream(recurrent).settings.solver == deqflow.Broyden()


def test_carried_flow_never_asks_for_more_fine_steps() -> None:
    for fine, carried, wanted in [(4, 2, 2), (1, 2, 1), (4, None, 4), (None, 2, 2), (None, None, None)]:
        settings = SolveSettings(fine_steps=fine, carried_fine_steps=carried)
        assert settings.from_carried().fine_steps == wanted


def test_each_frame_is_encoded_once(model: DEQFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    encode = model._features

    def counting(image: torch.Tensor, strides: Any) -> Any:
        nonlocal count
        count += len(image)
        return encode(image, strides)

    monkeypatch.setattr(model, "_features", counting)
    assert len(list(estimate_video(scene(0, 4), model, steps=1))) == 3
    assert count == 4


def test_reuse_starts_from_the_carried_fixed_point(model: DEQFlow, starts: list[FlowState | None]) -> None:
    estimates = list(estimate_video(scene(0, 4), model, check=False, steps=STEPS, tolerance=0))
    assert starts[0] is None
    for estimate, start in zip(estimates, starts[1:], strict=False):
        assert start is not None
        carried = carry(estimate.state)
        torch.testing.assert_close(start.flow, carried.flow)
        torch.testing.assert_close(start.hidden, carried.hidden)


def test_a_steady_motion_needs_fewer_steps_with_reuse(
    model: DEQFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Halfway:
        """Random weights need not contract; this step does, to the same fixed point for every pair."""

        def __init__(self, start: FlowState) -> None:
            self.start = start

        def __call__(self, state: FlowState, active: Any = None) -> FlowState:
            return FlowState((state.hidden + 1) / 2, state.flow / 2)

    monkeypatch.setattr(model, "operator", lambda pair, scale: Halfway(model.initial_state(pair.first)))
    frames = scene(0, 4)
    cold = list(estimate_video(frames, model, reuse=False, steps=60, tolerance=0.05))
    warm = list(estimate_video(frames, model, check=False, steps=60, tolerance=0.05))
    assert warm[0].steps == cold[0].steps
    assert all(a.steps < b.steps for a, b in zip(warm[1:], cold[1:], strict=True))


def from_what_is_carried(stream: FlowStream) -> Callable[[Any, CarriedState, Any], Start]:
    """Return what starts every pair from whatever is carried, unchecked."""
    return lambda pair, carried, matching: Start(
        stream.settings.begun_at(stream.settings.reused_scale), carried.state
    )


def test_a_solve_that_does_not_settle_is_no_start_but_one_cut_short_is(
    model: DEQFlow, starts: list[FlowState | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Swinging:
        """A step without a fixed point to be reached."""

        def __init__(self, start: FlowState) -> None:
            self.start = start

        def __call__(self, state: FlowState, active: Any = None) -> FlowState:
            return FlowState(state.hidden, 1 - state.flow)

    monkeypatch.setattr(model, "operator", lambda pair, scale: Swinging(model.initial_state(pair.first)))
    for steps, check, reused in ((LONG, True, False), (LONG, False, True), (LONG - 1, True, True)):
        starts.clear()
        stream = FlowStream(
            model, steps=steps, check=check, detect_cuts=False, solver=deqflow.FixedPointIteration()
        )
        monkeypatch.setattr(stream, "_start", from_what_is_carried(stream))
        for frame in scene(0, 3):
            stream.push(frame)
        assert (starts[1] is not None) == reused


def test_a_fine_scale_is_given_few_steps_and_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    pyramid = create("deqflow-s").eval().requires_grad_(False)
    stream = FlowStream(pyramid, scales=(4,), steps=LONG, fine_steps=1, detect_cuts=False)
    monkeypatch.setattr(stream, "_start", from_what_is_carried(stream))
    _, first, _ = (stream.push(frame) for frame in scene(0, 3, (64, 80)))
    assert first is not None and first.residual > UNSETTLED
    assert stream.reused


@pytest.mark.parametrize(
    ("scales", "side", "asked"),
    [
        ((8,), 2, False),
        ((8,), 3, True),
        ((4,), 5, False),
        ((4,), 6, True),
        ((8, 4), 3, False),
        ((8, 4), 4, True),
    ],
)
def test_coarser_scales_are_asked_for_blocks_of_as_many_pixels_at_every_scale(
    scales: tuple[int, ...], side: int, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyramid = create("deqflow-s").eval().requires_grad_(False)
    stream = FlowStream(pyramid, scales=scales, steps=1, detect_cuts=False)
    for frame in scene(0, 2, (96, 128)):
        stream.push(frame)

    def checked(carried: CarriedState, matching: Matching) -> tuple[torch.Tensor, torch.Tensor]:
        failed = torch.zeros_like(carried.found)
        failed[..., 2 : 2 + side, 2 : 2 + side] = True
        return failed, torch.ones_like(failed)

    monkeypatch.setattr(CarriedState, "checked", checked)
    estimate = stream.push(scene(0, 3, (96, 128))[2])
    assert estimate is not None and stream.reused
    assert (stream.afresh > 0) == asked


@pytest.fixture(scope="module")
def trained() -> DEQFlow:
    return deqflow.load("deqflow-s", precision="float32", device="cpu")


@pytest.fixture(scope="module")
def picture(repository: Path) -> np.ndarray:
    """A frame with things to see in it."""
    return next(iter(open_video(repository / "demo" / "bigbuckbunny.mp4")))


def window(picture: np.ndarray, right: int, down: int = 0, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A part of a picture that has moved by so many pixels."""
    top, left = 120 - down, 300 - right
    return picture[top : top + size[0], left : left + size[1]].copy()


def pushed(stream: FlowStream, frames: list[np.ndarray], told: str) -> list[Any]:
    """What a stream tells of itself after each frame."""
    seen = []
    for frame in frames:
        stream.push(frame)
        seen.append(getattr(stream, told))
    return seen


def test_nothing_is_reused_across_a_cut_nor_after_it(trained: DEQFlow, picture: np.ndarray) -> None:
    other = picture[::-1, ::-1]
    frames = [window(source, 3 * index) for source in (picture, other) for index in range(3)]
    assert pushed(FlowStream(trained), frames, "cut") == [False, False, False, True, False, False]
    assert pushed(FlowStream(trained), frames, "reused") == [False, False, True, False, False, True]
    undetected = FlowStream(trained, detect_cuts=False, check=False)
    assert pushed(undetected, frames, "reused") == [False, False, True, True, True, True]


def test_flashes_and_fades_are_no_cuts(trained: DEQFlow, picture: np.ndarray) -> None:
    frames = [window(picture, 2 * index).astype(float) for index in range(5)]
    frames[2] = np.minimum(frames[2] + 70, 255)
    frames[4] *= 0.4
    assert not any(pushed(FlowStream(trained, value_range=(0, 255)), frames, "cut"))


MOTIONS = {
    "pan and stop": [0, 20, 40, 60, 60, 60],
    "shake": [0, 12, 0, 12, 0],
    "jump": [0, 3, 38, 41],
    "on twos": [0, 0, 14, 14, 28, 28],
    "turn": [0, 6, 12, 6, 0],
}


@pytest.mark.parametrize("motion", MOTIONS)
def test_reuse_is_right_where_motion_changes(trained: DEQFlow, picture: np.ndarray, motion: str) -> None:
    """A window of one picture moves: the flow is known, and the same everywhere."""
    frames = [window(picture, right) for right in MOTIONS[motion]]
    errors = []
    for reuse in (True, False):
        estimates = list(estimate_video(frames, trained, reuse=reuse))
        truths = [after - before for before, after in pairwise(MOTIONS[motion])]
        errors.append(
            np.mean(
                [
                    np.hypot(estimate.flow[..., 0] - truth, estimate.flow[..., 1]).mean()
                    for estimate, truth in zip(estimates[1:], truths[1:], strict=True)
                ]
            )
        )
    assert errors[0] <= errors[1] + max(0.15, 0.25 * errors[1])


def test_a_thing_that_starts_to_move_is_seen(trained: DEQFlow, picture: np.ndarray) -> None:
    thing, frames = picture[40:90, 60:110], []
    for index, left in enumerate((40, 40, 40, 54)):
        # Behind it the picture moves by 2 px a frame.
        frames.append(window(picture, 2 * index, size=(168, 184)))
        frames[-1][60:110, left : left + 50] = thing
    stream = FlowStream(trained)
    estimates = [stream.push(frame) for frame in frames]
    assert stream.reused and 0 < stream.afresh < 0.5
    assert estimates[-1].evaluations.keys() == {16, 8, 4} and estimates[-2].evaluations.keys() == {8, 4}
    assert np.median(estimates[-1].flow[68:102, 48:82, 0]) == pytest.approx(14, abs=1)
    assert np.median(estimates[-1].flow[:, 130:, 0]) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("places", [(0, 6, 12, 18), (0, 4, 10, 18)])
def test_the_flow_of_the_finest_scale_goes_on(
    trained: DEQFlow, picture: np.ndarray, places: tuple[int, ...]
) -> None:
    frames = [window(picture, place) for place in places]
    stream, cold = FlowStream(trained), FlowStream(trained, reuse=False)
    first, second = ([flows.push(frame) for frame in frames[:3]] for flows in (stream, cold))
    assert second[-1].evaluations[4] == 4 and first[-1].evaluations[4] <= 2
    last = places[2] - places[1]
    errors = [np.linalg.norm(found[-1].flow - (last, 0), axis=2).mean() for found in (first, second)]
    assert errors[0] <= 1.1 * errors[1]
    asked = FlowStream(trained, fine_steps=4, tolerance=0)
    assert [asked.push(frame) for frame in frames[:3]][-1].evaluations[4] == 4 and asked.reused
    resumed = FlowStream(trained)
    resumed.load_state_dict(stream.state_dict())
    assert np.array_equal(resumed.push(frames[3]).flow, stream.push(frames[3]).flow)


@pytest.mark.parametrize(("moved", "share"), [(0.1, 0.0), (0.225, 0.5), (0.3, 1.0), (6.0, 1.0)])
def test_carried_flow_follows_a_change_of_motion_beyond_noise(moved: float, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    finer = torch.randn(1, 2, 24, 32, generator=generator)
    finer[..., 3, 5] = torch.nan
    carried = torch.randn(1, 2, 12, 16, generator=generator)
    change = torch.zeros_like(carried)
    change[:, 0] = moved / 8  # in cells of 1/8
    wanted = finer + share * 2 * torch.tensor([moved / 8, 0]).view(1, 2, 1, 1)
    found = following(finer, carried, carried + change, 8)
    torch.testing.assert_close(found, wanted, equal_nan=True, atol=1e-5, rtol=0)


def test_one_cell_does_not_move_the_flow_around_it() -> None:
    finer, carried = torch.zeros(1, 2, 34, 34), torch.zeros(1, 2, 17, 17)
    found = carried.clone()
    found[:, 0, 8, 8] = 1.0  # 8 px, a tenth of one over its neighborhood
    assert torch.equal(following(finer, carried, found, 8), finer)


def test_a_flow_is_gone_on_with_where_it_is_near() -> None:
    state = FlowState(torch.zeros(1, 1, 1, 3), torch.zeros(1, 2, 1, 3))
    other = torch.tensor([[[[0.1, 0.3, torch.nan]], [[0.0, 0.0, 0.0]]]])
    assert state.near(other, 0.2).flow.flatten().tolist() == pytest.approx([0.1, 0, 0, 0, 0, 0])


def test_a_frame_that_comes_twice_takes_no_solve(
    trained: DEQFlow, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = FlowStream(trained)
    frames = [window(picture, right) for right in (0, 6, 12, 12, 18)]
    estimates = [stream.push(frame) for frame in frames[:3]]
    monkeypatch.setattr(trained, "solve", None)
    still = stream.push(frames[3])
    monkeypatch.undo()
    assert stream.duplicate and not stream.reused and not stream.cut
    assert not still.flow.any() and still.cost == 0 and still.steps == 0 and still.converged
    after = stream.push(frames[4])
    assert stream.reused and not stream.duplicate and stream.afresh == 0
    assert after.steps <= estimates[1].steps
    assert np.median(after.flow[..., 0]) == pytest.approx(6, abs=0.3)


def test_a_frame_that_nearly_comes_twice_is_solved_cold_and_not_reused(
    trained: DEQFlow, picture: np.ndarray
) -> None:
    frames = [window(picture, right) for right in (0, 6, 12, 12, 18)]
    frames[3] = np.clip(frames[3].astype(int) + 1, 0, 255).astype(np.uint8)
    stream = FlowStream(trained)
    seen = pushed(stream, frames, "reused")
    assert seen == [False, False, True, False, True] and stream.afresh == 0


def test_blocks_of_cells_are_told_from_lone_ones() -> None:
    cells = torch.zeros(1, 1, 6, 8)
    cells[..., 1:3, 1:3] = 1
    cells[..., 4, :] = 1
    cells[..., 0, 7] = 1
    found = torch.zeros(1, 1, 6, 8, dtype=torch.bool)
    found[..., 1:3, 1:3] = True
    assert torch.equal(blocks(cells, 2), found)
    assert not blocks(cells, 3).any() and torch.equal(blocks(cells, 1), cells > 0)


def test_holes_are_filled_from_around_them() -> None:
    values = torch.full((1, 2, 9, 13), 7.0)
    known = torch.ones(1, 1, 9, 13, dtype=torch.bool)
    known[..., 2:7, 3:11] = False
    torch.testing.assert_close(filled(torch.where(known, values, -99.0), known), values)
    nothing = torch.zeros_like(known)
    assert not filled(values, nothing).any()


def test_the_range_of_floating_point_frames_is_decided_at_the_first_pair(
    trained: DEQFlow, picture: np.ndarray
) -> None:
    bright = window(picture, 4).astype(np.float32)
    dark = np.full_like(bright, 0.5)
    stream = FlowStream(trained, steps=2)
    stream.push(dark)
    found = stream.push(bright)
    expected = trained.estimate(dark, bright, steps=2, scales="all")
    np.testing.assert_allclose(found.flow, expected.flow, atol=1e-4)
    with pytest.raises(ImageError, match="frame 3 has values"):
        stream.push(bright * 9)


def test_carry_moves_flow_and_hidden_and_fills_holes() -> None:
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0, :, :4] = 2.0  # the left half moves right by two
    hidden = torch.arange(8.0).expand(1, 3, 6, 8).contiguous()
    carried = carry(FlowState(hidden, flow))
    row = carried.flow[0, 0, 3]
    assert row[2:4].tolist() == [2, 2]
    assert row[6:].tolist() == [0, 0]
    assert row[:2].tolist() == [2, 2]  # uncovered: as what is beside it
    assert carried.hidden[0, 0, 3, 2:4].tolist() == [0, 1]
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
    for number in (10, 11):
        write_image(tmp_path / f"{number}.png", scene(0, 1)[0])
    with pytest.raises(VideoError, match=r"the folder .* has no two neighboring frames"):
        list(estimate_video(tmp_path, model, max_frames=2))
    assert len(list(estimate_video(tmp_path, model, steps=1))) == 1


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (40, 16), (24, 24)])
def test_the_smallest_frames(model: DEQFlow, size: tuple[int, int]) -> None:
    """On a grid smaller than the blocks in which starts are checked."""
    estimates = list(estimate_video(scene(0, 4, size), model, steps=2))
    assert [estimate.flow.shape for estimate in estimates] == [(*size, 2)] * 3
    assert all(np.isfinite(estimate.flow).all() for estimate in estimates)


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


def test_the_part_of_a_video_that_is_asked_for(model: DEQFlow, tmp_path: Path) -> None:
    for number, frame in enumerate(scene(0, 9), 1):
        write_image(tmp_path / f"{number}.png", frame)
    options: dict[str, Any] = {"start": "3f", "end": "8f", "stride": 2, "roi": (4, 2, 40, 30)}
    found = list(estimate_video(tmp_path, model, steps=STEPS, **options))
    expected = list(estimate_video([f[2:32, 4:44] for f in scene(0, 9)[2:7:2]], model, steps=STEPS))
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.flow, other.flow)
    (half,) = estimate_video(tmp_path, model, steps=1, max_frames=2, resize=(35, 25))
    assert half.flow.shape == (25, 35, 2)
    with pytest.raises(ConfigError, match="roi is for a video that is opened here"):
        next(estimate_video(scene(0, 3), model, roi=(0, 0, 16, 16)))


def test_where_nothing_is_reused_the_pair_is_solved_at_every_scale(
    trained: DEQFlow, picture: np.ndarray
) -> None:
    size = (164, 170)
    frames = [window(picture, 3 * index, size=size) for index in range(3)]
    frames.append(window(picture[::-1, ::-1], 0, size=size))
    options: Any = {
        "steps": STEPS,
        "tolerance": 0,
        "solver": deqflow.FixedPointIteration(),
        "second_start": False,
    }
    streamed = list(estimate_video(frames, trained, **options))
    # A first pair and the one across the cut; the carried one starts at 1/8.
    cold, reused = {16: STEPS, 8: STEPS, 4: STEPS}, {8: STEPS, 4: 2}
    assert [estimate.evaluations for estimate in streamed] == [cold, reused, cold]
    for index in (0, 2):
        expected = trained.estimate(frames[index], frames[index + 1], scales="all", **options)
        np.testing.assert_allclose(streamed[index].flow, expected.flow, atol=1e-3)


@pytest.mark.parametrize("kind", ["uint8", "float", "unit float"])
def test_a_saved_stream_goes_on_to_the_bit(model: DEQFlow, tmp_path: Path, kind: str) -> None:
    frames: list[np.ndarray] = [*scene(0, 3), *scene(0, 2)[1:], *scene(1, 2)]
    frames.insert(3, frames[2])  # a duplicate, at which the carried state waits
    if kind != "uint8":
        frames = [frame.astype(np.float32) / (255 if kind == "unit float" else 1) for frame in frames]

    def flows(stream: FlowStream, frame: np.ndarray) -> list[np.ndarray]:
        if not stream.take(frame):
            return []
        return [stream.forward().flow, stream.backward().flow]

    whole = FlowStream(model, steps=STEPS, scales=(16, 8))
    for saved in range(len(frames)):
        save_file(whole.state_dict(), tmp_path / f"{saved}.safetensors")
        expected = flows(whole, frames[saved])
        resumed = FlowStream(model, steps=STEPS, scales=(16, 8))
        resumed.load_state_dict(load_file(tmp_path / f"{saved}.safetensors"))
        assert resumed.frames == saved
        for one, other in zip(flows(resumed, frames[saved]), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match="not the state of a stream"):
        resumed.load_state_dict({"image": torch.zeros(1)})


def test_flow_back_is_that_of_the_frames_in_reverse(model: DEQFlow) -> None:
    frames = scene(0, 4)
    stream = FlowStream(model, reuse=False, steps=STEPS, tolerance=0)
    with pytest.raises(VideoError, match="two frames"):
        stream.backward()
    backward = []
    for frame in frames:
        if stream.take(frame):
            backward.append(stream.backward().flow)
            assert stream.backward().flow is backward[-1]  # solved once
    reverse = estimate_video(frames[::-1], model, reuse=False, steps=STEPS, tolerance=0)
    for one, other in zip(backward[::-1], reverse, strict=True):
        np.testing.assert_allclose(one, other.flow, atol=1e-4)
    assert len(list(estimate_video(frames, model, direction="backward", steps=1))) == 3


def test_occlusion_of_either_frame(model: DEQFlow) -> None:
    stream = FlowStream(model, reuse=False, steps=STEPS)
    for frame in scene(0, 2):
        stream.take(frame)
    there, back = stream.forward().flow, stream.backward().flow
    np.testing.assert_array_equal(stream.occlusion(), occlusion(there, back))
    np.testing.assert_array_equal(stream.occlusion("backward"), occlusion(back, there))


def test_each_direction_reuses_its_own_states(model: DEQFlow, starts: list[FlowState | None]) -> None:
    stream = FlowStream(model, check=False, detect_cuts=False, steps=STEPS)
    found = []
    for frame in scene(0, 4):
        if stream.take(frame):
            found.append((stream.forward(), stream.backward()))
    assert starts[:2] == [None, None]
    for (forward, backward), ahead, back in zip(found[:-1], starts[2::2], starts[3::2], strict=True):
        assert ahead is not None and back is not None
        torch.testing.assert_close(ahead.flow, carry(forward.state).flow)
        mirrored = carry(backward.state._replace(flow=-backward.state.flow))
        torch.testing.assert_close(back.flow, -mirrored.flow)


def test_a_direction_that_was_left_out_starts_anew(model: DEQFlow, starts: list[FlowState | None]) -> None:
    stream = FlowStream(model, check=False, detect_cuts=False, steps=STEPS)
    for index, frame in enumerate(scene(0, 5)):
        if stream.take(frame):
            stream.forward()
            if index != 2:
                stream.backward()
    kinds = [start is not None for start in starts]
    #      pair 1: both,  pair 2: forward, pair 3: backward anew, pair 4
    assert kinds == [False, False, True, True, False, True, True]


def test_coarse_scales_are_encoded_once_in_both_directions(
    model: DEQFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    encode = model._features

    def counting(image: torch.Tensor, strides: Any) -> Any:
        sizes.append(tuple(image.shape[2:]))
        return encode(image, strides)

    monkeypatch.setattr(model, "_features", counting)
    stream = FlowStream(model, steps=1, scales=(16, 8), check=False)
    for frame in scene(0, 3, (160, 192)):
        if stream.take(frame):
            stream.forward()
            stream.backward()
    assert sorted(sizes).count((160, 192)) == 3
    assert sorted(sizes).count((80, 96)) == 2  # the third frame's pair was started from the one before


def test_what_checks_cost_is_counted(model: DEQFlow) -> None:
    stream = FlowStream(model, detect_cuts=False, steps=STEPS, tolerance=0, scales=(16, 8))
    frames = scene(0, 3, (160, 192))
    stream.push(frames[0])
    first = stream.push(frames[1])
    assert first is not None and stream.cost == first.cost == STEPS * 1.25
    second = stream.push(frames[2])
    assert second is not None and stream.cost == pytest.approx(second.cost + CHECK_COST)
    stream.push(frames[2])
    assert stream.cost == 0
