"""One operator solved at several strides: a small pyramid with random weights."""

import gc
import itertools
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pyramid import CONFIG, SCALES, frames, small_pyramid
from training_runs import finish, newest_state, small, start_several

from deqflow import zoo
from deqflow.config import ModelConfig, SolveSettings
from deqflow.equilibrium import Anderson, FixedPointIteration, OneStep, Recorded
from deqflow.errors import ConfigError, DeqflowWarning
from deqflow.estimator import DEQFlow
from deqflow.geometry import enlarged
from deqflow.network import (
    PyramidEncoder,
    PyramidEncoderConfig,
)
from deqflow.step import FlowState, UpdateStep
from deqflow.stream import FlowStream
from deqflow.training.starts import StepRandomness, WrongStart, choose_correction, follow
from deqflow.training.trainer import run


@pytest.fixture
def model(device):
    return small_pyramid().to(device)


def test_the_encoder_sees_every_stride():
    encoder = PyramidEncoder(stem=8, widths=(8, 12, 16), depths=(1, 1, 1), fused=12, features=10, context=6)
    found = encoder(torch.randn(2, 3, 32, 48))
    for level, ((features, trunk), stride) in enumerate(zip(found, SCALES, strict=True)):
        assert features.shape == (2, 10, 32 // stride, 48 // stride)
        context, hidden = encoder.context(trunk, level)
        assert context.shape == (2, 6, 32 // stride, 48 // stride) and hidden is None
        torch.testing.assert_close(features.mean(dim=(2, 3)), torch.zeros(2, 10), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 48), (40, 133)])
