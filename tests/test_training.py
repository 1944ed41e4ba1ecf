"""Training: losses by hand, samples that are never repeated, and runs that resume exactly."""

import os
import shutil
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from training_runs import arguments, assert_same_run, finish, small, start_several, weights

from deqflow import zoo
from deqflow.cli import main
from deqflow.data.synthetic import Textures
from deqflow.errors import CheckpointError, ConfigError
from deqflow.training import trainer
from deqflow.training.checkpoint import create_model
from deqflow.training.data import Batch, StepSampler, collate, split_textures
from deqflow.training.optimizer import learning_rate, linear, one_cycle
from deqflow.training.parts import open_sources
from deqflow.training.starts import StepRandomness
from deqflow.training.supervised import CorrectionObjective, correction_loss
from deqflow.training.trainer import Trainer, run
from deqflow.zoo import file_sha256, load, read_checkpoint


def test_correction_loss_by_hand():
    flow = torch.tensor([[[[1.0, 500.0, 3.0]], [[0.0, 0.0, 1.0]]]])
    valid = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    off_by_one, exact = flow + 1, flow.clone()
    # Only the first pixel counts (the second is too fast, the third unknown), of three with two channels.
    loss = correction_loss([off_by_one, exact, off_by_one], flow, valid, gamma=0.5)
    assert loss.item() == pytest.approx((0.25 + 1.0) * 2 / 6)


def test_correction_loss_ignores_what_is_not_a_number_where_flow_is_unknown():
    flow = torch.full((1, 2, 2, 2), torch.nan)
    loss = correction_loss([torch.zeros(1, 2, 2, 2)], flow, torch.zeros(1, 1, 2, 2), gamma=0.8)
    assert loss.item() == 0


def test_the_rate_rises_and_falls_to_zero():
    rates = [linear(step, 100, 0.05) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1.0 and rates[-1] == 0.0
    assert all(a <= b for a, b in pairwise(rates[:5]))
    assert all(a >= b for a, b in pairwise(rates[5:]))


@pytest.mark.parametrize(("steps", "warmup"), [(200, 0.05), (20, 0.3)])
def test_the_published_rate_is_that_of_torch(steps, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2.0, steps + 100, pct_start=warmup, anneal_strategy="linear", cycle_momentum=False
    )
    for step in range(steps):
        assert 2 * one_cycle(step, steps, warmup) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_out_every_sample_once(processes):
    shares = [list(StepSampler(3, 7, batch=8, rank=r, processes=processes)) for r in range(processes)]
    seen = [index for step in zip(*shares, strict=True) for part in step for index in part]
    assert seen == list(range(3 * 8, 7 * 8))


def test_held_out_scenes_share_no_texture_with_training(shared_textures, tmp_path):
    textures = Textures.from_folder(shared_textures)
    trained, held_out = (split_textures(textures, held_out=flag) for flag in (False, True))
    for kind in ("photos", "objects"):
        mine, other = (set(getattr(part, kind)) for part in (trained, held_out))
        assert mine and other and not mine & other


def test_held_out_scenes_are_others(tmp_path):
    sources = open_sources(small(tmp_path))
    assert sources.training[0].frame1.shape == (64, 64, 3)
    assert (sources.training[0].frame1 != sources.held_out[0].read(0).frame1).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0),
        ("height", 60),
        ("solver_steps", (2, 8)),
        ("positions", (3, 2)),
        ("damping", 0.0),
        ("keep", 0),
        ("solver_steps", (9, 8)),
        ("subpixel_positions", 65),
        ("ema", 2.0),
    ],
)
def test_impossible_options_are_named(tmp_path, name, value):
    with pytest.raises(ConfigError, match=name):
        small(tmp_path, **{name: value})


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, monkeypatch, optimizer):
    run(small(tmp_path / "whole", optimizer=optimizer))
    report = Trainer._report

    def stop_after_three(self, *parts):
        report(self, *parts)
        self.stopping = self.step == 2  # noticed at the end of the next step, as a signal would be

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_report", stop_after_three)
        run(small(tmp_path / "parts", optimizer=optimizer))
    assert weights(tmp_path / "parts")[1]["step"] == 3
    other = "muon" if optimizer == "adamw" else "adamw"
    with pytest.raises(ConfigError, match=f"optimizer '{optimizer}', not '{other}'"):
        run(small(tmp_path / "parts", optimizer=other))
    run(small(tmp_path / "parts", optimizer=optimizer))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    model = load("deqflow-s-v0", checkpoint=tmp_path / "whole" / "deqflow-s-v0.safetensors", device="cpu")
    expected = weights(tmp_path / "whole")[0]
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[f"average module.{name}"])


