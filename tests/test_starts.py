"""Wrong starts of training, and what else makes the fixed point the only place to rest."""

import json
from dataclasses import replace

import pytest
import torch
from training_runs import assert_same_run, finish, newest_state, small, start_several, weights

from deqflow.config import ModelConfig, SolveSettings
from deqflow.data.synthetic import MOTIONS, SceneConfig, SyntheticScenes, Textures
from deqflow.equilibrium import FixedPointIteration, OneStep, Recorded, Trajectory
from deqflow.errors import ConfigError
from deqflow.network import GatedStripConfig
from deqflow.processes import Processes
from deqflow.reuse import carry
from deqflow.step import FlowState
from deqflow.training.data import Batch, collate, evaluate
from deqflow.training.options import FootageOptions
from deqflow.training.parts import open_sources
from deqflow.training.stages import stage_for
from deqflow.training.starts import SHARES, StepRandomness, WrongStart, wrong_state
from deqflow.training.supervised import CorrectionObjective, residual_loss, right_cells
from deqflow.training.trainer import Trainer, run
from deqflow.training.unsupervised import UnsupervisedObjective
from deqflow.zoo import create, load, read_checkpoint, save_weights

PLAIN = FixedPointIteration()


@pytest.fixture
def model():
    """In evaluation mode, so that a pair's state does not depend on the rest of its batch."""
    return create("deqflow-s-v0").eval()


def frames(count, seed=0, size=(64, 72)):
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(2, count, 3, *size, generator=generator)


def solved(model, image1, image2, evaluations):
    """The state of pairs from zeros."""
    settings = SolveSettings(steps=evaluations, tolerance=0.0)
    return model.solve(model.prepare(image1, image2), settings=settings).finest.state


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", SHARES)
def test_a_wrong_start_is_the_state_of_the_pair_that_it_names(model, kind, bidirectional):
    image1, image2 = frames(3)
    start = WrongStart(kind, 4, shift=(-5, 11), offset=1)
    pair = model.prepare(image1, image2, bidirectional=bidirectional)
    found = wrong_state(model, pair, start, PLAIN)
    if bidirectional:
        image1, image2 = torch.cat((image1, image2)), torch.cat((image2, image1))
    expected = {
        "still": lambda: solved(model, image1, image1, 4),
        "other-motion": lambda: solved(model, image1, image2.roll((-5, 11), dims=(2, 3)), 4),
        # One further and one more, in a circle.
        "other-sample": lambda: solved(model, image1.roll(-2, 0), image2.roll(-2, 0), 4),
        "carried": lambda: carry(solved(model, image2, image1, 4)),
    }[kind]()
    assert not found.flow.requires_grad and found.flow.shape == expected.flow.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    right = solved(model, image1, image2, 4)
    assert all((found.flow - right.flow).flatten(1).abs().amax(dim=1) > 1e-3)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_carried_start_comes_from_the_frame_before_where_there_is_one(model, bidirectional):
    image1, image2 = frames(3)
    before = frames(3, seed=1)[0]
    pair = model.prepare(image1, image2, bidirectional=bidirectional)
    found = wrong_state(model, pair, WrongStart("carried", 4), PLAIN, before=before)
    if bidirectional:  # what comes before the way back is the way there
        before, image1 = torch.cat((before, image1)), torch.cat((image1, image2))
    expected = carry(solved(model, before, image1, 4))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_scenes_with_history_train(tmp_path):
    options = small(tmp_path, train_steps=2, bidirectional=True, history=True, wrong_start_probability=1.0)
    batch = collate([open_sources(options).training[index] for index in range(2)])
    assert batch.before.shape == batch.image1.shape and "before" in batch.tensors()
    run(options)
    assert newest_state(tmp_path)


def test_no_sample_is_its_own_other_and_a_batch_of_one_takes_another_motion(model):
    image1, image2 = frames(3)
    right = solved(model, image1, image2, 3)
    for offset in range(4):
        pair = model.prepare(image1, image2)
        found = wrong_state(model, pair, WrongStart("other-sample", 3, offset=offset), PLAIN)
        assert all((found.flow - right.flow).flatten(1).abs().amax(dim=1) > 1e-3)
    lone = [
        wrong_state(model, model.prepare(image1[:1], image2[:1]), WrongStart(kind, 3, (8, 8)), PLAIN).flow
        for kind in ("other-sample", "other-motion")
    ]
    assert torch.equal(*lone)