def test_any_size_is_solved_coarse_to_fine(model, size):
    estimate = model(*frames(*size).to(model.device), steps=3, tolerance=0.0)
    assert estimate.flow.shape == (1, 2, *size) and torch.isfinite(estimate.flow).all()
    assert estimate.uncertainty.shape == (1, *size)
    assert {stride: counts.tolist() for stride, counts in estimate.evaluations.items()} == {
        16: [3],
        8: [3],
        4: [3],
    }
    assert estimate[0].cost == 3 * (0.25 + 1 + 4)
    height, width = (-(-side // 16) * 4 for side in size)
    assert estimate.state.flow.shape == (1, 2, height, width)


def test_fast_leaves_the_finest_scale_out(model):
    images = frames(40, 56).to(model.device)
    fast = model(*images, steps=3, tolerance=0.0, scales="fast")
    named = model(*images, steps=3, tolerance=0.0, scales=(16, 8))
    assert fast.evaluations.keys() == {16, 8} and torch.equal(fast.flow, named.flow)
    assert fast.flow.shape == (1, 2, 40, 56) and fast.uncertainty.shape == (1, 40, 56)
    assert fast.state.flow.shape == (1, 2, 6, 8)
    single = model(*images, steps=3, tolerance=0.0, scales=(4,))
    assert single.evaluations.keys() == {4}
    for side, scales in ((320, {32, 16, 8, 4}), (304, {16, 8, 4})):  # a grid of at least 10 cells
        images = frames(side, 336).to(model.device)
        beyond = model(*images, steps=1, tolerance=0.0, scales=(32, 16, 8, 4))
        assert beyond.evaluations.keys() == scales
    for wrong in ((32,), (16, 4), (24, 12), (2, 1)):
        with pytest.raises(ConfigError, match="scale"):
            model.settings(scales=wrong)


def test_fine_solves_frames_of_twice_the_size_too(model):
    """Half the finest stride: the network at its finest stride, on enlarged frames, from the state before."""
    images = frames(48, 64).to(model.device)
    how = {"steps": 3, "tolerance": 0.0}
    whole = model(*images, **how, scales="fine")
    assert whole[0].evaluations == {16: 3, 8: 3, 4: 2, 2: 2} and whole[0].cost == 3 * 1.25 + 2 * (4 + 16)
    assert whole.flow.shape == (1, 2, 48, 64) and whole.state.flow.shape == (1, 2, 24, 32)
    before = model(*images, **how, fine_steps=2)
    larger = [enlarged(image, 2) for image in images]
    start = before.state.enlarged(2, (24, 32))
    alone = model(*larger, start, steps=2, tolerance=0.0, scales=(4,))
    torch.testing.assert_close(whole.state.flow, alone.state.flow)
    reduced = torch.nn.functional.avg_pool2d(alone.flow, 2) / 2
    change = (reduced - before.flow).norm(dim=1, keepdim=True)
    assert change.min() < 1 < change.max()  # some of it is as far as it may be
    torch.testing.assert_close(whole.flow, before.flow + (reduced - before.flow) / change.clamp_min(1))
    moved = 4 * (alone.state.flow - start.flow).abs().mean(dim=1, keepdim=True)
    doubt = model.uncertainty.expected_error(alone.state.hidden, moved)
    doubt = torch.nn.functional.avg_pool2d(doubt, 2)[:, 0] / 2
    counted = 0.5 / before.uncertainty.clamp_min(1)  # of errors that are larger than what can be mended, less
    told = before.uncertainty ** (1 - counted) * doubt**counted
    torch.testing.assert_close(whole.uncertainty, told)
    assert model.settings(scales="fine", fine_steps=3).fine_steps == 3
    model.defaults = model.settings(scales="fine")
    assert model.settings(scales="all").scales == SCALES


def test_small_stills_are_solved_at_half_the_finest_stride_too(model):
    images = frames(48, 64).to(model.device)
    model.defaults = replace(model.defaults, steps=3, tolerance=0.0, still_pixels=48 * 64)
    fine, whole = (model(*images, scales=scales) for scales in ("fine", "all"))
    assert fine[0].evaluations == {16: 3, 8: 3, 4: 2, 2: 2} and whole[0].evaluations.keys() == set(SCALES)
    still = model(*images)
    assert still[0].evaluations == fine[0].evaluations and torch.equal(still.flow, fine.flow)
    assert model(*images, fine_steps=1)[0].evaluations == {16: 3, 8: 3, 4: 1, 2: 1}
    larger = frames(49, 64).to(model.device)
    assert model(*larger)[0].evaluations.keys() == set(SCALES)
    # Between frames that follow each other it would cost more than all else.
    pictures = [image[0].permute(1, 2, 0).byte().cpu().numpy() for image in images]
    for stills, scales in ((True, {16, 8, 4, 2}), (False, set(SCALES))):
        stream = FlowStream(model, stills=stills)
        assert stream.push(pictures[0]) is None
        estimate = stream.push(pictures[1])
        assert estimate.evaluations.keys() == scales
        if stills:
            np.testing.assert_array_equal(estimate.flow, model.estimate(*pictures).flow)
        assert stream.push(pictures[1]).evaluations.keys() == {min(scales)}  # a duplicate


def test_a_flow_carries_a_graph_below_the_finest_stride(model):
    model.requires_grad_(True).train()
    model(*frames(32, 48).to(model.device), steps=2, scales="fine").flow.abs().mean().backward()
    stem = next(model.encoder.parameters())
    assert stem.grad is not None and stem.grad.abs().max() > 0


def test_every_scale_starts_from_the_one_before(model):
    images = frames(48, 64).to(model.device)
    how = {"steps": 4, "tolerance": 0.0}
    coarse = model(*images, **how, scales=(16, 8))
    whole = model(*images, **how)
    start = coarse.state.enlarged(2, (12, 16))
    torch.testing.assert_close(model(*images, start, **how, scales=(4,)).flow, whole.flow)


def test_an_error_is_expected_where_two_scales_of_the_model_disagree(model):
    images = frames(48, 64).to(model.device)
    how = {"steps": 4, "tolerance": 0.0}
    head = model.uncertainty
    coarse, whole = (model(*images, **how, scales=scales) for scales in ((16, 8), (16, 8, 4)))
    moved = 4 * (whole.state.flow - coarse.state.enlarged(2, (12, 16)).flow).abs().mean(dim=1, keepdim=True)
    assert moved.max() > 0.1
    torch.testing.assert_close(whole.uncertainty, head.expected_error(whole.state.hidden, moved)[:, 0])
    # An eighth is not what the head was trained for, and a start of one's own is no scale.
    eighth = torch.nn.functional.interpolate(head.expected_error(coarse.state.hidden), scale_factor=2.0)
    torch.testing.assert_close(coarse.uncertainty, eighth[:, 0])
    alone = model(*images, coarse.state.enlarged(2, (12, 16)), **how, scales=(4,))
    torch.testing.assert_close(alone.uncertainty, head.expected_error(whole.state.hidden)[:, 0])


def test_a_start_is_shrunk_for_the_first_of_the_scales(model):
    """What may be of another motion goes the way of a cold solve, which sees further."""
    images = frames(48, 64).to(model.device)
    how = {"steps": 2, "tolerance": 0.0}
    generator = torch.Generator().manual_seed(2)
    given = FlowState(*(torch.randn(1, size, 12, 16, generator=generator) for size in (16, 2)))
    given = FlowState(*(part.to(model.device) for part in given))
    flow = given.flow.unflatten(2, (3, 4)).unflatten(4, (4, 4)).mean(dim=(3, 5)) / 4
    state = FlowState(model.operator(model.prepare(*images, scales=(16,)), 16).start.hidden, flow)
    for scale in (16, 8, 4):
        if scale < 16:
            state = state.enlarged(2, (48 // scale, 64 // scale))
        state = model(*images, state, **how, scales=(scale,)).state
    torch.testing.assert_close(model(*images, given, **how).state.flow, state.flow)
    assert model(*images, given, **how)[0].evaluations == {16: 2, 8: 2, 4: 2}
    for part, wrong in (("flow", given.flow[:, :, 1:]), ("hidden", given.hidden[:, 1:])):
        expected = f"state is for a {part} of .*these frames need .*, 12, 16"
        with pytest.raises(ConfigError, match=expected):
            model(*images, given._replace(**{part: wrong}), **how)


def test_what_no_scale_needs_is_not_encoded(model):
    """Shrunk frames stand for the coarsest stride alone; without 1/4 nothing is fused to there."""
    image = frames(96, 128)[0].to(model.device)
    whole = model.encode(image)
    assert whole.features.keys() == {16, 8, 4}
    for scales, expected in (((8,), {16, 8}), ((16,), {16}), ((32,), {32}), ((32, 16, 8), {32, 16, 8})):
        found = model.encode(image, scales)
        assert found.features.keys() == expected
        for stride in expected - {32}:
            assert torch.equal(found.features[stride].matching, whole.features[stride].matching)
            assert torch.equal(found.features[stride].trunk, whole.features[stride].trunk)
    small = model.encode(torch.nn.functional.avg_pool2d(image, 2))
    assert torch.equal(found.features[32].matching, small.features[16].matching)
    more = model.encode(image, (4,), known=found.features)
    assert more.features.keys() == {32, 16, 8, 4}


def test_features_are_let_go_where_the_finest_scale_is_solved(model, monkeypatch):
    features, left = [], []
    encode, call = DEQFlow.encode, UpdateStep.__call__

    def encoding(model, image, *details, **more):
        frame = encode(model, image, *details, **more)
        features.extend(weakref.ref(part.matching) for part in frame.features.values())
        return frame

    def counting(step, state, active=None):
        gc.collect()
        left.append((state.flow.shape[-1], sum(one() is not None for one in features)))
        return call(step, state, active)

    monkeypatch.setattr(DEQFlow, "encode", encoding)
    monkeypatch.setattr(UpdateStep, "__call__", counting)
    model.estimate(*(frame[0] for frame in frames(64, 80)), steps=1)
    assert [width for width, _ in left] == [5, 10, 20]
    assert left[0][1] > 0 and left[-1][1] == 0


def test_a_flow_starts_a_solve_that_ends_before_the_finest_scale(model):
    one, two = (image[0].permute(1, 2, 0).numpy().astype(np.uint8) for image in frames(48, 64))
    flow = np.full((48, 64, 2), 8.0, np.float32)
    how = {"steps": 2, "tolerance": 0.0, "scales": "fast"}
    found = model.estimate(one, two, flow=flow, **how)
    assert found.state.flow.shape == (1, 2, 6, 8)
    assert not np.allclose(found.flow, model.estimate(one, two, **how).flow, atol=1e-3)


def test_cells_of_a_grid_that_does_not_halve_have_means_of_their_own():
    state = FlowState(torch.ones(1, 3, 5, 7), torch.full((1, 2, 5, 7), 6.0))
    half = state.reduced_flow(2)
    assert half.shape == (1, 2, 3, 4) and (half == 3).all()


def test_a_hidden_state_starts_a_solve_that_begins_at_its_scale_and_no_coarser_one(model):
    images = frames(48, 64).to(model.device)
    start = model(*images, steps=2, tolerance=0.0).state
    other = FlowState(-start.hidden, start.flow)
    for scales, same in (((16, 8, 4), True), ((4,), False)):
        flow, turned = (
            model(*images, at, steps=2, tolerance=0.0, scales=scales).flow for at in (start, other)
        )
        assert torch.equal(flow, turned) is same
    still = FlowState(start.hidden, torch.zeros_like(start.flow))
    usual, afresh = (model(*images, at, steps=2, tolerance=0.0).flow for at in (None, still))
    torch.testing.assert_close(afresh, usual)


@pytest.mark.parametrize("kind", ["other-motion", "carried"])
def test_training_at_the_finest_scale_comes_to_other_motions_by_way_of_the_coarser(model, kind):
    solved = []
    solve = model.solve
    model.defaults = model.settings(second_start=True)

    def watched(pair, state=None, settings=None, **more):
        solved.append((settings.scales, settings.steps, state))
        assert not settings.second_start  # which would be dear, and is for what is asked for once
        return solve(pair, state, settings, **more)

    model.solve = watched
    randomness = StepRandomness(torch.zeros(0), 3, wrong_start=WrongStart(kind, 5, (0, 16)), coarse_steps=4)
    options = replace(small(Path("unused")), model="custom", corrections=1)
    images = frames(48, 64).to(model.device)
    path = follow(model, options, *images, randomness, bidirectional=False)
    assert path.points[-1].flow.shape == (1, 2, 12, 16)
    (first, evaluations, start), *rest = solved
    assert start is None and evaluations == 5
    assert first == (16, 8)
    ((scales, evaluations, start),) = rest
    assert scales == (8,) and evaluations == 4 and start.flow.shape == (1, 2, 6, 8)


def test_the_tolerance_is_that_of_the_finest_scale(model):
    settings = model.settings(tolerance=0.1)
    factors = [settings.stopping(lambda new, old: new, scale).tolerance[0] for scale in settings.scales]
    assert factors == pytest.approx([0.4, 0.2, 0.1])


def test_the_finest_scale_is_the_finest_that_is_solved(model):
    """Without 1/4, an eighth gets the tolerance asked for, and a sixteenth twice as much."""
    images = frames(48, 64).to(model.device)
    whole = model(*images, steps=40, tolerance=2.0)
    fast = model(*images, steps=40, tolerance=4.0, scales="fast")
    assert {scale: whole.evaluations[scale].tolist() for scale in (16, 8)} == {
        scale: counts.tolist() for scale, counts in fast.evaluations.items()
    }
    assert 2 < fast.evaluations[8].item() < 40  # the tolerance decides, and not the number of steps
    pair = model.prepare(*images)
    start = model.coarse_start(pair, model.settings(steps=40, tolerance=2.0))
    again = model(*images, start, steps=40, tolerance=2.0, scales=(4,))
    torch.testing.assert_close(again.flow, whole.flow)


def test_a_limit_of_its_own_at_the_fine_scale(model):
    """Steps there cost four times as much; those asked for are never exceeded."""
    images = frames(40, 56).to(model.device)
    for steps, fine, expected in ((5, 2, 2), (2, 5, 2), (3, None, 3)):
        estimate = model(*images, steps=steps, fine_steps=fine, tolerance=0.0)
        counts = {scale: count.item() for scale, count in estimate.evaluations.items()}
        assert counts == {16: steps, 8: steps, 4: expected}
    fast = model(*images, steps=3, fine_steps=1, tolerance=0.0, scales="fast")
    assert {scale: count.item() for scale, count in fast.evaluations.items()} == {16: 3, 8: 3}
    with pytest.raises(ConfigError, match="fine_steps >= 1, got 0"):
        model.settings(fine_steps=0)


def test_all_scales_are_those_of_the_model_and_those_beyond_by_default(model):
    model.defaults = SolveSettings(scales=(32, 16, 8))
    assert model.settings(scales="all").scales == (32, 16, 8, 4)
    assert model.settings(scales="fast").scales == (32, 16, 8)


def test_every_parameter_learns_from_some_scale(model):
    model.requires_grad_(True).train()
    pair = model.prepare(*frames(48, 64).to(model.device))
    losses = []
    for scale in SCALES:
        path = model.trajectory(
            pair,
            scale=scale,
            correction=Recorded(count=2),
            gradient=OneStep(),
            solver=FixedPointIteration(),
            steps=3,
        )
        positions = torch.tensor([0, scale**2 - 1], device=model.device)
        whole = model.flow_at(path.states[-1], scale=scale)
        chosen = model.flow_at(path.states[-1], positions, scale=scale)
        assert whole.shape == (1, 2, 48, 64) and chosen.shape == (1, 2, 2, 48 // scale, 64 // scale)
        torch.testing.assert_close(chosen[0, :, 0], whole[0, :, ::scale, ::scale])
        losses.append(whole.abs().mean())
        if scale == 4:
            losses.append(model.uncertainty(path.states[-1].hidden).expected_error.mean())
    torch.stack(losses).sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("scales", ["all", "fast", "fine"])
def test_a_stream_carries_the_state_of_an_eighth(model, scales):
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    picture = np.repeat(np.repeat(picture[::6, ::6], 6, 0), 6, 1)
    stream = FlowStream(model, check=False, detect_cuts=False, steps=2, scales=scales)
    seen = [stream.push(picture[:, 2 * shift : 64 + 2 * shift]) for shift in range(3)]
    assert seen[1].evaluations.keys() == set(stream.settings.scales)
    assert seen[2].evaluations.keys() == {"all": {8, 4}, "fast": {8}, "fine": {8, 4, 2}}[scales]
    assert stream.reused
    assert stream.state_dict()["forward.flow"].shape == (1, 2, 8, 8)
    again = FlowStream(model, check=False, detect_cuts=False, steps=2, scales=scales)
    again.load_state_dict(stream.state_dict())
    ahead = picture[:, 6:70]
    assert np.array_equal(again.push(ahead).flow, stream.push(ahead).flow)


def test_a_scale_finer_than_an_eighth_starts_from_it_on_video_too(model):
    images = frames(48, 64).to(model.device)
    settings = model.settings(steps=3, tolerance=0.0)
    assert settings.reused_scale == 8 and settings.begun_at(8).scales == (8, 4)
    assert replace(settings, scales=(4,)).reused_scale == 4
    pair = model.prepare(*images)
    solved = model.solve(pair, settings=settings)
    coarse = model.solve(pair, settings=replace(settings, scales=(16, 8)))
    torch.testing.assert_close(solved.reusable.state.flow, coarse.finest.state.flow)
    start = coarse.finest.state
    on = model.solve(pair, start, settings.begun_at(8))
    again = model.solve(pair, start, replace(settings, scales=(8,)))
    torch.testing.assert_close(on.reusable.state.flow, again.finest.state.flow)
    everywhere = torch.ones(1, 1, 6, 8, dtype=torch.bool, device=model.device)
    mixed = model.solve(pair, start, settings, trusted=everywhere)
    assert mixed.evaluations.keys() == {16, 8, 4}
    torch.testing.assert_close(mixed.finest.state.flow, on.finest.state.flow)


def test_a_description_survives_and_wrong_ones_are_refused():
    assert ModelConfig.from_dict(CONFIG.to_dict()) == CONFIG and CONFIG.strides == SCALES
    with pytest.raises(ConfigError, match="as many depths as widths"):
        PyramidEncoderConfig(widths=(8, 8), depths=(1,))


def test_weights_of_another_configuration_of_ours_are_loaded_as_they_describe_themselves(tmp_path, model):
    path = tmp_path / "pyramid.safetensors"
    zoo.save_weights(model, path)
    with pytest.warns(UserWarning, match=r"pyramid\.safetensors describes another configuration"):
        loaded = zoo.load("deqflow-s", checkpoint=path, device=str(model.device), precision="float32")
    assert loaded.config == CONFIG and loaded.defaults.scales == (64, 32, *SCALES)
    images = frames(40, 56).to(model.device)
    how = {"steps": 2, "scales": "all"}
    assert torch.equal(loaded(*images, **how).flow, model(*images, **how).flow)
    for broken in (replace(CONFIG, hidden=20), replace(CONFIG, levels=3)):
        other = DEQFlow(broken, SolveSettings(scales=SCALES))
        other.config = CONFIG  # describes what it is not
        zoo.save_weights(other, path)
        with pytest.raises(zoo.loading.CheckpointError, match="tensors are missing, unknown or of another"):
            zoo.load("deqflow-s", checkpoint=path)


def test_the_correlation_does_not_change_the_flow(model):
    images = frames(40, 56).to(model.device)
    flows = []
    for kind in ("all-pairs", "on-demand"):
        model.correlation = kind
        flows.append(model(*images, steps=3, tolerance=0.0).flow)
    for one, other in itertools.pairwise(flows):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


PYRAMID = {"model": "deqflow-s", "scale_shares": (0.3, 0.3, 0.4), "coarse_start_probability": 0.5}


def test_training_draws_the_scale_of_a_step(tmp_path):
    options = small(tmp_path, **PYRAMID)
    drawn = [StepRandomness.of_step(step, options, torch.device("cpu")) for step in range(400)]
    for scale, share in enumerate(options.scale_shares):
        assert abs(sum(draw.scale == scale for draw in drawn) / 400 - share) < 0.08
    for stride in (16, 4):
        positions = drawn[0].positions(stride)
        assert len(positions) == len(set(positions.tolist())) == min(options.subpixel_positions, stride**2)
        assert int(positions.max()) < stride**2 and torch.equal(positions, drawn[0].positions(stride))
    plain = StepRandomness.of_step(0, small(tmp_path), torch.device("cpu"))
    assert plain.scale == -1 and torch.equal(plain.positions(8), plain.subpixel_positions)


def test_the_finest_scale_has_steps_of_its_own_and_starts_from_the_coarse_fixed_point(tmp_path):
    before, after = (
        [StepRandomness.of_step(step, options, torch.device("cpu")) for step in range(60)]
        for options in (small(tmp_path, **PYRAMID), small(tmp_path, fine_steps=(1, 2), **PYRAMID))
    )
    finest = [draw for draw in after if draw.scale == 2]
    assert {draw.solver_steps for draw in finest} == {1, 2}
    assert all(draw.coarse_start != (draw.wrong_start is not None) for draw in finest)
    longest = StepRandomness.longest(small(tmp_path, fine_steps=(1, 2), **PYRAMID), torch.device("cpu"))
    assert longest.solver_steps == 2 and longest.coarse_start
    for old, new in zip(before, after, strict=True):  # all else is drawn as before
        assert new.coarse_steps == old.solver_steps and (new.scale, new.wrong_start) == (
            old.scale,
            old.wrong_start,
        )
        assert new.scale == 2 or (new.solver_steps, new.coarse_start) == (old.solver_steps, old.coarse_start)


def test_every_scale_is_trained_by_one_process_or_two(tmp_path):
    how = {"fine_steps": (1, 3), "correction_ratio": 0.4, "wrong_start_probability": 0.3, **PYRAMID}
    options = small(tmp_path / "one", train_steps=4, **how)
    drawn = [StepRandomness.of_step(step, options, torch.device("cpu")).scale for step in range(4)]
    assert len(set(drawn)) > 1
    run(options)
    assert newest_state(tmp_path / "one")["skipped"] == 0
    loaded = zoo.load("deqflow-s", checkpoint=tmp_path / "one" / "deqflow-s.safetensors")
    assert loaded.config.strides == SCALES
    assert finish(*start_several(replace(options, output=tmp_path / "two", train_steps=2))) == [0, 0]


def test_options_go_by_the_scales_of_the_weights_that_a_run_starts_with(tmp_path):
    options = small(tmp_path / "new", model="deqflow-s", train_steps=1)
    assert options.scale_shares == () and options.fine_steps is None
    trained = options.for_strides(SCALES)
    assert trained.scale_shares == pytest.approx((0.2, 0.4, 0.4)) and trained.fine_steps == (2, 6)
    assert replace(options, positions=(1, 3)).for_strides(SCALES).fine_steps == (3, 6)
    kept = replace(options, scale_shares=(0.5, 0.0, 0.5), fine_steps=(1, 2))
    assert kept.for_strides(SCALES) == kept
    # Those of the first deqflow-s have one.
    first = str(zoo.shipped_weights("deqflow-s-v0"))
    with pytest.warns(DeqflowWarning, match="another configuration"):
        run(replace(options, init=first, fine_steps=(1, 2)))
    with pytest.warns(DeqflowWarning, match="another configuration"):
        loaded = zoo.load("deqflow-s", checkpoint=tmp_path / "new" / "deqflow-s.safetensors")
    assert loaded.config.strides == (8,)


def test_half_the_finest_stride_is_trained_if_it_has_a_share(tmp_path):
    how = {"model": "deqflow-s", "scale_shares": (0.0, 0.0, 0.0, 1.0), "fine_steps": (1, 2)}
    options = small(tmp_path, train_steps=2, **how)
    drawn = [StepRandomness.of_step(step, options, torch.device("cpu"), fine=2) for step in range(20)]
    assert {draw.stride(CONFIG) for draw in drawn} == {2} and {draw.solver_steps for draw in drawn} == {1, 2}
    assert all(draw.coarse_start for draw in drawn)
    longest = StepRandomness.longest(options, torch.device("cpu"))
    assert longest.stride(CONFIG) == 2 and longest.solver_steps == 2
    run(options)
    assert newest_state(tmp_path)["skipped"] == 0 and newest_state(tmp_path)["step"] == 2
    with pytest.raises(ConfigError, match="scale_shares needs 3 shares for deqflow-s, one a scale"):
        replace(options, scale_shares=(0.2,) * 5).for_strides(SCALES)


@pytest.mark.parametrize("kind", [None, "still", "other-motion", "carried"])
def test_half_the_finest_stride_is_reached_through_the_scales_before_it(kind):
    """From an eighth where the start is wrong: in use that is solved there before it comes to 1/4."""
    model, options = small_pyramid(), small(Path(), model="deqflow-s")
    start = None if kind is None else WrongStart(kind, 3, (0, 16))
    how = {"wrong_start": start, "coarse_start": start is None, "scale": 3, "coarse_steps": 4}
    path = follow(
        model, options, *frames(48, 64), StepRandomness(torch.zeros(0), 2, **how), bidirectional=False
    )
    assert path.states[-1].flow.shape == (1, 2, 24, 32)
    if start is None:
        settings = replace(model.defaults, steps=4, tolerance=0.0, scales=(*SCALES, 2))
        pair = model.prepare(*frames(48, 64), scales=settings.scales)
        alone = model.trajectory(
            pair,
            model.coarse_start(pair, settings),
            correction=choose_correction(options, 2),
            gradient=OneStep(),
            solver=settings.solver,
            steps=2,
            scale=2,
        )
        torch.testing.assert_close(path.states[-1].flow, alone.states[-1].flow)


def test_shares_and_sizes_that_do_not_fit_the_scales_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="scale_shares must be shares"):
        small(tmp_path, scale_shares=(0.0, 0.0))
    with pytest.raises(ConfigError, match="fine_steps must rise from at least 1"):
        small(tmp_path, fine_steps=(3, 2))
    with pytest.raises(ConfigError, match="at least 4, the last of positions"):
        small(tmp_path, fine_steps=(3, 5), positions=(2, 4), solver_steps=(4, 6))
    for unread in ({"scheme": "segments"}, {"gradient": "unrolled"}, {"positions": (1, 3)}):
        with pytest.raises(ConfigError, match="correction_ratio needs scheme recorded"):
            small(tmp_path, correction_ratio=0.4, **unread)
    with pytest.raises(ConfigError, match="scale_shares needs 1 shares for deqflow-s-v0"):
        run(small(tmp_path, scale_shares=(0.5, 0.5)))
    with pytest.raises(ConfigError, match="multiples of 16 for deqflow-s"):
        run(small(tmp_path, model="deqflow-s", height=72))


def test_a_low_tolerance_takes_another_solver_unless_one_is_named():
    model = zoo.create("deqflow-s")
    assert model.settings().solver == model.settings(tolerance=0.0).solver == FixedPointIteration()
    assert model.settings(tolerance=0.03).solver == FixedPointIteration()
    assert (
        model.settings(tolerance=0.025).solver
        == model.settings(tolerance=0.01, steps=60).solver
        == Anderson()
    )
    named = FixedPointIteration(relaxation=0.6)
    assert model.settings(tolerance=0.01, solver=named).solver == named
    assert zoo.create("raft").settings(tolerance=1e-4).solver == zoo.create("raft").defaults.solver