def test_by_the_clock_the_rate_falls_to_zero_with_the_minutes_of_all_parts_of_a_run(tmp_path, monkeypatch):
    clock, rates = SimpleNamespace(now=0.0), []
    step = Trainer._train_step

    def half_a_minute(self, *parts):
        means = step(self, *parts)
        clock.now += 30
        rates.append(self.rate)
        self.stopping = len(rates) == 2  # noticed at the end of the next step
        return means

    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(Trainer, "_train_step", half_a_minute)
    options = small(tmp_path, train_steps=100, schedule_by="clock", max_minutes=3)
    processor = [0.0]
    for reached in (3, 8, 8):  # interrupted, at the end of its time, and told once more
        run(options)
        state = weights(tmp_path)[1]
        assert state["step"] == reached
        processor.append(state["processor_seconds"])
        clock.now += 1000  # between two parts, which counts for nothing
    # Seconds are those before each step: the last of a part is not among them.
    minutes = [0, 0.5, 1, 1, 1.5, 2, 2.5, 3]
    assert rates == [learning_rate(options, step, 60 * spent) for step, spent in enumerate(minutes)]
    assert rates[-1] == 0 < rates[-2]
    assert processor[0] < processor[1] < processor[2] == processor[3]
    told = float(read_checkpoint(tmp_path / "deqflow-s-v0.safetensors").metadata["processor_hours"])
    assert told == pytest.approx(processor[-1] / 3600, abs=1e-4)


def test_processes_end_together_by_the_clock(tmp_path):
    options = small(tmp_path, train_steps=10_000, schedule_by="clock", max_minutes=0.01)
    assert finish(*start_several(options)) == [0, 0]
    assert 0 < weights(tmp_path)[1]["step"] < 10_000


def test_the_command_trains_reports_and_validates(tmp_path, capsys):
    options = small(tmp_path, train_steps=2)
    words = arguments(replace(options, validate_minutes=1e-6), "--validation-pairs", "2")
    assert main(["train", *words]) == 0
    captured = capsys.readouterr()
    assert "held out epe_4_steps" in captured.out + captured.err
    for word in ("epe=", "residual=", "pairs_s="):
        assert word in captured.err
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert (
        "model.safetensors" not in os.listdir(tmp_path) and (tmp_path / "deqflow-s-v0.safetensors").exists()
    )


def test_training_starts_from_given_weights(tmp_path):
    run(small(tmp_path / "first", train_steps=1))
    given = tmp_path / "first" / "deqflow-s-v0.safetensors"
    run(small(tmp_path / "second", train_steps=1, init=str(given), learning_rate=0.0, weight_decay=0.0))
    for name, value in load_file(tmp_path / "second" / "deqflow-s-v0.safetensors").items():
        torch.testing.assert_close(value, load_file(given)[name])


def gradients(output):
    """Adam's first moment after one step is a tenth of the (clipped) gradient.

    The weights would not do: Adam makes full steps of gradients that are nothing but rounding.
    """
    state = weights(output)[1]["optimizer"]["state"]
    return torch.cat([state[key]["exp_avg"].flatten() for key in sorted(state)])


def assert_same_gradient(one, two):
    first, second = gradients(one), gradients(two)
    assert first.norm() > 0.01
    assert (first - second).norm() < 1e-3 * first.norm()


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_share_the_gradient_of_one(tmp_path, count):
    options = small(tmp_path / "several", train_steps=1, batch=count)
    run(replace(options, output=tmp_path / "one"))
    assert finish(*start_several(options, count)) == [0] * count
    assert_same_gradient(tmp_path / "one", tmp_path / "several")


