"""What ``deqflow bench`` measures: memory exactly, solver steps by what the solvers are known to do."""

import re
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_data import tiny_model
from torch.autograd import DeviceType
from torch.profiler import record_function

from deqflow import devices, zoo
from deqflow.cli import main
from deqflow.data.synthetic import PROGRAMS, SyntheticScenes, Textures
from deqflow.devices import span_seconds
from deqflow.equilibrium import FixedPointIteration, Recorded, Unrolled
from deqflow.evaluation.bench import (
    SpeedCase,
    compare_models,
    compare_solvers,
    measure_speed,
    solver_table,
    speed_table,
)
from deqflow.evaluation.memory import training_memory
from deqflow.evaluation.starts import ReuseErrors, measure_starts, reuse_table, starts_table
from deqflow.memory import SavedBytes
from deqflow.step import FlowState
from deqflow.training.data import held_out_scenes, open_scenes
from deqflow.training.options import SceneOptions
from deqflow.training.starts import WrongStart, wrong_state

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


def test_solvers_are_compared_from_the_same_state():
    model = zoo.load("deqflow-s-v0", device="cpu", precision="float32")
    scenes = SyntheticScenes(Textures(), 160, 192, seed=5)  # large enough for a coarse start
    solvers = {"plain": FixedPointIteration(), "slow": FixedPointIteration(relaxation=0.2)}
    samples = [scenes[0], scenes[1]]
    found = compare_solvers(model, samples, tolerance=1e-9, steps=6, solvers=solvers)
    assert [(one.steps, one.converged, one.cost) for one in found["plain"]] == 2 * [(6, False, 6.0)]
    images = [model.to_tensor(frame) for frame in (samples[0].frame1, samples[0].frame2)]
    start = model.coarse_start(model.prepare(*images))
    assert start is not None
    for name, solver in solvers.items():
        expected = model.estimate(
            samples[0].frame1,
            samples[0].frame2,
            steps=6,
            tolerance=0,
            solver=solver,
            state=start,
            scales=(8,),
        )
        error = np.linalg.norm(expected.flow - samples[0].flow, axis=2)[samples[0].valid].mean()
        assert found[name][0].epe == pytest.approx(error, rel=1e-4)
    assert "| slow " in solver_table(found)


def test_speed_is_shared_between_the_spans_and_the_model_is_restored(device):
    model = tiny_model().to(device)
    kinds = (("float32", "all-pairs"), ("float32", "on-demand"), ("bfloat16", "auto"))
    cases = [SpeedCase((48, 64), *kind, steps) for kind in kinds for steps in (1, 4)]
    timings = measure_speed(model, cases, repeats=3, progress=False)
    assert list(timings) == cases
    for timing in timings.values():
        assert len(timing.seconds) == 3 and min(timing.seconds) > 0
        assert timing.spans.keys() == {"encode", "correlation", "context", "solve", "decode"}
        assert all(seconds > 0 for seconds in timing.spans.values())
    assert model.precision == torch.float32 and model.correlation == "auto"
    for row, timing in zip(speed_table(timings).splitlines()[2:], timings.values(), strict=True):
        *_, seconds, per_pixel = row.split("|")[1:7]
        assert float(seconds) == pytest.approx(np.median(timing.seconds), abs=6e-4)
        assert float(per_pixel) == pytest.approx(1e6 * np.median(timing.seconds) / (48 * 64), abs=6e-3)
        assert sum(map(int, row.split("|")[7:-1])) == pytest.approx(100, abs=3)


def test_spans_are_timed_by_name_and_include_those_inside(device):
    with span_seconds(device) as seconds:
        for _ in range(2):
            with record_function("outer"), record_function("inner"):
                torch.randn(200, 200, device=device) @ torch.randn(200, 200, device=device)
    assert seconds.keys() >= {"outer", "inner"}
    assert seconds["outer"] >= seconds["inner"] > 0


def profiled(name, start, end, *kernels, span=False, device=DeviceType.CPU):
    """An event as a profile of CUDA has it, in microseconds."""
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end),
        kernels=[SimpleNamespace(name=of, duration=duration) for of, duration in kernels],
        is_user_annotation=span,
        device_type=device,
    )


