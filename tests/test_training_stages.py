"""Stages: published numbers, the command line over them, mixtures, held-out pairs, own footage, losses."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dataset_files import make_hd1k, make_kitti, make_sintel, make_things
from safetensors import safe_open
from safetensors.torch import load_file
from training_runs import arguments, footage, newest_state, small

from deqflow.cli import main
from deqflow.data.datasets import open_dataset
from deqflow.errors import ConfigError, DataError, DataWarning, TrainingError
from deqflow.io.flow_files import read_flow, write_flow
from deqflow.processes import Processes
from deqflow.training.checkpoint import Progress, check_resumable, freeze_batch_norm
from deqflow.training.data import evaluate
from deqflow.training.options import TrainOptions
from deqflow.training.pairs import Part, choose_held_out
from deqflow.training.parts import open_sources
from deqflow.training.stages import STAGES, parse, stage_for
from deqflow.training.supervised import CorrectionObjective, charbonnier, correction_loss, robust
from deqflow.training.trainer import run
from deqflow.zoo import create


def parsed(*words):
    return parse(TrainOptions, args=list(words), prog="deqflow train")


@pytest.mark.parametrize(
    ("stage", "steps", "batch", "crop", "rate", "gamma", "solver", "corrections", "gradient"),
    [
        ("chairs", 120_000, 12, (368, 496), 4e-4, 0.8, ("plain", 36), 6, "one-step"),
        ("things", 120_000, 6, (400, 720), 1.25e-4, 0.8, ("plain", 40), 2, "phantom"),
        ("sintel", 120_000, 6, (368, 768), 1.25e-4, 0.9, ("broyden", 36), 6, "phantom"),
        ("kitti", 50_000, 6, (288, 960), 1e-4, 0.9, ("broyden", 36), 6, "one-step"),
    ],
)
@pytest.mark.parametrize("model", ["deqflow-b", "deqflow-h"])
def test_stages_are_the_published_ones(
    model, stage, steps, batch, crop, rate, gamma, solver, corrections, gradient
):
    (options,) = parsed("--stage", stage, "--model", model)
    assert (options.train_steps, options.batch, options.learning_rate) == (steps, batch, rate)
    assert (options.height, options.width) == crop
    assert (options.gamma, options.corrections, options.gradient) == (gamma, corrections, gradient)
    assert (options.solver, options.solver_steps) == (solver[0], (solver[1], solver[1]))
    assert (options.weight_decay, options.clip, options.warmup) == (1e-4, 1.0, 0.05)
    assert (
        options.schedule == "one-cycle" and options.scheme == "segments" and options.subpixel_positions == 64
    )
    assert options.freeze_batch_norm == (stage != "chairs")
    assert options.attach_flow == (stage == "things")


def test_the_sintel_mixture_has_the_published_repetitions():
    parts = [Part.parse(text) for text in STAGES["sintel"].data_sets]
    assert [(part.repeat, part.name, part.words) for part in parts] == [
        (100, "sintel", ("clean",)),
        (100, "sintel", ("final",)),
        (200, "kitti-2015", ()),
        (5, "hd1k", ()),
        (1, "things", ("clean", "left")),
    ]


def test_the_1step_variant_solves_every_stage_as_chairs():
    for name in ("things", "sintel", "kitti"):
        stage = stage_for(name, "deqflow-h", "1step")
        assert (stage.gradient, stage.solver_steps, stage.corrections) == ("one-step", (36, 36), 6)
        assert stage.learning_rate == STAGES[name].learning_rate


def test_every_field_of_a_stage_can_be_changed_and_defaults_are_those_of_before():
    assert parsed() == [STAGES["synthetic"]]
    (options,) = parsed(
        "--stage", "things", "--model", "deqflow-b", "--train-steps", "7", "--gradient", "implicit"
    )
    assert (options.train_steps, options.gradient, options.learning_rate) == (7, "implicit", 1.25e-4)
    assert options.output == Path("runs/deqflow-b-things")
    (raft,) = parsed("--stage", "chairs", "--model", "raft-small")
    assert (raft.gradient, raft.corrections, raft.solver_steps) == ("unrolled", 12, (12, 12))
    assert stage_for("chairs", "deqflow-s-v0").solver_steps == (8, 20)


def test_a_chain_changes_what_is_said_in_all_of_its_stages():
    chain = parsed("--stages", "chairs", "things", "--model", "deqflow-h", "--batch", "2", "--output", "out")
    assert [options.stage for options in chain] == ["chairs", "things"]
    assert [options.batch for options in chain] == [2, 2]
    assert [options.learning_rate for options in chain] == [4e-4, 1.25e-4]
    assert [options.output for options in chain] == [Path("out/chairs"), Path("out/things")]
    with pytest.raises(ConfigError, match="--stages"):
        parsed("--stage", "chairs", "--stages", "chairs", "things")


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("footage", ["--residual-weight", "0.1"]),
        ("footage", ["--loss=l1"]),
        ("footage", ["--subpixel-positions", "4"]),
        ("footage", ["--jacobian-weight", "1"]),
        ("footage", ["--textures", "folder"]),
        ("custom", ["--bidirectional"]),
        ("custom", ["--no-permissive-only"]),
        ("custom", ["--smoothness", "1"]),
        ("synthetic", ["--data", "folder"]),
        ("synthetic", ["--held-out", "0.1"]),
    ],
)
def test_an_option_that_a_stage_does_not_read_is_refused_in_a_sentence(stage, words, capsys):
    assert main(["train", "--stage", stage, *words]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told == f"deqflow: error: stage {stage} does not read {words[0].partition('=')[0]}"


def test_an_option_that_no_stage_reads_is_one_that_does_not_exist(capsys):
    assert main(["train", "--steps", "3"]) == 2
    told = capsys.readouterr().err
    assert "Unrecognized options: --steps, 3" in told and "--train-steps" in told


def test_a_chain_takes_what_one_of_its_stages_reads():
    first, second = parsed("--stages", "synthetic", "chairs", "--textures", "photos", "--data", "sets")
    assert (first.textures, second.data) == (Path("photos"), Path("sets"))
    with pytest.raises(ConfigError, match="stage things, kitti does not read --textures"):
        parsed("--stages", "things", "kitti", "--textures", "photos", "--data", "sets")


@pytest.mark.parametrize("text", ["", "sintel:", "0*sintel", "x*sintel", "sintel clean", "2*"])
def test_parts_that_do_not_parse_are_named(text):
    with pytest.raises(ConfigError, match="name:clean"):
        Part.parse(text)


def chairs(root, pairs=3, size=(72, 80)):
    """FlyingChairs in its layout, of noise that moves a pixel to the right."""
    data = root / "FlyingChairs_release" / "data"
    data.mkdir(parents=True)
    rng = np.random.default_rng(1)
    flow = np.zeros((*size, 2), np.float32)
    flow[..., 0] = 1
    for number in range(1, pairs + 1):
        image = rng.integers(0, 256, (size[0], size[1] + 1, 3), np.uint8)
        cv2.imwrite(str(data / f"{number:05d}_img1.ppm"), image[:, 1:])
        cv2.imwrite(str(data / f"{number:05d}_img2.ppm"), image[:, :-1])
        write_flow(data / f"{number:05d}_flow.flo", flow)
    return root


def mixture(tmp_path, **changes):
    if not (tmp_path / "FlyingChairs_release").exists():
        chairs(tmp_path)
        footage(tmp_path / "own" / "clips", sequences=2)
    return small(tmp_path / "run", stage="chairs", data_sets=("2*chairs@all",), data=tmp_path, **changes)


def test_an_epoch_has_every_pair_as_often_as_the_mixture_says(tmp_path):
    sources = open_sources(mixture(tmp_path))
    assert sources.epoch == 6 and sources.held_out[0].count == 0
    orders = [[sources.training[epoch * 6 + place].name for place in range(6)] for epoch in range(3)]
    assert all(sorted(order) == sorted(["00001", "00002", "00003"] * 2) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_a_pair_is_the_same_for_the_same_seed_and_number_and_another_in_the_next_epoch(tmp_path):
    first, again = (open_sources(mixture(tmp_path)).training for _ in range(2))
    other = open_sources(mixture(tmp_path, seed=1)).training
    assert all((first[n].frame1 == again[n].frame1).all() for n in (4, 0, 13))
    assert any((first[n].frame1 != other[n].frame1).any() for n in range(6))
    by_name = [{first[n].name: first[n].frame1 for n in range(6 * e, 6 * e + 6)} for e in range(2)]
    assert any((by_name[0][name] != by_name[1][name]).any() for name in by_name[0])


def test_without_augmentation_pairs_are_only_cut(tmp_path):
    sample = open_sources(mixture(tmp_path, augment=False)).training[0]
    assert sample.frame1.shape == (64, 64, 3) and sample.valid.all()
    assert (sample.flow == (1, 0)).all()
    # The frames move as the flow says, so nothing but a crop was done to them.
    assert (sample.frame1[:, :-1] == sample.frame2[:, 1:]).all()


def test_stages_name_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="--data must name"):
        open_sources(small(tmp_path, stage="chairs", data_sets=("chairs",)))
    with pytest.raises(DataError, match="none of the parts"):
        open_sources(replace(mixture(tmp_path), data_sets=("chairs:clean@all",)))


def test_held_out_pairs_share_no_sequence_with_training(tmp_path):
    (pairs,) = open_dataset("custom", footage(tmp_path, sequences=5))
    kept = choose_held_out(pairs.files, 0.4, seed=3)
    held_out = {pair.sequence for pair in pairs.files if pair.frame1 in kept}
    trained = {pair.sequence for pair in pairs.files if pair.frame1 not in kept}
    assert len(held_out) == 2 and len(trained) == 3 and not held_out & trained
    assert kept == choose_held_out(pairs.files, 0.4, seed=3)
    assert choose_held_out(pairs.files, 0.0, seed=3) == set()
    one = [pair for pair in pairs.files if pair.sequence == "clip0"]
    assert choose_held_out(one, 0.1, seed=3) == {one[-1].frame1}
    with pytest.raises(DataError, match="one pair"):
        choose_held_out(one[:1], 0.1, seed=3)


def own(tmp_path, **changes):
    """Fine-tuning on own footage by a few steps."""
    data = tmp_path / "footage"
    if not data.exists():
        footage(data, sequences=2, frames=3)
    options = small(tmp_path / "run", train_steps=2, stage="custom", data_sets=("custom",), data=data)
    options = replace(options, keep_best=True, held_out=0.5, validate_steps=1)
    return replace(options, **changes)


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_weights_are_written_only_if_they_are_better(tmp_path, capsys, monkeypatch):
    scores = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr("deqflow.training.trainer.evaluate", lambda *_: {"epe": next(scores)})
    run(own(tmp_path))
    written = tmp_path / "run" / "deqflow-s-v0.safetensors"
    assert "better: held-out EPE 3.000 before, 2.000 at step 1" in capsys.readouterr().out
    assert metadata(written)["held_out_epe"] == "2.0" and metadata(written)["steps"] == "1"
    assert json.loads(written.with_suffix(".json").read_text())["stage"] == "custom"
    # Deleted, they are those of the state again: the best that there are.
    written.unlink()
    scores = iter([2.5])
    run(own(tmp_path))
    assert "better: held-out EPE 3.000 before, 2.500 at step 2" in capsys.readouterr().out
    assert metadata(written)["held_out_epe"] == "2.5" and metadata(written)["steps"] == "2"
    # Another run into the same folder: better than its own start, but not than what is there.
    before = written.read_bytes()
    for path in (tmp_path / "run").glob("state-*.pt"):
        path.unlink()
    scores = iter([2.9, 2.8, 2.7])
    run(own(tmp_path))
    assert written.read_bytes() == before
    scores = iter([4.0, 5.0, 6.0])
    run(own(tmp_path, output=tmp_path / "worse"))
    assert "not better: held-out EPE 4.000 before, 6.000 at the end" in capsys.readouterr().out
    assert not list((tmp_path / "worse").glob("*.safetensors"))


def test_weights_of_unknown_quality_are_not_overwritten(tmp_path):
    run(small(tmp_path / "other", train_steps=1))
    (tmp_path / "run").mkdir()
    shutil.copy(tmp_path / "other" / "deqflow-s-v0.safetensors", tmp_path / "run")
    for keep_best in (True, False):
        with pytest.raises(TrainingError, match=r"deqflow-s-v0\.safetensors exists"):
            run(own(tmp_path, keep_best=keep_best))


def test_training_stops_early(tmp_path, monkeypatch):
    scores = iter([3.0, 2.0, 2.5, 2.6, 2.7])
    monkeypatch.setattr("deqflow.training.trainer.evaluate", lambda *_: {"epe": next(scores)})
    options = own(tmp_path, train_steps=50, patience=2)
    run(options)
    assert newest_state(options.output)["step"] == 3
    run(options)  # resumed: nothing is left to do, and nothing is evaluated
    assert newest_state(options.output)["step"] == 3


def test_own_footage_is_evaluated_before_during_and_after(tmp_path, capsys):
    words = ["--stage", "custom", "--data", str(footage(tmp_path / "footage", sequences=2, frames=2))]
    words += arguments(own(tmp_path), "--validate-steps", "1", "--init", "deqflow-s-v0")[2:]
    assert main(["train", *words]) == 0
    told = capsys.readouterr()
    assert all(f"step {step}, " in told.out + told.err for step in (0, 1, 2))
    assert "better: held-out EPE" in told.out + told.err
    progress = Progress(**newest_state(tmp_path / "run")["progress"])
    assert progress.start is not None and progress.step == 2


def forget(flow):
    """The same file, with nothing known."""
    values, valid = read_flow(flow)
    write_flow(flow, values, np.zeros_like(valid))


def test_pairs_of_which_nothing_is_known_are_named_and_in_no_mean(tmp_path):
    options = own(tmp_path, held_out=0.0, validation_sets=("custom",), keep_best=False)
    first, *others = sorted((tmp_path / "footage").rglob("*.flo"))
    sources, model = open_sources(options), create("deqflow-s-v0").eval()
    alone = Processes(torch.device("cpu"))
    sample = sources.held_out[0].read(0)
    estimate = model.estimate(sample.frame1, sample.frame2)
    expected = np.hypot(*np.moveaxis(estimate.flow - sample.flow, 2, 0)).mean()
    for flow in others:
        forget(flow)
    with pytest.warns(DataWarning, match="the flow of no pixel is known; the pair is left out"):
        pairs = [sources.training[number] for number in range(8)]
    assert len({pair.name for pair in pairs}) == 1
    with pytest.warns(DataWarning):
        found = evaluate(model, sources, options, alone, CorrectionObjective.error_of)
    assert found["epe"] == pytest.approx(expected, rel=1e-3)
    forget(first)
    with pytest.warns(DataWarning), pytest.raises(DataError, match="none of the 4 held-out pairs"):
        evaluate(model, sources, options, alone, CorrectionObjective.error_of)
    with pytest.warns(DataWarning), pytest.raises(DataError, match="100 pairs in a row"):
        open_sources(options).training[0]


def test_progress_counts_evaluations_since_the_best():
    progress = Progress()
    assert [progress.note({"epe": value}, step) for step, value in enumerate([3, 4, 2, 2, 5])] == [
        False, False, True, False, False,
    ]  # fmt: skip
    assert (progress.start, progress.best, progress.best_step, progress.worse) == (3, 2, 2, 2)


def test_a_chain_goes_from_stage_to_stage_and_resumes_in_the_middle(tmp_path):
    stages = [
        small(tmp_path / "synthetic", train_steps=1),
        replace(
            mixture(tmp_path), output=tmp_path / "chairs", train_steps=1, learning_rate=0.0, weight_decay=0.0
        ),
    ]
    run(stages)
    first, second = (load_file(part.output / "deqflow-s-v0.safetensors") for part in stages)
    assert all(torch.equal(first[name], second[name]) for name in first)
    touched = os.stat(tmp_path / "synthetic" / "state-00000001.pt").st_mtime_ns
    run([stages[0], replace(stages[1], train_steps=2)])
    assert os.stat(tmp_path / "synthetic" / "state-00000001.pt").st_mtime_ns == touched
    assert newest_state(tmp_path / "chairs")["step"] == 2


def test_a_dry_run_tells_and_writes_nothing(tmp_path, capsys):
    options = mixture(tmp_path, dry_run=True)
    run(options)
    told = capsys.readouterr().out
    for text in (
        "FlyingChairs (3 pairs)",
        "6 pairs, 3 steps per epoch, 2.00 epochs",
        "TFLOP per pair",
        "GiB",
    ):
        assert text in told
    assert f"{sum(p.numel() for p in create('deqflow-s-v0').parameters()):,} parameters" in told
    assert not options.output.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient": "phantom", "gradient_steps": 2, "damping": 0.5},
        {"gradient": "neumann", "gradient_steps": 2, "scheme": "segments"},
        {"gradient": "implicit", "corrections": 1},
        {"gradient": "unrolled", "residual_weight": 0.0},
        {"positions": (1, 3), "loss": "charbonnier", "subpixel_positions": 64},
        {"loss": "robust", "coarse_start_probability": 1.0, "height": 160, "width": 160},
        {"solver": "broyden", "scheme": "segments"},
        {"solver": "anderson", "jacobian_weight": 0.1, "jacobian_every": 1},
        {"attach_flow": True, "gradient": "phantom", "gradient_steps": 2},
        {"precision": "bfloat16"},
        {"schedule": "one-cycle", "ema": 0.0, "freeze_batch_norm": True},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_loss_and_gradient_trains(tmp_path, changes):
    run(small(tmp_path, train_steps=1, batch=1, **changes))
    state = newest_state(tmp_path)
    moments = [moment["exp_avg"] for moment in state["optimizer"]["state"].values()]
    assert state["skipped"] == 0
    assert all(moment.isfinite().all() for moment in moments)
    # Encoder, update operator and upsampling all get a gradient.
    assert sum(bool(moment.any()) for moment in moments) > 0.9 * len(moments)


@pytest.mark.parametrize("model", ["deqflow-tiny", "raft-small"])
def test_published_models_train(tmp_path, model):
    stage = stage_for("chairs", model)
    how = {
        name: getattr(stage, name)
        for name in ("scheme", "gradient", "residual_weight", "subpixel_positions", "schedule", "ema")
    }
    run(small(tmp_path, model=model, train_steps=1, batch=1, corrections=2, **how))
    state = newest_state(tmp_path)
    assert state["skipped"] == 0
    assert len(state["optimizer"]["state"]) == len(list(create(model).parameters()))


def test_the_jacobian_penalty_changes_the_gradient(tmp_path):
    moments = []
    for weight in (0.0, 10.0):
        options = small(
            tmp_path / str(weight), train_steps=1, batch=1, jacobian_weight=weight, jacobian_every=1
        )
        run(options)
        state = newest_state(options.output)["optimizer"]["state"]
        moments.append(torch.cat([state[key]["exp_avg"].flatten() for key in sorted(state)]))
    assert not torch.allclose(*moments)


def test_charbonnier_by_hand():
    flow, valid = torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, 1)
    loss = correction_loss([torch.full_like(flow, 2.0)], flow, valid, 0.8, charbonnier)
    assert loss.item() == pytest.approx((4 + 1e-6) ** 0.45)


def test_the_robust_loss_by_hand():
    errors = torch.tensor([0.0, -0.1, 3.0], requires_grad=True)
    losses = robust(errors)
    torch.testing.assert_close(losses, torch.tensor([0.01, 0.11, 3.01]) ** 0.4)
    losses.sum().backward()
    assert abs(errors.grad[1]) > 5 * abs(errors.grad[2]) and errors.grad.isfinite().all()


def test_frozen_batch_normalization_keeps_its_statistics():
    model = create("deqflow-tiny").train()
    freeze_batch_norm(model)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.encode(255 * torch.rand(1, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_resuming_tells_only_what_changes_the_learning():
    before = {"stage": "custom", "model": "raft", "optimizer": "adamw", "seed": 0, "workers": 1}
    state = {"options": json.dumps(before), "identity": "{}"}
    options = {**before, "seed": 1, "workers": 4, "new": 1}
    now = json.dumps(options)
    with pytest.raises(ConfigError, match="optimizer 'adamw', not 'muon'"):
        check_resumable(Path("s.pt"), state, json.dumps({**options, "optimizer": "muon"}), {})
    assert check_resumable(Path("s.pt"), state, now, {"scenes": "a"}) == ["seed 1 instead of 0"]
    timed, longer = ({**before, "schedule_by": "clock", "max_minutes": minutes} for minutes in (10.0, 20.0))
    timed_state = {**state, "options": json.dumps(timed)}
    assert check_resumable(Path("s.pt"), timed_state, json.dumps(longer), {}) == [
        "max_minutes 20.0 instead of 10.0"
    ]
    known = {**state, "identity": json.dumps({"scenes": "b", "textures": "c"})}
    assert check_resumable(Path("s.pt"), known, now, {"scenes": "a"}) == [
        "seed 1 instead of 0",
        "other scenes than before",
        "without textures",
    ]


def briefly(stage, tmp_path, **changes):
    """A stage as it is, on a small machine."""
    here = {"output": tmp_path / "run", "data": tmp_path, "validate_minutes": 0.0, "device": "cpu"}
    return replace(stage, **{**here, "precision": "float32", **changes})


def test_the_sintel_mixture_trains_on_dense_and_sparse_pairs(repository, tmp_path):
    sample = repository / "datasets" / "sample"
    for folder, name in (("MPI-Sintel", "sintel"), ("KITTI-2015", "kitti-2015")):
        (tmp_path / folder).symlink_to(sample / name)
    mixed = ("2*sintel:clean", "sintel:final", "3*kitti-2015")
    size = {"batch": 6, "height": 64, "width": 96, "solver_steps": (3, 3)}
    options = briefly(stage_for("sintel"), tmp_path, train_steps=1, data_sets=mixed, **size)
    sources = open_sources(options)
    counts = {
        name: sum(len(part) for part in open_dataset(name, tmp_path) if word in part.title)
        for name, word in (("sintel", "clean"), ("kitti-2015", ""))
    }
    assert sources.epoch == 3 * counts["sintel"] + 3 * counts["kitti-2015"]
    run(options)
    assert newest_state(options.output)["skipped"] == 0


@pytest.mark.parametrize("name", ["things", "sintel"])
def test_a_published_stage_trains_on_the_mixture_it_names(tmp_path, name):
    data = tmp_path / "data"
    make_things(data / "FlyingThings3D")
    make_sintel(data / "MPI-Sintel")
    make_kitti(data / "KITTI-2015", "image_2")
    make_hd1k(data / "HD1K")
    stage = stage_for(name, "deqflow-tiny")
    # All as published but for size and length.
    size = {"batch": 1, "height": 64, "width": 64, "solver_steps": (6, 6)}
    options = briefly(stage, tmp_path, train_steps=2, data=data, **size)
    parts = [Part.parse(text) for text in stage.data_sets]
    pairs = [part.repeat * sum(map(len, part.open(data))) for part in parts]
    assert all(pairs) and open_sources(options).epoch == sum(pairs)
    run(options)
    assert newest_state(options.output)["skipped"] == 0
