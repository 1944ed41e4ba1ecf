"""Training loses nothing: kills, full disks, damaged states, numbers that are none, dead workers."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
import warnings
from dataclasses import replace
from functools import partial

import psutil
import pytest
import torch
from safetensors import safe_open
from training_runs import (
    arguments,
    assert_same_run,
    finish,
    footage,
    newest_state,
    small,
    start,
    start_several,
    weights,
)

from deqflow.cli import main
from deqflow.errors import CheckpointError, ConfigError, DataError, TrainingError
from deqflow.processes import Processes
from deqflow.signals import ENDINGS
from deqflow.training.checkpoint import StateStore, check_alike, read_state
from deqflow.training.data import batches
from deqflow.training.optimizer import MuonAdamW
from deqflow.training.pairs import Epochs
from deqflow.training.parts import open_sources
from deqflow.training.supervised import CorrectionObjective
from deqflow.training.trainer import run

CPU = Processes(torch.device("cpu"))


class Unlike(Processes):
    """A process among others that have other numbers."""

    def alike(self, *values):
        return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, in a process of its own as the interrupted ones are."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    assert finish(start(small(output))) == [0]
    return output


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory):
    """The same by two processes."""
    output = tmp_path_factory.mktemp("runs") / "two"
    assert finish(*start_several(small(output))) == [0, 0]
    return output


@pytest.mark.parametrize("different", ["folder", "data"])
def test_processes_that_do_not_start_alike_end_before_a_step(tmp_path, whole_of_two, different):
    shared = tmp_path / "shared"
    shutil.copytree(whole_of_two, shared)
    options = small(shared, train_steps=9)
    other = replace(options, output=tmp_path / "own") if different == "folder" else replace(options, seed=1)
    assert 0 not in finish(*start_several(options, other=other))
    assert newest_state(shared)["step"] == 6 and not (tmp_path / "own").exists()
    with pytest.raises(TrainingError, match=r"do not start alike \(this one at step 3\): --output must be a"):
        check_alike(Unlike(torch.device("cpu"), count=2), 3, "{}", {})


def test_every_changed_byte_of_a_state_is_noticed(tmp_path):
    path = StateStore(tmp_path, keep=2).save({"step": 1, "model": {"weight": torch.arange(5.0)}})
    data = path.read_bytes()
    assert torch.equal(read_state(path)["model"]["weight"], torch.arange(5.0))
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="damaged"):
            read_state(path)
    for length in (0, 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            read_state(path)


def test_only_the_last_states_are_kept(tmp_path):
    store = StateStore(tmp_path, keep=2)
    (tmp_path / ".state-00000001.pt.77.tmp").write_bytes(b"killed while writing")
    for step in (2, 5, 11, 100):
        store.save({"step": step})
    assert sorted(os.listdir(tmp_path)) == ["state-00000011.pt", "state-00000100.pt"]
    assert newest_state(tmp_path)["step"] == 100


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path):
    store = StateStore(tmp_path, keep=1)
    store.keep = 3
    for step in (1, 2):
        store.save({"step": step})
    newest = tmp_path / "state-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    store = StateStore(tmp_path, keep=1)
    with pytest.warns(UserWarning, match=r"state-00000002\.pt cannot be resumed"):
        assert store.newest()[1]["step"] == 1
    store.save({"step": 2})
    # What was damaged is set aside, not counted among the states to keep, and the step is written anew.
    assert sorted(os.listdir(tmp_path)) == ["state-00000002.pt", "state-00000002.pt.damaged"]
    assert newest_state(tmp_path)["step"] == 2


def test_a_folder_of_damaged_states_only_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "state-00000001.pt").write_bytes(b"not a state")
    with (
        pytest.warns(UserWarning),
        pytest.raises(CheckpointError, match=r"state-00000001\.pt is not a whole"),
    ):
        run(small(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["train", *arguments(small(tmp_path))]) == 2
    assert "state-00000001.pt" in capsys.readouterr().err
    assert (tmp_path / "state-00000001.pt").read_bytes() == b"not a state"


@pytest.mark.parametrize("touch", [4, 7, 11])
def test_a_run_killed_while_it_writes_resumes_to_the_same_bits(whole, tmp_path, touch):
    options = small(tmp_path / "run", save_minutes=0.0)
    assert finish(start(options, die_at=touch)) == [-signal.SIGKILL]
    assert finish(start(options)) == [0]
    assert_same_run(whole, options.output)


@pytest.mark.slow
def test_a_run_killed_at_every_fifth_touch_of_a_file_resumes_to_the_same_bits(tmp_path):
    assert finish(start(small(tmp_path / "whole", train_steps=2))) == [0]
    died = 0
    for touch in range(0, 1000, 5):
        options = small(tmp_path / str(touch), train_steps=2, save_minutes=0.0, keep=1)
        first = finish(start(options, die_at=touch))
        if first == [0]:
            break
        assert first == [-signal.SIGKILL]
        died += 1
        assert finish(start(options)) == [0]
        assert_same_run(tmp_path / "whole", options.output)
    assert died > 6


@pytest.mark.slow
def test_a_run_killed_again_and_again_resumes_to_the_same_bits(tmp_path):
    options = small(tmp_path / "killed", train_steps=30, save_minutes=0.0)
    assert finish(start(replace(options, output=tmp_path / "whole"))) == [0]
    kills = 0
    for attempt in range(20):
        process = start(options)
        process.join(0.35 + 0.17 * (attempt % 7))
        if process.exitcode == 0:
            break
        process.kill()
        process.join()
        kills += 1
    assert kills > 3
    assert finish(start(options)) == [0]
    assert_same_run(tmp_path / "whole", options.output)


def test_two_processes_killed_resume_to_the_same_bits(whole_of_two, tmp_path):
    options = small(tmp_path / "run", save_minutes=0.0)
    assert finish(*start_several(options, die_at=9))[0] == -signal.SIGKILL
    assert finish(*start_several(options)) == [0, 0]
    assert_same_run(whole_of_two, options.output)


@pytest.mark.slow
@pytest.mark.parametrize("touch", range(2, 20, 4))
def test_two_processes_killed_at_many_instants_resume_to_the_same_bits(whole_of_two, tmp_path, touch):
    test_two = small(tmp_path / "run", save_minutes=0.0)
    assert finish(*start_several(test_two, die_at=touch))[0] == -signal.SIGKILL
    assert finish(*start_several(test_two)) == [0, 0]
    assert_same_run(whole_of_two, test_two.output)


def test_a_full_disk_ends_the_run_and_leaves_the_state_before(tmp_path, capsys, monkeypatch):
    options = small(tmp_path, train_steps=2)
    run(options)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("state-*.pt")}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["train", *arguments(replace(options, train_steps=4))]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device" in told and "state-00000002.pt is intact" in told
    assert {path.name: path.read_bytes() for path in tmp_path.glob("state-*.pt")} == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_state_that_the_system_refuses_to_write_leaves_the_one_before(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run" / "state-00000006.pt").read_bytes()
    options = small(tmp_path / "run", train_steps=7)
    assert finish(start(options, largest_file=len(before) // 2)) == [1]
    assert [path.name for path in options.output.glob("*state*")] == ["state-00000006.pt"]
    assert (options.output / "state-00000006.pt").read_bytes() == before
    assert finish(start(options)) == [0]
    assert newest_state(options.output)["step"] == 7


def wait_for(output, pattern):
    """Until a run has written such a file."""
    deadline = time.monotonic() + 120
    while not list(output.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_sigterm_saves_and_ends_well(tmp_path):
    process = start(small(tmp_path, train_steps=100_000, save_minutes=1000.0))
    wait_for(tmp_path, "events.out.tfevents.*")
    time.sleep(0.5)
    process.terminate()
    assert finish(process) == [0]
    assert newest_state(tmp_path)["step"] > 0


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGTERM, signal.SIGHUP))],
)
def test_a_signal_that_reaches_the_workers_too_lets_the_run_save_and_end_well(tmp_path, number):
    process = start(small(tmp_path, train_steps=100_000, save_minutes=0.0, workers=2), own_group=True)
    wait_for(tmp_path, "state-*.pt")
    os.killpg(process.pid, number)
    assert finish(process) == [0]
    assert newest_state(tmp_path)["step"] > 0


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow), "spawn"])
def test_what_reads_for_a_run_outlives_signals(tmp_path, method):
    assert finish(start(small(tmp_path, workers=2), what=partial(read_in_spite_of_signals, method))) == [0]


def read_in_spite_of_signals(method, options):
    """Fail where a signal ends one of the processes that read, or one that starts them."""
    multiprocessing.set_start_method(method, force=True)
    reading = batches(open_sources(options).training, 0, 1000, options, CPU)
    next(reading)
    helpers = psutil.Process().children(recursive=True)
    assert len(helpers) == 2
    for helper in helpers:
        for number in ENDINGS:
            helper.send_signal(number)
    time.sleep(0.5)
    assert not psutil.wait_procs(helpers, timeout=0)[0]
    next(reading)
    reading.close()


def broken_at(monkeypatch, steps):
    """Losses are not numbers at these steps."""
    forward, calls = CorrectionObjective.forward, iter(range(1000))

    def sometimes(self, *inputs):
        loss, metrics = forward(self, *inputs)
        return (loss * float("nan") if next(calls) in steps else loss), metrics

    monkeypatch.setattr(CorrectionObjective, "forward", sometimes)


def test_steps_that_are_not_numbers_change_nothing_and_are_counted(tmp_path, monkeypatch):
    run(small(tmp_path / "two", train_steps=2))
    with monkeypatch.context() as patched:
        broken_at(patched, {2, 3})
        run(small(tmp_path / "four", train_steps=4, learning_rate=5e-4))
    (before, _), (after, state) = weights(tmp_path / "two"), weights(tmp_path / "four")
    assert state["skipped"] == 2 and state["skipped_in_a_row"] == 2
    # Both schedules give the first two steps the same rates: they are still warming up.
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_too_many_of_them_end_the_run_and_leave_the_batch(tmp_path, capsys, monkeypatch):
    broken_at(monkeypatch, {2, 3, 4, 5})
    words = arguments(small(tmp_path, save_minutes=0.0), "--max-skipped", "3")
    assert main(["train", *words]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "3 steps in a row" in told and "skipped-00000004-0.safetensors" in told
    with safe_open(tmp_path / "skipped-00000004-0.safetensors", "pt") as file:
        # One scene, both ways.
        assert file.get_tensor("image1").shape == (1, 3, 64, 64)
        assert file.get_tensor("backward").shape == (1, 2, 64, 64)
        assert "synthetic 0/4" in file.metadata()["names"]
    assert newest_state(tmp_path)["step"] == 4


def custom(tmp_path, **changes):
    data = tmp_path / "footage"
    if not data.exists():
        footage(data)
    return small(tmp_path / "run", stage="custom", data_sets=("custom",), data=data, **changes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_pair_is_named_and_replaced_or_ends_the_run(tmp_path, capfd, workers):
    options = custom(tmp_path, workers=workers)
    (options.data / "flow" / "clip1" / "001.flo").write_bytes(b"cut short")
    with pytest.raises(DataError, match=r"clip1/001.* cannot be read.*--on-corrupt skip") as raised:
        list(batches(open_sources(options).training, 0, 10, options, CPU))
    assert "\n" not in str(raised.value)
    options = replace(options, on_corrupt="skip")
    runs = [
        [batch.names for batch in batches(open_sources(options).training, 0, 10, options, CPU)]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    seen = {name for names in runs[0] for name in names}
    assert len(seen) == 8 and "clip1/001" not in seen
    assert "clip1/001" in capfd.readouterr().err


def test_a_data_set_without_a_readable_pair_ends_even_a_lenient_run(tmp_path):
    options = custom(tmp_path, on_corrupt="skip")
    for path in options.data.glob("flow/*/*.flo"):
        path.write_bytes(b"cut short")
    with pytest.raises(DataError, match="in a row cannot be read"):
        open_sources(options).training[0]


def test_a_worker_that_dies_is_told_in_a_sentence(tmp_path, monkeypatch):
    options = custom(tmp_path, workers=1)
    monkeypatch.setattr(Epochs, "__getitem__", lambda self, number: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(TrainingError, match=r"died.*--workers") as raised:
        next(batches(open_sources(options).training, 0, 10, options, CPU))
    assert "\n" not in str(raised.value)


def test_a_run_whose_next_pair_cannot_be_read_saves_what_it_reached(tmp_path, capsys):
    options = custom(
        tmp_path, train_steps=8, save_minutes=1000.0, held_out=0.0, keep_best=False, validate_steps=0
    )
    order = [batch.names for batch in batches(open_sources(options).training, 0, 8, options, CPU)]
    last = order[-1][0]
    before = next(step for step, names in enumerate(order) if last in names)
    options.data.joinpath("flow", f"{last}.flo").write_bytes(b"cut short")
    with pytest.raises(DataError, match=last):
        run(options)
    assert before > 0 and newest_state(options.output)["step"] == before


def test_a_run_that_loses_a_process_saves_what_it_reached(tmp_path):
    first, second = start_several(small(tmp_path, train_steps=100_000, save_minutes=1000.0))
    wait_for(tmp_path, "events.out.tfevents.*")
    time.sleep(3.0)  # for at least one step
    second.kill()
    first.join(60)
    assert first.exitcode == 1
    assert newest_state(tmp_path)["step"] > 0


def test_a_run_that_ends_within_a_change_of_its_weights_saves_nothing(tmp_path, monkeypatch):
    step, calls = MuonAdamW.step, iter(range(6))

    def broken(self):
        step(self)
        if next(calls) == 3:
            raise RuntimeError("half done")

    monkeypatch.setattr(MuonAdamW, "step", broken)
    with pytest.raises(RuntimeError, match="half done"):
        run(small(tmp_path, optimizer="muon", save_minutes=1000.0))
    assert not list(tmp_path.glob("state-*"))


def test_another_recipe_or_other_data_are_told_or_refused(tmp_path, capsys):
    options = small(tmp_path, train_steps=1)
    run(options)
    run(replace(options, train_steps=2, gamma=0.5))
    told = capsys.readouterr().err
    assert "steps 2 instead of 1" in told and "gamma 0.5 instead of 0.8" in told
    run(replace(options, train_steps=3, height=72, gamma=0.5))
    assert "height 72 instead of 64" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"stage 'synthetic', not 'custom'"):
        run(replace(custom(tmp_path), output=options.output))


def test_a_machine_of_another_precision_is_told(tmp_path, capsys, monkeypatch):
    for step, fast in ((1, True), (2, False)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda fast=fast: {"amx_bf16": fast}, raising=False
        )
        run(small(tmp_path, train_steps=step, precision="auto"))
    assert "precision float32 instead of bfloat16" in capsys.readouterr().err
    assert json.loads(newest_state(tmp_path)["options"])["precision"] == "float32"


def test_other_textures_are_told(tmp_path, capsys, monkeypatch):
    options = small(tmp_path, train_steps=1)
    run(options)
    monkeypatch.setattr("deqflow.training.data.scenes_fingerprint", lambda *_: "another version")
    run(replace(options, train_steps=2))
    assert "other scenes than before" in capsys.readouterr().err


def test_an_unknown_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("deqflow.training.checkpoint.FORMAT", 99)
        StateStore(tmp_path, keep=1).save({"step": 1})
    with pytest.raises(CheckpointError, match="format 99"):
        run(small(tmp_path))


def test_a_state_of_other_weights_is_refused(tmp_path):
    StateStore(tmp_path, keep=1).save({"step": 1, "model": {}, "options": "{}", "identity": "{}"})
    with pytest.raises(CheckpointError, match="not a training state of this model"):
        run(small(tmp_path))