def test_as_many_steps_start_wrong_as_asked_of_every_kind_and_always_the_same(tmp_path):
    options = small(tmp_path, wrong_start_probability=0.4, coarse_start_probability=0.5)

    def draws():
        return [StepRandomness.of_step(step, options, torch.device("cpu")) for step in range(1000)]

    drawn = draws()
    wrong = [draw.wrong_start for draw in drawn if draw.wrong_start is not None]
    assert wrong == [draw.wrong_start for draw in draws() if draw.wrong_start is not None]
    assert 0.36 < len(wrong) / len(drawn) < 0.44
    for kind, share in SHARES.items():
        assert abs(sum(start.kind == kind for start in wrong) / len(wrong) - share) < 0.06
    assert {start.evaluations for start in wrong} == set(range(3, 15))
    assert max(abs(by) for start in wrong for by in start.shift) == 40
    assert not any(draw.coarse_start for draw in drawn if draw.wrong_start)
    assert any(draw.coarse_start for draw in drawn)
    never = small(tmp_path)
    assert StepRandomness.of_step(0, never, torch.device("cpu")).wrong_start is None
    # What is drawn for the rest of the step is the same with and without.
    assert StepRandomness.of_step(7, never, torch.device("cpu")).solver_steps == drawn[7].solver_steps


def test_the_stage_that_renders_scenes_has_wrong_starts_and_faster_motion():
    stage = stage_for("synthetic")
    assert stage.wrong_start_probability == 0.4 and stage.residual_where_right and stage.scenes == "fast"
    for other in (stage_for("chairs"), stage_for("custom"), stage_for("synthetic", "raft-small")):
        assert other.wrong_start_probability == 0
    with pytest.raises(ConfigError, match="wrong_start_probability"):
        replace(stage, wrong_start_probability=1.1)


WRONG = {
    "batch": 4,
    "bidirectional": True,
    "wrong_start_probability": 1.0,
    "residual_where_right": True,
    "minimum_gate": 0.1,
    "scenes": "fast",
    "seed": 6,
}


def test_a_stopped_run_with_wrong_starts_resumes_to_the_same_bits(tmp_path, monkeypatch):
    options = small(tmp_path / "whole", **WRONG)
    drawn = [StepRandomness.of_step(step, options, torch.device("cpu")) for step in range(6)]
    # Another release of PyTorch draws others.
    assert len({draw.wrong_start.kind for draw in drawn}) >= len(SHARES) - 1
    run(options)
    report = Trainer._report

    def stop_after_three(self, *parts):
        report(self, *parts)
        self.stopping = self.step == 2

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_report", stop_after_three)
        run(replace(options, output=tmp_path / "parts"))
    assert newest_state(tmp_path / "parts")["step"] == 3
    run(replace(options, output=tmp_path / "parts"))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    run(small(tmp_path / "right", **{**WRONG, "wrong_start_probability": 0.0}))
    (wrong, _), (right, _) = weights(tmp_path / "whole"), weights(tmp_path / "right")
    assert any(not torch.equal(value, right[name]) for name, value in wrong.items())


def test_two_processes_with_wrong_starts_are_alike_and_repeat_to_the_bit(tmp_path):
    for name in ("one", "again"):
        options = small(tmp_path / name, train_steps=3, **WRONG)
        assert finish(*start_several(options)) == [0, 0]
    assert_same_run(tmp_path / "one", tmp_path / "again")
    assert newest_state(tmp_path / "one")["skipped"] == 0


def test_a_solve_in_training_starts_where_it_is_told(model):
    image1, image2 = frames(2)
    start = solved(model, image1, image2, 5)
    pair, how = model.prepare(image1, image2), {"gradient": OneStep(), "solver": PLAIN, "steps": 3}
    path = model.trajectory(pair, start, correction=Recorded(count=1), **how)
    torch.testing.assert_close(path.points[-1].flow, solved(model, image1, image2, 8).flow)


@pytest.mark.parametrize("kind", SHARES)
def test_training_without_ground_truth_starts_wrong_too(model, kind):
    image1, image2 = frames(2)
    batch = Batch(image1, image2, torch.zeros(2, 2, 64, 72), torch.zeros(2, 1, 64, 72))
    objective = UnsupervisedObjective(model, FootageOptions())
    right, wrong = (
        objective(batch, StepRandomness(torch.zeros(0), 3, wrong_start=start))[0]
        for start in (None, WrongStart(kind, 3, (-8, 8)))
    )
    wrong.backward()
    assert wrong.isfinite() and abs(float(wrong.detach() - right.detach())) > 1e-4


