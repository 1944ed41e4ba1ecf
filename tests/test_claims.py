"""The experiments of ``deqflow study``: that they measure what they say, on models of two steps."""

from typing import get_args

import numpy as np
import pytest
import torch
from training_runs import needs_muon

from deqflow import zoo
from deqflow.claims import arms, joint, reuse
from deqflow.claims.options import StudyOptions
from deqflow.claims.registry import CLAIMS
from deqflow.cli import main
from deqflow.commands.study import ClaimName
from deqflow.evaluation.starts import measure_starts

TINY = ["--width", "64", "--height", "64", "--pairs", "3", "--device", "cpu", "--train-steps", "2"]


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
    zoo.save_weights(zoo.create("deqflow-s"), other)
    assert study(tmp_path, "path-independence", "--against", str(other)) == 0
    page = (tmp_path / "path-independence.md").read_text()
    options = StudyOptions(width=64, height=64, pairs=3, device="cpu")
    model = zoo.load("deqflow-s", device="cpu")
    found = measure_starts(model, options.samples(), multiples=(1,))
    errors = [one.errors.epe for one in found["default", model.defaults.steps]]
    wrong = [
        one.alignment for (start, _), row in found.items() for one in row if start not in ("default", "zero")
    ]
    cells = next(line.split("|") for line in page.splitlines() if line.startswith("| deqflow-s"))
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


@needs_muon
def test_arms_are_trained_once_and_judged(tmp_path, capsys, monkeypatch):
    assert study(tmp_path, "jacobian") == 0
    page = (tmp_path / "jacobian.md").read_text()
    rows = table(page)
    assert [row[0].strip() for row in rows] == ["weight 0", "weight 0.1", "weight 1"]
    assert all(float(row[4]) > 0 and row[6].strip() == "0 of 1" for row in rows)
    folder = tmp_path / "runs" / "jacobian" / "weight-0.1-0"
    assert (folder / "deqflow-s.safetensors").exists()
    before = {file: file.read_bytes() for file in folder.glob("*.safetensors")}
    assert study(tmp_path, "jacobian") == 0
    assert before == {file: file.read_bytes() for file in before}
    assert (tmp_path / "jacobian.md").read_text() == page
    # What cannot go on counts as diverged, and the others are still held against each other.
    monkeypatch.setattr(arms, "run", lambda options: (_ for _ in ()).throw(arms.TrainingError("no number")))
    options = StudyOptions(width=64, height=64, pairs=2, device="cpu", train_steps=2, output=tmp_path / "b")
    findings = arms.jacobian(options)
    assert all("1 of 1" in line for line in findings.tables[0][2:])


def test_impossible_requests_are_one_sentence(tmp_path, capsys):
    assert study(tmp_path) == 2
    assert "name a claim: memory, reuse" in capsys.readouterr().err
    assert main(["study", "memory", "--pairs", "1"]) == 2
    assert "--pairs of at least 2" in capsys.readouterr().err
