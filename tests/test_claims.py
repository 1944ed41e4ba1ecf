"""The experiments of ``deqflow study``: that they measure what they say, on models of two steps."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from deqflow import zoo
from deqflow.claims import arms, joint, reuse, training
from deqflow.claims.options import StudyOptions
from deqflow.claims.registry import CLAIMS
from deqflow.cli import main
from deqflow.commands.study import ClaimName
from deqflow.errors import DivergenceError, TrainingError
from deqflow.evaluation.bench import compare_models, mean_error
from deqflow.evaluation.starts import measure_starts
from deqflow.training.trainer import Trainer

TINY = ["--width", "64", "--height", "64", "--pairs", "2", "--device", "cpu", "--train-steps", "2"]


@pytest.fixture(autouse=True)
def one_radius(monkeypatch):
    """The spectral radius of one pair takes as long as all the rest of judging a model."""
    monkeypatch.setattr(arms, "RADIUS_PAIRS", 1)


def study(tmp_path, *words):
    return main(["study", *words, *TINY, "--output", str(tmp_path)])


def table(page):
    """The rows of the one table of a page, without its header."""
    return [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")][2:]


def test_the_command_line_knows_every_claim():
    assert set(get_args(ClaimName)) == set(CLAIMS)


def test_memory_of_an_equilibrium_is_constant_and_that_of_unrolling_is_not(tmp_path, capsys):
    assert study(tmp_path, "memory") == 0
    page = (tmp_path / "memory.md").read_text()
    kept = {row[0].strip(): [float(cell) for cell in row[1:]] for row in table(page)}
    unrolled, *equilibria = kept.values()
    assert unrolled == sorted(unrolled) and unrolled[-1] > 3 * unrolled[0]
    assert all(row[0] == row[-1] for row in equilibria)
    assert (tmp_path / "memory-kept.png").exists() and "![" in page
    assert "factor of 1.00" in capsys.readouterr().out


def test_path_independence_over_pairs_and_steps(tmp_path):
    other = tmp_path / "other.safetensors"
    torch.manual_seed(0)
    zoo.save_weights(zoo.create("deqflow-s-v0"), other)
    assert study(tmp_path, "path-independence", "--against", str(other)) == 0
    page = (tmp_path / "path-independence.md").read_text()
    options = StudyOptions(width=64, height=64, pairs=2, device="cpu")
    model = zoo.load("deqflow-s-v0", device="cpu")
    found = measure_starts(model, options.samples(), multiples=(1,), finest_alone=True)
    errors = [one.errors.epe for one in found["default", model.defaults.steps]]
    wrong = [
        one.alignment for (start, _), row in found.items() for one in row if start not in ("default", "zero")
    ]
    cells = next(line.split("|") for line in page.splitlines() if line.startswith("| deqflow-s-v0"))
    assert float(cells[2]) == pytest.approx(np.mean(wrong), abs=2e-4)
    assert float(cells[3]) == pytest.approx(np.mean(errors), abs=2e-3)
    assert f"| {other}, " in page


def test_reuse_over_programs_and_sequences(tmp_path, monkeypatch):
    monkeypatch.setattr(reuse, "SEQUENCES", 3)
    monkeypatch.setattr(reuse, "PROGRAMS", reuse.PROGRAMS[:2])
    assert study(tmp_path, "reuse") == 0
    page = (tmp_path / "reuse.md").read_text()
    assert "motion programs: " in page and "of 4" in page and (tmp_path / "reuse-cost.png").exists()


def test_the_joint_solve_finds_the_input_that_a_slower_way_finds(monkeypatch):
    monkeypatch.setattr(joint, "SIZE", 40)
    monkeypatch.setattr(joint, "INPUTS", 6)
    monkeypatch.setattr(joint, "OBSERVED", 20)
    monkeypatch.setattr(joint, "BATCH", 2)
    problem = joint.Inversion(0)
    together = joint.jointly(problem, 0.2, 10)
    apart = joint.WAYS["L-BFGS"](problem, 1.0, 60)
    assert together.objective[-1] == pytest.approx(apart.objective[-1], rel=1e-3)
    assert together.objective[-1] < 0.2 * together.objective[0]
    assert together.evaluations == sorted(together.evaluations) and together.seconds[0] > 0
    goal = 1.01 * apart.objective[-1]
    assert 3 * joint._until(together, goal)[0] < joint._until(apart, goal)[0]


def test_arms_are_trained_once_and_judged_once(tmp_path, monkeypatch):
    assert study(tmp_path, "jacobian") == 0
    page = (tmp_path / "jacobian.md").read_text()
    rows = table(page)
    assert [row[0].strip() for row in rows] == ["weight 0", "weight 0.1", "weight 1"]
    assert all(int(row[1]) == 2 and float(row[6]) > 0 and row[11].strip() == "0 of 1" for row in rows)
    assert (tmp_path / "runs/64x64-2/jacobian-0.1-0/deqflow-s-v0.safetensors").exists()
    monkeypatch.setattr(arms, "judge", None)
    monkeypatch.setattr(arms, "run", None)
    assert study(tmp_path, "jacobian") == 0
    assert (tmp_path / "jacobian.md").read_text() == page


def test_the_usual_training_serves_three_claims_and_passes_are_timed(tmp_path, monkeypatch):
    asked = {}

    def result_of(options, arm, seed):
        asked.setdefault(arm.name, []).append(arms.training_of(options, arm, seed))
        return arms.ArmResult(1.0, 2.0, 3.0, 4.0, (5.0, 6.0, 7.0, 8.0), 9.0, 2)

    monkeypatch.setattr(training, "result_of", result_of)
    monkeypatch.setattr(training, "TIMED_STEPS", 1)
    assert study(tmp_path, "corrections", "gradients", "jacobian") == 0
    assert len(asked) == 9 and len(asked["usual"]) == 3
    assert all(options == same[0] for same in asked.values() for options in same)
    for row in table((tmp_path / "gradients.md").read_text()):
        assert [float(cell) for cell in row[1:4]] == [2, 9, 1]
        assert all(float(cell) > 0 for cell in row[12:])
    # Arms, taken apart by their folders, differ in what they are trained with.
    recipes = {options[0].recipe("auto") for options in asked.values()}
    assert len(recipes) == len(asked)


def test_other_held_out_pairs_are_judged_anew_without_training(tmp_path, monkeypatch):
    options = StudyOptions(width=64, height=64, pairs=2, device="cpu", train_steps=1, output=tmp_path)
    first = arms.result_of(options, arms.USUAL, 0)
    assert first.minutes > 0
    monkeypatch.setattr(arms, "run", None)
    assert arms.result_of(options, arms.USUAL, 0) == first
    assert arms.result_of(replace(options, pairs=3), arms.USUAL, 0).epe != first.epe


def test_arms_start_from_given_weights_in_folders_of_their_own(tmp_path, monkeypatch):
    drawn = StudyOptions(width=64, height=64, pairs=2, device="cpu", train_steps=1, output=tmp_path)
    given = replace(drawn, init="deqflow-s-v0", learning_rate=1e-4)
    assert arms.result_of(given, arms.USUAL, 0).epe < arms.result_of(drawn, arms.USUAL, 0).epe
    folder = tmp_path / "runs/64x64-1-deqflow-s-v0-0.0001/usual-0"
    about = zoo.read_checkpoint(folder / "deqflow-s-v0.safetensors").metadata
    assert about["started_from"].startswith("deqflow-s-v0.safetensors (SHA-256 ")
    assert json.loads(about["recipe"])["learning_rate"] == 1e-4
    monkeypatch.setattr(training, "result_of", lambda options, arm, seed: arms.ArmResult.lost(1))
    findings = training.jacobian(given)
    before = findings.tables[0][2].split("|")[1:-1]
    expected = compare_models({"": zoo.load("deqflow-s-v0", device="cpu")}, given.samples())[""]
    assert before[0].strip() == "before" and int(before[1]) == 0
    assert float(before[3]) == pytest.approx(mean_error([one.epe for one in expected]), abs=1e-3)
    lengths = [np.linalg.norm(sample.flow, axis=2)[sample.valid].mean() for sample in given.samples()]
    assert f"flow of zeros: EPE {mean_error(lengths):.2f}" in findings.summary


def test_the_recurrent_model_is_trained_for_the_time_of_the_equilibrium(tmp_path, monkeypatch):
    costs = {"from-zeros": {"render": 1.0, "backward": 2.0}, "unrolled": {"render": 1.0, "backward": 1.0}}
    monkeypatch.setattr(training, "measure_phases", lambda variants, repeats: costs)
    options = StudyOptions(width=64, height=64, pairs=2, device="cpu", train_steps=2, output=tmp_path)
    findings = training.recurrent(options)
    assert [line.split("|")[2].strip() for line in findings.tables[0][2:]] == ["2", "3"]
    # Once measured it stays: a training that is gone on with keeps its schedule.
    monkeypatch.setattr(training, "measure_phases", None)
    monkeypatch.setattr(arms, "run", None)
    assert training.recurrent(options).tables == findings.tables


def test_an_interrupted_arm_goes_on_to_the_same_weights(tmp_path, monkeypatch, capsys):
    options = StudyOptions(width=64, height=64, pairs=2, device="cpu", train_steps=2, output=tmp_path / "a")
    whole = arms.result_of(options, arms.USUAL, 0)
    step = Trainer._train_step

    def interrupted(trainer, *details):
        trainer.stopping = True
        return step(trainer, *details) | {"stop": 1.0}

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", interrupted)
        assert study(tmp_path / "b", "jacobian") == 2
        assert "after 1 of 2 steps" in capsys.readouterr().err
        assert not list(tmp_path.glob("b/**/result.json"))
    again = arms.result_of(replace(options, output=tmp_path / "b"), arms.USUAL, 0)
    assert replace(again, minutes=0.0) == replace(whole, minutes=0.0)
    assert again.minutes > 0


def test_what_gives_up_counts_as_diverged_and_stays_so(tmp_path, monkeypatch):
    def fail(error):
        def run_and_fail(options):
            options.output.mkdir(parents=True)
            raise error

        return run_and_fail

    options = StudyOptions(width=64, height=64, pairs=2, device="cpu", train_steps=2, output=tmp_path)
    monkeypatch.setattr(arms, "run", fail(DivergenceError("no number")))
    findings = training.jacobian(options)
    assert all("1 of 1" in line for line in findings.tables[0][2:])
    monkeypatch.setattr(arms, "run", None)
    assert training.jacobian(options).tables == findings.tables
    # What stops for another reason, a full disk, is not called so.
    monkeypatch.setattr(arms, "run", fail(TrainingError("no room")))
    with pytest.raises(TrainingError, match="no room"):
        arms.result_of(replace(options, train_steps=1), arms.USUAL, 0)


def test_impossible_requests_are_one_sentence(tmp_path, capsys):
    assert study(tmp_path) == 2
    assert "name a claim: memory, reuse" in capsys.readouterr().err
    assert main(["study", "memory", "--pairs", "1"]) == 2
    assert "--pairs of at least 2" in capsys.readouterr().err