def update(minimum_gate):
    torch.manual_seed(3)
    config = GatedStripConfig(minimum_gate=minimum_gate, motion=8, mixed=16)
    return config.build(hidden=8, context=8, correlation=12)


def inputs():
    generator = torch.Generator().manual_seed(1)
    sizes = (8, 2, 12, 8)
    hidden, flow, correlation, context = (torch.randn(2, size, 6, 7, generator=generator) for size in sizes)
    return hidden.tanh(), flow, correlation, context


def stepped(operator, hidden, flow, correlation, context):
    with torch.no_grad():
        return operator(hidden, flow, correlation, operator.prepare(context)).hidden


def test_the_bound_mixes_the_candidate_into_every_step():
    hidden, *rest = inputs()
    free, half, tenth = (stepped(update(bound), hidden, *rest) for bound in (0.0, 0.5, 0.1))
    candidate = 2 * half - free  # a step with bound m is (1 - m) of the free one and m of the candidate
    assert candidate.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(tenth, 0.9 * free + 0.1 * candidate)


def test_a_closed_gate_holds_any_state_but_a_bounded_one_only_the_candidates_fixed_points():
    hidden, *rest = inputs()
    for bound in (0.0, 0.2):
        operator = update(bound)
        with torch.no_grad():
            operator.gates.weight.zero_()
            operator.gates.bias[:8], operator.gates.bias[8:] = -100.0, torch.linspace(-1, 1, 8)
        fixed = torch.linspace(-1, 1, 8).tanh().view(1, 8, 1, 1).expand_as(hidden)
        torch.testing.assert_close(stepped(operator, fixed, *rest), fixed)
        moved = (stepped(operator, hidden, *rest) - hidden).abs().max()
        assert (moved > 0.1) if bound else (moved < 1e-6)


def test_the_bound_is_of_the_weights_file_and_used_where_it_is_loaded(tmp_path):
    options = small(tmp_path / "run", train_steps=1, minimum_gate=0.25, init="deqflow-s-v0")
    run(options)
    found = load("deqflow-s-v0", checkpoint=tmp_path / "run" / "deqflow-s-v0.safetensors", device="cpu")
    assert found.config.update.minimum_gate == 0.25 == found.update.minimum_gate
    # A later run keeps it unless told otherwise.
    again = {"init": str(tmp_path / "run" / "deqflow-s-v0.safetensors"), "train_steps": 1}
    run(small(tmp_path / "same", **again))
    run(small(tmp_path / "free", **again, minimum_gate=0.0))
    for name, bound in (("same", 0.25), ("free", 0.0)):
        model = load("deqflow-s-v0", checkpoint=tmp_path / name / "deqflow-s-v0.safetensors", device="cpu")
        assert model.config.update.minimum_gate == bound


def test_files_that_do_not_know_the_bound_have_none(tmp_path):
    described = create("deqflow-s-v0").config.to_dict()
    del described["update"]["minimum_gate"]
    assert described["update"]["kernel"] and ModelConfig.from_dict(described).update.minimum_gate == 0
    with pytest.raises(ConfigError, match="minimum_gate"):
        GatedStripConfig(minimum_gate=1.0)
    with pytest.raises(ConfigError, match="minimum_gate needs a model with gated strips"):
        run(small(tmp_path, model="deqflow-tiny", minimum_gate=0.1))
    with pytest.raises(ConfigError, match="minimum_gate of the update operator must be"):
        run(small(tmp_path, minimum_gate=-0.1))
    path = tmp_path / "older.safetensors"
    older = load("deqflow-s-v0", device="cpu")
    save_weights(older, path, metadata={"config": json.dumps(described)})
    assert load("deqflow-s-v0", checkpoint=path, device="cpu").config.update.minimum_gate == 0
    save_weights(older, path)
    assert load("deqflow-s-v0", checkpoint=path, device="cpu").config.update.minimum_gate == 0.05


