"""What ``deqflow bench`` measures: memory exactly, solver steps by what the solvers are known to do."""

import numpy as np
import pytest
import torch
from training_runs import needs_muon

from deqflow import zoo
from deqflow.cli import main
from deqflow.data.synthetic import SyntheticScenes, Textures
from deqflow.equilibrium import FixedPointIteration, Recorded, Unrolled
from deqflow.evaluation.comparison import compare
from deqflow.evaluation.convergence import convergence_table, measure_convergence
from deqflow.evaluation.memory import training_memory
from deqflow.memory import SavedBytes
from deqflow.training.options import TrainOptions
from deqflow.training.scenes import open_scenes

SIZE = (64, 96)


def test_saved_bytes_are_those_of_the_graph_without_the_parameters():
    layer = torch.nn.Linear(8, 4)
    x = torch.randn(16, 8, requires_grad=True)
    saved = SavedBytes(layer)
    with saved.counting():
        y = layer(x)  # keeps x for the weight's gradient, and the weight, which is there anyway
        z = torch.sigmoid(y)  # keeps its result
        w = z * z  # keeps z twice, one storage
    assert w.requires_grad and saved.total == 4 * (16 * 8 + 16 * 4)


def test_memory_of_an_equilibrium_does_not_grow_with_the_steps():
    model = zoo.create("deqflow-tiny").train()

    def measured(correction, steps):
        return training_memory(model, correction, steps=steps, size=SIZE)

    few, many = (measured(Recorded(count=2), steps) for steps in (4, 16))
    assert few.kept == many.kept and few.encoders == many.encoders
    unrolled = [measured(Unrolled(), steps) for steps in (2, 4, 6)]
    assert unrolled[0].encoders == few.encoders
    assert unrolled[2].rest - unrolled[1].rest == unrolled[1].rest - unrolled[0].rest > 0
    # One correction keeps what one unrolled step keeps.
    assert measured(Recorded(count=1), 8).rest == pytest.approx(measured(Unrolled(), 1).rest, rel=0.05)


def test_convergence_counts_what_the_solver_did():
    model = zoo.load("deqflow-s", device="cpu")
    scenes = SyntheticScenes(Textures(), *SIZE, seed=5)
    solvers = {"plain": FixedPointIteration(), "slow": FixedPointIteration(relaxation=0.2)}
    samples = [scenes[0], scenes[1]]
    found = measure_convergence(model, samples, tolerance=1e-9, steps=6, solvers=solvers)
    assert found["plain"].steps == [6, 6] and found["plain"].converged == [False, False]
    expected = model.estimate(samples[0].frame1, samples[0].frame2, steps=6, tolerance=0)
    error = np.linalg.norm(expected.flow - samples[0].flow, axis=2)[samples[0].valid].mean()
    assert found["plain"].epe[0] == pytest.approx(error, rel=1e-4)
    loose = measure_convergence(model, samples, tolerance=1e9, steps=6, solvers=solvers)
    assert all(len(result.steps) == 2 for result in loose.values())
    assert "| slow " in convergence_table(found)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--measure", "memory", "--width", "100"], "multiples of 8, not 100x436"),
        (
            ["--measure", "memory", "--height", "64", "--steps", "2"],
            "at least 1 and at most 2, the fewest steps",
        ),
        (["--measure", "training", "--precisions", "float16"], "nothing is trained in float16"),
        (["--measure", "solvers", "--tolerance", "0"], "tolerance above 0"),
        (["--measure", "solvers", "--benchmark", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_impossible_requests_are_one_sentence(arguments, expected, capsys):
    try:
        code = main(["bench", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert expected in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_errors_of_several_weights_on_the_same_scenes(tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    torch.manual_seed(0)
    zoo.save_weights(zoo.create("deqflow-s"), other)
    size = "--width 64 --height 64 --device cpu --pairs 2 --first 3"
    assert main(["bench", "--measure", "errors", *size.split(), "--against", str(other)]) == 0
    rows = [line.split("|")[1:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["deqflow-s", str(other)]
    assert float(rows[0][1]) < float(rows[1][1])
    model = zoo.load("deqflow-s", device="cpu")
    samples = [open_scenes(TrainOptions(height=64, width=64)).held_out(index) for index in (3, 4)]
    (found,) = compare({"shipped": model}, samples).values()
    for index, sample in enumerate(samples):
        estimate = model.estimate(sample.frame1, sample.frame2)
        error = np.linalg.norm(estimate.flow - sample.flow, axis=2)[sample.valid]
        assert found.epe[index] == pytest.approx(error.mean(), rel=1e-4)
        assert (
            found.wrong[index] == pytest.approx((error > 1).mean()) and found.steps[index] == estimate.steps
        )
    assert float(rows[0][1]) == pytest.approx(np.mean(found.epe), abs=1e-3)
    assert float(rows[0][3]) == pytest.approx(np.exp(np.log(np.array(found.epe) + 0.01).mean()), abs=1e-3)


def test_errors_of_the_same_weights_in_two_precisions(capsys):
    arguments = "--measure errors --precisions float32 bfloat16 --width 64 --height 64 --device cpu --pairs 2"
    assert main(["bench", *arguments.split()]) == 0
    exact, coarse = (line.split("|")[1:] for line in capsys.readouterr().out.splitlines()[2:])
    assert [row[0].strip() for row in (exact, coarse)] == ["deqflow-s, float32", "deqflow-s, bfloat16"]
    # Rounding moves the flow of trained weights by a few hundredths of a pixel.
    assert float(exact[1]) == pytest.approx(float(coarse[1]), abs=0.1)


def test_solvers_on_scenes_from_the_command_line(capsys):
    arguments = "--measure solvers --pairs 1 --steps 3 --width 64 --height 64 --device cpu"
    assert main(["bench", *arguments.split()]) == 0
    assert "Anderson 5" in capsys.readouterr().out


@needs_muon
def test_a_training_step_is_timed_by_part(capsys):
    arguments = "--measure training --precisions bfloat16 --repeats 1 --width 64 --height 64 --device cpu"
    assert main(["bench", *arguments.split()]) == 0
    rows = [
        line.split("|")[1:-1]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ") and "--" not in line
    ]
    assert [row[0].strip() for row in rows] == ["training", "one way, bfloat16", "both ways, bfloat16"]
    for row in rows[1:]:
        rate, *parts = (float(cell) for cell in row[1:])
        assert rate > 0 and all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(1e3 / rate, rel=0.05)