@pytest.mark.parametrize("coarse_start", [False, True])
def test_a_bidirectional_batch_has_the_gradient_of_its_pairs_one_by_one(tmp_path, coarse_start):
    options = small(tmp_path, bidirectional=True, batch=4, height=160, width=160, solver_steps=(3, 3))
    scenes = open_sources(options).training
    both = collate([scenes[index] for index in range(2)])
    flow, valid = both.ground_truth()
    there, back = (both.image1, both.image2), (both.image2, both.image1)
    single = Batch(*(torch.cat(images) for images in zip(there, back, strict=True)), flow, valid)
    randomness = StepRandomness(torch.arange(16), 3, coarse_start)
    found = []
    for batch in (both, single):
        torch.manual_seed(0)
        model = create_model(options, torch.device("cpu"))
        loss, metrics = CorrectionObjective(model, options)(batch, randomness)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((loss.detach(), metrics.epe, gradients))
    assert both.bidirectional and not single.bidirectional and len(flow) == 4
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_bidirectional_pairs_come_in_twos(tmp_path):
    run(small(tmp_path / "run", train_steps=1, bidirectional=True))
    with pytest.raises(ConfigError, match="batch must be even for bidirectional pairs, not 3"):
        small(tmp_path, batch=3, bidirectional=True)
    with pytest.raises(ConfigError, match="batch 2 must be a multiple of 1 processes times 2 parts times 2"):
        run(small(tmp_path / "parts", accumulate=2, bidirectional=True))


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path):
    run(small(tmp_path / "whole", train_steps=1))
    run(small(tmp_path / "parts", train_steps=1, accumulate=2))
    assert_same_gradient(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(ConfigError, match="batch 2 must be a multiple"):
        run(small(tmp_path / "thirds", accumulate=3))


def test_as_many_steps_start_at_the_coarse_fixed_point_as_asked(tmp_path):
    def share(**changes):
        options = small(tmp_path, **changes)
        randomness = [StepRandomness.of_step(step, options, torch.device("cpu")) for step in range(200)]
        return sum(draw.coarse_start for draw in randomness) / len(randomness)

    assert share() == 0 and share(coarse_start_probability=1.0) == 1
    assert 0.4 < share(coarse_start_probability=0.5) < 0.6
    options = small(tmp_path, coarse_start_probability=0.5, jacobian_weight=0.1, jacobian_every=2)
    for step in range(4):
        one, again = (StepRandomness.of_step(step, options, torch.device("cpu")) for _ in range(2))
        assert (
            torch.equal(one.subpixel_positions, again.subpixel_positions)
            and one.solver_steps == again.solver_steps
        )
        assert one.coarse_start == again.coarse_start and one.probe == again.probe
        assert (one.probe is None) == (step % 2 == 1)


def test_training_from_coarse_starts_is_training_of_another_path(tmp_path):
    sizes = {"height": 160, "width": 160, "train_steps": 2}
    run(small(tmp_path / "zero", **sizes))
    run(small(tmp_path / "coarse", coarse_start_probability=1.0, **sizes))
    (zero, _), (coarse, _) = weights(tmp_path / "zero"), weights(tmp_path / "coarse")
    assert all(torch.isfinite(value).all() for value in coarse.values())
    assert any(not torch.equal(value, coarse[name]) for name, value in zero.items())


def test_weights_tell_what_they_were_trained_from(tmp_path):
    run(small(tmp_path / "first", train_steps=1))
    initial = tmp_path / "first" / "deqflow-s-v0.safetensors"
    digest = file_sha256(initial)
    options = small(tmp_path / "second", train_steps=1, init=str(initial))
    run(options)
    initial.unlink()
    shutil.copy(tmp_path / "second" / "deqflow-s-v0.safetensors", initial)  # a state remembers what was there
    run(replace(options, train_steps=2))
    told = read_checkpoint(tmp_path / "second" / "deqflow-s-v0.safetensors").metadata["started_from"]
    assert told == f"deqflow-s-v0.safetensors (SHA-256 {digest}, 1 steps, 0.00 hours, from random weights)"
    mean = tmp_path / "mean.safetensors"
    sources = [initial, zoo.shipped_weights("deqflow-s-v0")]
    zoo.average(sources, mean, shares=(0.25, 0.75))
    run(small(tmp_path / "third", train_steps=1, init=str(mean)))
    told = read_checkpoint(tmp_path / "third" / "deqflow-s-v0.safetensors").metadata["started_from"]
    assert told.startswith(
        f"mean.safetensors (SHA-256 {file_sha256(mean)}, the mean of 0.25 of {initial.name} ("
    )
    assert f" and 0.75 of {initial.name} (SHA-256 {file_sha256(sources[1])}, 480 steps, 1.17 hours, " in told


def test_weights_that_tell_nonsense_of_what_they_are_the_mean_of_are_refused(tmp_path):
    for said in ("{}", "[1]", '[{"file": "a", "sha256": "b", "share": "c"}]', "["):
        zoo.save_weights(zoo.create("deqflow-s-v0"), tmp_path / "a.safetensors", metadata={"averaged": said})
        with pytest.raises(CheckpointError, match="its averaged is no"):
            run(small(tmp_path / "run", train_steps=1, init=str(tmp_path / "a.safetensors")))