def test_coarse_pixels_are_right_where_every_known_place_is():
    # Six coarse pixels of two places each: true motion, error and whether it is known, by hand.
    flow = torch.zeros(1, 2, 2, 1, 6)
    flow[:, 0, :, :, 3:5] = 100.0
    prediction, known = flow.clone(), torch.ones(1, 1, 2, 1, 6)
    prediction[0, 1, :, 0, 0] = 0.9  # right: below a pixel
    prediction[0, 1, 1, 0, 1] = 1.1  # wrong in one place
    prediction[0, 1, 1, 0, 2], known[0, 0, 1, 0, 2] = 9.0, 0.0  # what is wrong is not known
    prediction[0, 1, :, 0, 3] = 4.9  # right: below 5 %
    prediction[0, 1, :, 0, 4] = 5.1  # wrong
    known[..., 5] = 0.0  # nothing is known
    expected = [True, False, True, True, False, False]
    assert right_cells(prediction, flow, known).tolist() == [[expected]]
    still = FlowState(torch.zeros(1, 1, 1, 6), torch.zeros(1, 2, 1, 6))
    moved = still._replace(flow=torch.ones(1, 2, 1, 6) * torch.arange(6.0))
    path = Trajectory([still], [moved], torch.zeros(1, 3))
    counted = torch.tensor([[expected]])
    assert residual_loss(path, 8, counted).item() == pytest.approx(8 * 2**0.5 * (0 + 2 + 3) / 6)
    assert residual_loss(path, 8).item() == pytest.approx(8 * 2**0.5 * 15 / 6)


def test_a_flow_that_is_wrong_may_move_for_free(tmp_path):
    model = create("deqflow-s-v0").train()
    batch = collate([open_sources(small(tmp_path)).training[0]])
    batch = replace(batch, flow=batch.flow + 50)  # nothing is right
    losses = {}
    for where in (False, True):
        for weight in (0.0, 0.5):
            options = small(tmp_path, residual_where_right=where, residual_weight=weight)
            loss, _ = CorrectionObjective(model, options)(batch, StepRandomness(torch.arange(16), 3))
            losses[where, weight] = float(loss.detach())
    assert losses[True, 0.5] == losses[True, 0.0] == losses[False, 0.0] < losses[False, 0.5]


def test_faster_scenes_are_trained_on_and_usual_ones_held_out(tmp_path):
    usual, fast = (open_sources(small(tmp_path, scenes=motion)) for motion in ("usual", "fast"))
    assert MOTIONS["usual"] == SceneConfig() == usual.training.config
    assert fast.training.config == MOTIONS["fast"] != SceneConfig()
    assert (usual.held_out[0].read(3).frame1 == fast.held_out[0].read(3).frame1).all()
    assert usual.identity["scenes"] != fast.identity["scenes"]
    assert usual.identity["held out"] == fast.identity["held out"]
    lengths = [
        sum(float(abs(sources.training[index].flow).mean()) for index in range(40))
        for sources in (usual, fast)
    ]
    assert lengths[1] > 1.2 * lengths[0]


def test_better_weights_on_held_out_scenes_are_kept_too(tmp_path, capsys, monkeypatch):
    scores = iter([3.0, 2.0, 1.5])
    monkeypatch.setattr("deqflow.training.trainer.evaluate", lambda *_: {"epe_4_steps": next(scores)})
    for steps, told in ((1, "3.000 before, 2.000 at step 1"), (2, "3.000 before, 1.500 at step 2")):
        run(small(tmp_path, train_steps=steps, keep_best=True))
        assert f"better: held-out EPE {told}" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "deqflow-s-v0.safetensors").metadata["held_out_epe"] == "1.5"


def test_a_few_of_the_faster_scenes_are_held_out_besides(tmp_path):
    options = small(tmp_path, scenes="fast", validation_pairs=5)
    sources, model = open_sources(options), create("deqflow-s-v0").eval()
    assert [(kind.kind, kind.count) for kind in sources.held_out] == [("", 5), ("fast_", 2)]
    found = evaluate(model, sources, options, Processes(torch.device("cpu")), CorrectionObjective.error_of)
    names = ["epe_4_steps", "epe_8_steps", "fast_epe_4_steps", "fast_epe_8_steps"]
    assert list(found) == names and all(value > 0 for value in found.values())
    sample = sources.held_out[1].read(1)
    expected = SyntheticScenes(Textures(), 64, 64, seed=2_000_003, config=MOTIONS["fast"])[1]
    assert (sample.frame1 == expected.frame1).all()
