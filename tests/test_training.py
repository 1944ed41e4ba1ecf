"""Training: losses by hand, samples that are never repeated, and runs that resume exactly."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from deqflow.cli import main
from deqflow.errors import CheckpointError, ConfigError
from deqflow.training.data import StepSampler, list_textures, scenes, split_textures
from deqflow.training.loop import Trainer, one_cycle, run
from deqflow.training.losses import correction_loss
from deqflow.training.options import TrainOptions
from deqflow.zoo import load


def small(output, **changes):
    """A run of a few seconds on procedural textures."""
    options = TrainOptions(
        output=output,
        steps=6,
        batch=2,
        height=64,
        width=64,
        solver_steps=(3, 4),
        validate_minutes=0.0,
        device="cpu",
        precision="float32",
    )
    return replace(options, **changes)


def arguments(options, *extra):
    """The same as a command line."""
    first, last = options.solver_steps
    named = {
        "output": options.output,
        "steps": options.steps,
        "batch": options.batch,
        "height": options.height,
        "width": options.width,
        "validate-minutes": options.validate_minutes,
        "save-minutes": options.save_minutes,
        "device": "cpu",
        "precision": "float32",
    }
    flat = [word for name, value in named.items() for word in (f"--{name}", str(value))]
    return ["--stage", "synthetic", "--solver-steps", str(first), str(last), *flat, *extra]


def weights(output):
    state = torch.load(output / "state.pt", weights_only=True)
    return {**state["model"], **{f"average {k}": v for k, v in state["average"].items()}}, state


def assert_same_run(one, other):
    (first, first_state), (second, second_state) = weights(one), weights(other)
    assert first_state["step"] == second_state["step"]
    assert first_state["schedule"] == second_state["schedule"]
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for mine, theirs in zip(
        first_state["optimizer"]["state"].values(), second_state["optimizer"]["state"].values(), strict=True
    ):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


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


def test_one_cycle_rises_and_falls_to_zero():
    rates = [one_cycle(step, 100, 0.05) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1.0 and rates[-1] == 0.0
    assert all(a <= b for a, b in pairwise(rates[:5]))
    assert all(a >= b for a, b in pairwise(rates[5:]))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_out_every_sample_once(processes):
    shares = [list(StepSampler(3, 7, batch=8, rank=r, processes=processes)) for r in range(processes)]
    seen = [index for step in zip(*shares, strict=True) for part in step for index in part]
    assert seen == list(range(3 * 8, 7 * 8))


def test_held_out_scenes_share_no_texture_with_training(shared_textures, tmp_path):
    options = small(tmp_path, textures=shared_textures)
    textures = list_textures(options)
    assert scenes(options, textures, held_out=False).seed != scenes(options, textures, held_out=True).seed
    trained, held_out = (split_textures(textures, held_out=flag) for flag in (False, True))
    for kind in ("photos", "objects"):
        mine, other = (set(getattr(part, kind)) for part in (trained, held_out))
        assert mine and other and not mine & other


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0),
        ("height", 60),
        ("solver_steps", (2, 8)),
        ("solver_steps", (9, 8)),
        ("cells", 65),
        ("ema", 2.0),
    ],
)
def test_impossible_options_are_named(tmp_path, name, value):
    with pytest.raises(ConfigError, match=name):
        small(tmp_path, **{name: value})


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    run(small(tmp_path / "whole"))
    report = Trainer._report

    def stop_after_three(self, *parts):
        report(self, *parts)
        self.stopping = self.step == 2  # noticed at the end of the next step, as a signal would be

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_report", stop_after_three)
        run(small(tmp_path / "parts"))
    assert weights(tmp_path / "parts")[1]["step"] == 3
    run(small(tmp_path / "parts"))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    model = load("deqflow-s", checkpoint=tmp_path / "whole" / "deqflow-s.safetensors", device="cpu")
    expected = weights(tmp_path / "whole")[0]
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[f"average module.{name}"])


def test_the_command_trains_reports_and_validates(tmp_path, capsys):
    options = small(tmp_path, steps=2)
    words = arguments(replace(options, validate_minutes=1e-6), "--validation-pairs", "2")
    assert main(["train", *words]) == 0
    captured = capsys.readouterr()
    assert "held out epe_4_steps" in captured.out + captured.err
    for word in ("epe=", "residual=", "pairs_s="):
        assert word in captured.err
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert "model.safetensors" not in os.listdir(tmp_path) and (tmp_path / "deqflow-s.safetensors").exists()


def test_a_state_that_cannot_be_read_is_named_and_kept(tmp_path, capsys):
    options = small(tmp_path)
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        run(options)
    assert main(["train", *arguments(options)]) == 2
    assert "state.pt" in capsys.readouterr().err
    assert (tmp_path / "state.pt").read_bytes() == b"not a state"


def test_training_starts_from_given_weights(tmp_path):
    run(small(tmp_path / "first", steps=1))
    start = tmp_path / "first" / "deqflow-s.safetensors"
    run(small(tmp_path / "second", steps=1, init=str(start), learning_rate=0.0, weight_decay=0.0))
    for name, value in load_file(tmp_path / "second" / "deqflow-s.safetensors").items():
        torch.testing.assert_close(value, load_file(start)[name])


def launch(repository, options, *, processes=0):
    """``train.py`` as a user runs it, under torchrun for several processes."""
    python = [sys.executable]
    if processes:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*python, "train.py", *arguments(options)]
    return subprocess.Popen(
        command, cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bits(repository, tmp_path):
    options = small(tmp_path / "killed", steps=40, save_minutes=0.005)
    run(replace(options, output=tmp_path / "whole"))
    state = options.output / "state.pt"
    for delay in (0.0, 0.3, 0.8):
        process = launch(repository, options)
        deadline = time.monotonic() + 120
        seen = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if state.exists() and state.stat().st_mtime_ns != seen:
                break
            time.sleep(0.02)
        time.sleep(delay)
        process.kill()
        process.communicate()
    assert weights(options.output)[1]["step"] > 0
    process = launch(repository, options)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert_same_run(tmp_path / "whole", options.output)


@pytest.mark.slow
def test_sigterm_saves_and_ends_well(repository, tmp_path):
    options = small(tmp_path, steps=100_000, save_minutes=1000.0)
    process = launch(repository, options)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("events.out.tfevents.*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert weights(tmp_path)[1]["step"] > 0


@pytest.mark.slow
def test_two_processes_share_the_gradient_of_one(repository, tmp_path):
    options = small(tmp_path / "two", steps=1)
    run(replace(options, output=tmp_path / "one"))
    process = launch(repository, options, processes=2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    # Adam's first moment after one step is a tenth of the (clipped) gradient. The weights would not do:
    # Adam makes full steps of gradients that are nothing but rounding.
    one, two = (weights(tmp_path / part)[1]["optimizer"]["state"] for part in ("one", "two"))
    gradients = [torch.cat([state[k]["exp_avg"].flatten() for k in sorted(state)]) for state in (one, two)]
    assert gradients[0].norm() > 0.01
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[0].norm()