def test_spans_of_cuda_have_the_kernels_launched_in_them_by_any_thread(monkeypatch):
    events = [
        profiled("outer", 0, 100, span=True),
        profiled("inner", 10, 60, ("inner", 500.0), span=True),
        # The device's own span has the gap between two kernels, and there is none for the outer one.
        profiled("inner", 200, 700, span=True, device=DeviceType.CUDA),
        profiled("aten::mm", 20, 30, ("gemm", 40.0)),
        profiled("aten::mm", 50, 55, ("gemm", 50.0), ("split", 10.0)),
        profiled("aten::add", 70, 75, ("add", 5.0)),  # of another thread: a profile says no parent
        profiled("gemm", 200, 240, device=DeviceType.CUDA),
        profiled("inner", 110, 120, span=True),
        profiled("aten::mm", 115, 116, ("gemm", 20.0)),
        profiled("aten::mm", 130, 140, ("gemm", 1000.0)),
    ]
    profile = nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(devices, "profile", lambda activities: profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with span_seconds(torch.device("cuda")) as seconds:
        pass
    assert seconds == pytest.approx({"outer": 105e-6, "inner": 120e-6})


def test_speed_prints_a_row_per_combination(monkeypatch, capsys):
    monkeypatch.setattr(zoo, "load", lambda name, **options: tiny_model())
    options = "--steps 1 2 --precisions float32 --correlations auto on-demand --sizes 64 48 40 32 --repeats 1"
    assert main(["bench", "speed", *options.split()]) == 0
    table = capsys.readouterr().out
    assert "deqflow-s, cpu" in table
    for size, kind, steps in product(("64x48", "40x32"), ("auto", "on-demand"), (1, 2)):
        assert len(re.findall(rf"\| *{size} +\| *float32 +\| *{kind} +\| +{steps} +\|", table)) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("memory --width 100", "multiples of 8, not 100x436"),
        ("memory --height 64 --steps 2", "at least 1 and at most 2, the fewest steps"),
        ("memory --steps 0 --corrections 1", "at least 1 and at most 0"),
        ("training --precisions float16", "invalid choice 'float16'"),
        ("training --repeats 0", "--repeats of at least 1"),
        ("solvers --tolerance 0", "--tolerance above 0"),
        ("solvers --data nowhere", "nowhere is not a folder"),
        ("errors --pairs 0", "--pairs of at least 1"),
        ("speed --steps 0", "--steps >= 1"),
        ("speed --repeats 0", "--repeats >= 1"),
        ("speed --tolerance 0.1", "--tolerance"),
        ("", "speed"),
    ],
)
def test_impossible_requests_are_one_sentence(arguments, expected, capsys):
    try:
        code = main(["bench", *arguments.split()])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert expected in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_errors_of_several_weights_on_the_same_scenes(tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    torch.manual_seed(0)
    zoo.save_weights(zoo.create("deqflow-s"), other)
    size = "--width 64 --height 64 --device cpu --pairs 2 --first 3"
    assert main(["bench", "errors", *size.split(), "--against", str(other)]) == 0
    rows = [line.split("|")[1:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["deqflow-s", str(other)]
    assert float(rows[0][1]) < float(rows[1][1])
    model = zoo.load("deqflow-s", device="cpu")
    samples = [open_scenes(SceneOptions(height=64, width=64)).held_out[0].read(index) for index in (3, 4)]
    (found,) = compare_models({"shipped": model}, samples).values()
    for index, sample in enumerate(samples):
        estimate = model.estimate(sample.frame1, sample.frame2)
        error = np.linalg.norm(estimate.flow - sample.flow, axis=2)[sample.valid]
        assert found[index].epe == pytest.approx(error.mean(), rel=1e-4)
        assert (
            found[index].wrong == pytest.approx((error > 1).mean()) and found[index].steps == estimate.steps
        )
    assert float(rows[0][1]) == pytest.approx(np.mean([one.epe for one in found]), abs=1e-3)
    assert float(rows[0][3]) == pytest.approx(
        np.exp(np.log(np.array([one.epe for one in found]) + 0.01).mean()), abs=1e-3
    )


def test_errors_on_scenes_of_larger_motion(capsys):
    size = "--width 64 --height 64 --device cpu --pairs 2 --scenes large"
    assert main(["bench", "errors", *size.split()]) == 0
    row = capsys.readouterr().out.splitlines()[2].split("|")[1:]
    model = zoo.load("deqflow-s", device="cpu")
    scenes = held_out_scenes(Textures(), 64, 64, motion="large")
    (found,) = compare_models({"shipped": model}, [scenes[0], scenes[1]]).values()
    assert float(row[1]) == pytest.approx(np.mean([one.epe for one in found]), abs=1e-3)


def test_errors_of_the_same_weights_in_two_precisions(capsys):
    arguments = "errors --precisions float32 bfloat16 --width 64 --height 64 --device cpu --pairs 2"
    assert main(["bench", *arguments.split()]) == 0
    exact, coarse = (line.split("|")[1:] for line in capsys.readouterr().out.splitlines()[2:])
    assert [row[0].strip() for row in (exact, coarse)] == ["deqflow-s, float32", "deqflow-s, bfloat16"]
    # Rounding moves the flow of trained weights by a few hundredths of a pixel.
    assert float(exact[1]) == pytest.approx(float(coarse[1]), abs=0.1)


def test_solvers_on_scenes_from_the_command_line(capsys):
    arguments = "solvers --pairs 1 --steps 3 --width 64 --height 64 --device cpu"
    assert main(["bench", *arguments.split()]) == 0
    assert "Anderson 5" in capsys.readouterr().out


def test_a_training_step_is_timed_by_part(capsys):
    arguments = "training --model deqflow-s-v0 --precisions float32 --repeats 1 --width 64 --height 64"
    assert main(["bench", *arguments.split()]) == 0
    rows = [
        line.split("|")[1:-1]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ") and "--" not in line
    ]
    assert [row[0].strip() for row in rows] == ["training", "one way, float32", "both ways, float32"]
    for row in rows[1:]:
        rate, *parts = (float(cell) for cell in row[1:])
        assert rate > 0 and all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(1e3 / rate, rel=0.05)


@pytest.mark.parametrize("finest_alone", [False, True])
def test_solves_from_every_kind_of_start(finest_alone):
    model = zoo.load("deqflow-s-v0", device="cpu", precision="float32")
    samples = [open_scenes(SceneOptions(height=64, width=64)).held_out[0].read(index) for index in (3, 4)]
    found = measure_starts(model, samples, multiples=(1,), finest_alone=finest_alone)
    steps = model.defaults.steps
    kinds = {"default", "still", "other-motion", "other-sample", "carried"}
    assert found.keys() == {(kind, steps) for kind in kinds}
    images = [
        torch.cat([model.to_tensor(getattr(sample, name)) for sample in samples])
        for name in ("frame1", "frame2")
    ]
    pair = model.prepare(*images)
    for index, sample in enumerate(samples):
        default, still = found["default", steps][index], found["still", steps][index]
        assert default.departure == 0 and default.alignment == pytest.approx(1)
        cold = model.estimate(sample.frame1, sample.frame2)
        start = wrong_state(model, pair, WrongStart("still", 14), model.defaults.solver)
        start = FlowState(*(part[index : index + 1] for part in start))
        scales = (8,) if finest_alone else "all"
        from_still = model.estimate(sample.frame1, sample.frame2, state=start, scales=scales)
        for one, estimate in ((default, cold), (still, from_still)):
            error = np.linalg.norm(estimate.flow - sample.flow, axis=2)[sample.valid]
            assert one.errors.epe == pytest.approx(error.mean(), rel=1e-3)
            assert one.errors.cost == estimate.cost
        apart = np.linalg.norm(cold.flow - from_still.flow, axis=2).mean()
        assert still.departure == pytest.approx(apart, rel=1e-2, abs=1e-3)
    table = starts_table({"ours": found}).splitlines()
    assert len(table) == 2 + len(kinds)


def test_reuse_is_wrong_beyond_both_limits():
    def errors(reuse, cold):
        return ReuseErrors("jump", reuse, cold, 4.0, 8.0)

    assert not errors(0.24, 0.10).wrong and errors(0.26, 0.10).wrong
    assert not errors(2.49, 2.00).wrong and errors(2.51, 2.00).wrong
    last = reuse_table({"ours": [errors(1.0, 0.1), errors(0.1, 0.1)]}).splitlines()
    assert [cell.strip() for cell in last[2].split("|")[2:-1]] == [
        "jump",
        "0.550",
        "0.100",
        "4.0",
        "8.0",
        "1 of 2",
    ]
    assert last[-1] == "ours: reuse is wrong in 1 of 2"


def test_starts_from_the_command_line(repository, capsys, monkeypatch):
    program = replace(PROGRAMS[0], camera=PROGRAMS[0].camera[:4])
    monkeypatch.setattr("deqflow.data.synthetic.PROGRAMS", (program,))
    clip = repository / "demo" / "bigbuckbunny.mp4"
    arguments = (
        f"starts --pairs 1 --width 64 --height 64 --device cpu --multiples 1 --clips {clip} --sequences 3"
    )
    assert main(["bench", *arguments.split()]) == 0
    out = capsys.readouterr().out
    assert "other-motion" in out and "other-sample" not in out and f"| {program.name}" in out
    assert out.count("reuse is wrong in") == 2
    assert main(["bench", "starts", "--multiples", "0"]) == 2


def test_video_is_timed_in_every_way(repository, capsys):
    clip = repository / "demo" / "bigbuckbunny.mp4"
    arguments = f"video --clip {clip} --frames 5 --sizes 64 48 96 64 --device cpu"
    assert main(["bench", *arguments.split()]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[2:]] == 4 * ["64x48"] + 4 * ["96x64"]
    ways = [row[1].strip() for row in rows[2:6]]
    assert ways == ["deqflow-s, solved anew", "deqflow-s, with reuse", "raft-small, 12 iterations", "DIS"]
    assert all(float(row[2]) >= 0 for row in rows[2:])
    assert float(rows[4][3]) == 12 and not rows[5][3].strip()
    assert main(["bench", "video", "--frames", "3"]) == 2


def test_processes_are_measured_on_their_own(capsys):
    """DIS beside a model: its process has no need of PyTorch, and is not charged for that of the others."""
    words = [
        "processes",
        "--against",
        "--width",
        "64",
        "--height",
        "48",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    assert main(["bench", *words]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[2:]] == ["deqflow-s", "DIS"]
    seconds, memory = zip(*(map(float, row[1:]) for row in rows[2:]), strict=True)
    assert min(seconds) > 0 and memory[1] < 0.6 * memory[0]


def test_processes_end_in_a_sentence(capsys, tmp_path):
    assert main(["bench", "processes", "--repeats", "0"]) == 2
    assert "--repeats of at least 1" in capsys.readouterr().err
    assert main(["bench", "processes", "--against", "--checkpoint", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err
