"""Metrics against hand-computed cases, layouts of the data sets, and the evaluation as a user runs it."""

import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqflow import zoo
from deqflow.config import ModelConfig
from deqflow.data.benchmarks import find_benchmarks, flying_chairs, kitti_2015, middlebury, sintel
from deqflow.errors import ConfigError, DataError
from deqflow.estimator import DEQFlow
from deqflow.evaluation.baselines import dis_flow, zero_flow
from deqflow.evaluation.benchmark import (
    EvaluateOptions,
    PairResult,
    Report,
    baseline_method,
    evaluate,
    run,
)
from deqflow.evaluation.metrics import RegionErrors, end_point_error, measure
from deqflow.evaluation.speed import BenchOptions, measure_speed, time_pair
from deqflow.evaluation.speed import run as run_bench
from deqflow.evaluation.totals import RegionTotal
from deqflow.io.flow_files import write_flow
from deqflow.io.images import write_image
from deqflow.network import SharedEncoderConfig

HEIGHT, WIDTH = 24, 32
SMALL = ModelConfig(encoder=SharedEncoderConfig(widths=(8, 8), depths=(1, 1)), levels=2)


def constant_flow(u: float, v: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.tile(np.array([u, v], np.float32), (height, width, 1))


class TestMetrics:
    def test_end_point_error_is_the_euclidean_distance(self):
        assert end_point_error(constant_flow(4, 5), constant_flow(1, 1)) == pytest.approx(5.0)

    def test_invalid_pixels_never_count(self):
        truth = constant_flow(0, 0)
        valid = np.ones((HEIGHT, WIDTH), bool)
        flow = constant_flow(0, 2)
        truth[0], valid[0], flow[1], valid[1] = np.nan, False, np.nan, False
        truth[2], valid[2] = 1.67e9, False
        metrics = measure(flow, truth, valid)
        assert metrics.pixels == (HEIGHT - 3) * WIDTH
        assert metrics.nonfinite == 0
        assert metrics.epe == pytest.approx(2.0)
        assert [metrics.outlier_rate(t) for t in (1.0, 3.0, 5.0)] == [100.0, 0.0, 0.0]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_estimates_that_are_not_finite_are_counted_and_not_averaged_away(self, value):
        flow = constant_flow(0, 0)
        flow[3, 4, 1] = value
        metrics = measure(flow, constant_flow(0, 0))
        assert metrics.nonfinite == 1
        assert math.isnan(metrics.epe)
        assert metrics.outliers == (1, 1, 1)
        assert metrics.fl == 1

    def test_errors_at_a_threshold_are_not_beyond_it(self):
        flow, truth = np.zeros((1, 6, 2), np.float32), np.zeros((1, 6, 2), np.float32)
        flow[0, :, 0] = [1.0, 1.5, 3.0, 3.5, 5.0, 5.5]
        metrics = measure(flow, truth)
        assert metrics.outliers == (5, 3, 1)

    def test_fl_needs_three_pixels_and_five_percent(self):
        # Errors 4, 4, 2.5, 5 px on motions of 100, 79, 10, 100 px: only the second is beyond both limits.
        truth = np.array([[[100, 0], [79, 0], [10, 0], [100, 0]]], np.float32)
        flow = truth + np.array([[[4, 0], [0, 4], [2.5, 0], [-5, 0]]], np.float32)
        metrics = measure(flow, truth)
        assert metrics.fl == 1
        assert metrics.fl_rate == 25.0

    def test_a_pair_without_valid_pixels_changes_no_mean(self):
        total = RegionTotal()
        total.add(measure(constant_flow(3, 4), constant_flow(0, 0)))
        total.add(measure(constant_flow(3, 4), constant_flow(0, 0), np.zeros((HEIGHT, WIDTH), bool)))
        assert (total.pairs, total.pixels, total.epe_image) == (2, HEIGHT * WIDTH, 5.0)

    def test_an_empty_set_has_no_error(self):
        total = RegionTotal()
        assert math.isnan(total.epe_image)
        assert math.isnan(total.fl)

    def test_epe_averages_over_pairs_and_rates_over_pixels(self):
        total = RegionTotal()
        total.add(measure(constant_flow(10, 0, 10, 10), constant_flow(0, 0, 10, 10)))
        total.add(measure(constant_flow(0, 0, 10, 30), constant_flow(0, 0, 10, 30)))
        assert total.epe_image == 5.0
        assert total.outlier_rate(3.0) == 25.0
        assert total.fl == 25.0

    @given(
        st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5), st.integers(0, 999)
    )
    def test_streaming_equals_everything_at_once(self, sizes, seed):
        random = np.random.default_rng(seed)
        total = RegionTotal()
        errors, epes, magnitudes = [], [], []
        for height, width in sizes:
            truth = random.normal(0, 60, (height, width, 2))
            flow = truth + random.normal(0, 4, (height, width, 2))
            valid = random.random((height, width)) < 0.7
            total.add(measure(flow, truth, valid))
            error = np.linalg.norm(flow - truth, axis=2)[valid]
            errors.append(error)
            magnitudes.append(np.linalg.norm(truth, axis=2)[valid])
            epes.extend([error.mean()] if error.size else [])
        pooled, magnitude = np.concatenate(errors), np.concatenate(magnitudes)
        assert total.pixels == pooled.size
        if pooled.size:
            assert total.epe_image == pytest.approx(np.mean(epes))
            assert total.outlier_rate(3.0) == pytest.approx(100 * np.mean(pooled > 3))
            assert total.fl == pytest.approx(100 * np.mean((pooled > 3) & (pooled > 0.05 * magnitude)))

    def test_shapes_that_differ_are_named(self):
        with pytest.raises(DataError, match=r"\(24, 32, 2\).*\(24, 31, 2\)"):
            measure(constant_flow(0, 0), constant_flow(0, 0, width=31))
        with pytest.raises(DataError, match="validity mask"):
            measure(constant_flow(0, 0), constant_flow(0, 0), np.ones((3, 3), bool))


def write_pair(flow: Path, frame1: Path, frame2: Path, motion: tuple[float, float] = (1.0, -2.0)) -> None:
    random = np.random.default_rng(0)
    for path in (flow, frame1, frame2):
        path.parent.mkdir(parents=True, exist_ok=True)
    for frame in (frame1, frame2):
        write_image(frame, random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    write_flow(flow, constant_flow(*motion))


def write_benchmarks(root: Path) -> None:
    """One or two pairs of each data set in its official layout."""
    training = root / "MPI-Sintel" / "training"
    for number in (1, 2, 11):
        frames = [training / "final" / "cave_2" / f"frame_{n:04d}.png" for n in (number, number + 1)]
        write_pair(training / "flow" / "cave_2" / f"frame_{number:04d}.flo", *frames)
    occlusion = training / "occlusions" / "cave_2" / "frame_0002.png"
    occlusion.parent.mkdir(parents=True)
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[:, :5] = 255
    write_image(occlusion, mask)
    for year, images, truth in (("2015", "image_2", "flow_occ"), ("2012", "colored_0", "flow_noc")):
        kitti = root / f"KITTI-{year}" / "training"
        write_pair(
            kitti / truth / "000007_10.png",
            kitti / images / "000007_10.png",
            kitti / images / "000007_11.png",
        )
    other = root / "Middlebury"
    frames = [other / "other-data" / "Venus" / f"frame{n}.png" for n in (10, 11)]
    write_pair(other / "other-gt-flow" / "Venus" / "flow10.flo", *frames)
    chairs = root / "FlyingChairs_release" / "data"
    write_pair(chairs / "00003_flow.flo", chairs / "00003_img1.ppm", chairs / "00003_img2.ppm")


class TestLayouts:
    def test_every_data_set_under_a_root_is_found(self, tmp_path):
        write_benchmarks(tmp_path)
        found = {dataset.title: dataset for dataset in find_benchmarks(tmp_path)}
        assert list(found) == ["MPI-Sintel final", "KITTI-2015", "KITTI-2012", "Middlebury", "FlyingChairs"]
        assert [pair.name for pair in found["MPI-Sintel final"].files] == [
            "cave_2 1",
            "cave_2 2",
            "cave_2 11",
        ]
        for dataset in found.values():
            sample = dataset[0]
            assert sample.frame1.shape == (HEIGHT, WIDTH, 3)
            assert sample.frame1.dtype == np.uint8
            assert sample.valid.all()
            assert sample.flow == pytest.approx(constant_flow(1.0, -2.0))

    def test_a_pair_without_one_of_its_frames_does_not_exist(self, tmp_path):
        write_benchmarks(tmp_path)
        (tmp_path / "MPI-Sintel/training/final/cave_2/frame_0012.png").unlink()
        dataset = sintel(tmp_path / "MPI-Sintel", "final")
        assert [pair.name for pair in dataset.files] == ["cave_2 1", "cave_2 2"]

    def test_occlusions_are_read_where_there_are_any(self, tmp_path):
        write_benchmarks(tmp_path)
        without, with_mask = sintel(tmp_path / "MPI-Sintel", "final")[:2]
        assert without.occlusion is None
        assert with_mask.occlusion is not None
        assert with_mask.occlusion.sum() == HEIGHT * 5

    def test_unknown_flow_is_not_valid(self, tmp_path):
        write_benchmarks(tmp_path)
        known = np.ones((HEIGHT, WIDTH), bool)
        known[:3] = False
        write_flow(tmp_path / "Middlebury/other-gt-flow/Venus/flow10.flo", constant_flow(1, 1), known)
        sample = middlebury(tmp_path / "Middlebury")[0]
        assert sample.valid.sum() == (HEIGHT - 3) * WIDTH
        assert measure(zero_flow(sample.frame1, sample.frame2), sample.flow, sample.valid).epe < 2

    def test_sizes_that_differ_are_named(self, tmp_path):
        write_benchmarks(tmp_path)
        bad = tmp_path / "FlyingChairs_release/data/00003_img2.ppm"
        write_image(bad, np.zeros((HEIGHT + 2, WIDTH, 3), np.uint8))
        with pytest.raises(DataError, match=r"00003_img2.ppm is 32x26 pixels, but .*00003_img1.ppm is 32x24"):
            flying_chairs(tmp_path / "FlyingChairs_release")[0]

    def test_missing_folders_are_named(self, tmp_path):
        with pytest.raises(DataError, match="absent is not a folder"):
            find_benchmarks(tmp_path / "absent")
        with pytest.raises(DataError, match=r"no known data set.*KITTI-2015"):
            find_benchmarks(tmp_path)
        (tmp_path / "KITTI-2015").mkdir()
        with pytest.raises(DataError, match="no complete pair of KITTI-2015"):
            kitti_2015(tmp_path / "KITTI-2015")


@dataclass
class StubEstimate:
    flow: np.ndarray
    steps: int
    residual: float


class StubModel:
    """Answers with a constant flow and remembers how it was asked."""

    def __init__(self, flow: tuple[float, float]) -> None:
        self.motion = flow
        self.asked: list[dict[str, float | None]] = []

    def estimate(self, frame1, frame2, **options):
        self.asked.append(options)
        return StubEstimate(constant_flow(*self.motion, *frame1.shape[:2]), 7, 0.25)


def pair_result(group: str, **epes: float) -> PairResult:
    metrics = {name: RegionErrors(10, 0, 10 * epe, (0, 0, 0), 0) for name, epe in epes.items()}
    return PairResult(
        "set", group, "pair", metrics, dict.fromkeys(epes, 0.0), dict.fromkeys(epes), dict.fromkeys(epes)
    )


class TestBenchmark:
    def test_relative_error_is_a_geometric_mean_over_the_pairs_that_count(self):
        results = [
            pair_result("Sintel final", ours=1.0, dis=2.0),
            pair_result("KITTI", ours=8.0, dis=1.0),
            pair_result("FlyingChairs", ours=2.0, dis=1.0),
            pair_result("Middlebury", ours=100.0, dis=1.0),
        ]
        report = Report(("ours", "dis"), results)
        assert report.relative_error("ours") == pytest.approx(2.0)
        assert math.isnan(report.relative_error("ours", groups=["Spring"]))

    def test_an_error_of_zero_is_no_crash(self):
        report = Report(("ours", "dis"), [pair_result("KITTI", ours=0.0, dis=2.0)])
        assert report.relative_error("ours") == 0.0

    def test_run_prints_a_table_and_writes_json(self, tmp_path, monkeypatch, capsys):
        write_benchmarks(tmp_path / "data")
        model = StubModel((1.0, 1.0))
        loaded = {}
        monkeypatch.setattr(zoo, "load", lambda name, **options: loaded.update(name=name, **options) or model)
        file = tmp_path / "new" / "report.json"
        code = run(
            EvaluateOptions(benchmark=tmp_path / "data", steps=9, tolerance=0.5, device="cpu", json=file)
        )
        assert code == 0
        assert loaded == {"name": "deqflow-s", "checkpoint": None, "device": "cpu", "precision": "auto"}
        assert model.asked == [{"steps": 9, "tolerance": 0.5}] * 7
        table = capsys.readouterr().out
        assert re.search(r"\| MPI-Sintel final cave_2 11 +\| +3\.000 \|.*\| +2\.236 \|", table)
        assert re.search(r"\*\*KITTI \(2\)\*\*", table)
        assert "Geometric mean of EPE / DIS's EPE" in table
        report = json.loads(file.read_text())
        assert report["groups"]["Sintel final"]["deqflow-s"]["epe"] == pytest.approx(3.0)
        assert report["pairs"][0]["methods"]["deqflow-s"]["steps"] == 7
        assert report["pairs"][0]["methods"]["zero"]["steps"] is None

    def test_nan_estimates_are_said(self, tmp_path, monkeypatch, capsys):
        write_benchmarks(tmp_path)
        monkeypatch.setattr(zoo, "load", lambda name, **options: StubModel((math.nan, 0.0)))
        assert run(EvaluateOptions(benchmark=tmp_path, baselines=("dis",))) == 0
        table = capsys.readouterr().out
        assert f"deqflow-s: {7 * HEIGHT * WIDTH} valid pixels without a finite estimate" in table

    def test_a_report_holds_json_that_every_parser_reads(self):
        report = Report(("ours",), [pair_result("KITTI", ours=math.nan)])
        text = json.dumps(report.as_dict(), allow_nan=False)
        assert json.loads(text)["groups"]["KITTI"]["ours"]["epe"] is None


def slowed(function, seconds):
    def slow(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)

    return slow


class TestSpeed:
    def test_parts_make_up_the_whole_and_precision_is_restored(self, device):
        model = DEQFlow(SMALL).eval().to(device)
        timings = measure_speed(
            model, precisions=("float32", "bfloat16"), steps=(1, 4), size=(48, 64), repeats=3, progress=False
        )
        assert list(timings) == [("float32", 1), ("float32", 4), ("bfloat16", 1), ("bfloat16", 4)]
        assert all(len(measured) == 3 for measured in timings.values())
        for timing in (timing for measured in timings.values() for timing in measured):
            assert min(timing.encoders, timing.correlation, timing.upsampling) > 0
            assert timing.total >= timing.solve
        assert model.precision == torch.float32

    def test_time_is_booked_on_the_part_that_spends_it(self, monkeypatch):
        model = DEQFlow(SMALL).eval()
        pauses = {"encode": 0.02, "operator": 0.4, "decode": 0.03}
        for name, pause in pauses.items():
            monkeypatch.setattr(model, name, slowed(getattr(model, name), pause))
        timing = time_pair(model, *torch.zeros(2, 1, 3, 16, 16), steps=1)
        assert timing.encoders >= 2 * pauses["encode"]
        assert timing.correlation >= pauses["operator"]
        assert timing.upsampling >= pauses["decode"]
        assert timing.solve < pauses["operator"]  # which solve_pair's own operator is not part of

    def test_bench_prints_a_row_per_combination(self, monkeypatch, capsys):
        model = DEQFlow(SMALL).eval()
        monkeypatch.setattr(zoo, "load", lambda name, **options: model)
        options = BenchOptions(steps=(1, 2), precisions=("float32",), width=64, height=48, repeats=1)
        assert run_bench(options) == 0
        table = capsys.readouterr().out
        assert "deqflow-s, 64x48, cpu" in table
        assert re.search(r"\| float32 +\| +1 \|", table)
        assert re.search(r"\| float32 +\| +2 \|", table)

    @pytest.mark.parametrize("wrong", [{"steps": ()}, {"steps": (0,)}, {"repeats": 0}, {"precisions": ()}])
    def test_options_out_of_range_are_refused(self, wrong):
        with pytest.raises(ConfigError):
            BenchOptions(**wrong)


class TestBaselines:
    def test_dis_follows_a_shift(self):
        random = np.random.default_rng(3)
        coarse = random.integers(0, 256, (20, 28, 3), dtype=np.uint8)
        texture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
        frame1, frame2 = texture[8:-8, 8:-8], texture[6:-10, 5:-11]  # the picture moves 3 right and 2 down
        error = end_point_error(dis_flow(frame1, frame2), constant_flow(3, 2, *frame1.shape[:2]))
        assert np.median(error) < 0.3

    def test_dis_and_zero_flow_agree_with_the_published_table(self, shared_benchmark):
        expected = published_table(shared_benchmark / "README.md")
        report = evaluate(
            {name: baseline_method(name) for name in ("dis", "zero")},
            find_benchmarks(shared_benchmark),
            progress=False,
        )
        measured = {f"{result.dataset} {result.name}": result.metrics for result in report.results}
        assert measured.keys() == expected.keys()
        for name, (dis, zero) in expected.items():
            # Half a unit of the table's last digit, and as much again for other processors' rounding in DIS.
            assert measured[name]["dis"].epe == pytest.approx(dis, abs=1e-3), name
            assert measured[name]["zero"].epe == pytest.approx(zero, abs=5.01e-3), name


def published_table(readme: Path) -> dict[str, tuple[float, float]]:
    """Pair -> EPE of DIS and of zero flow."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in readme.read_text().splitlines()
    ]
    figures = [row for row in rows if len(row) == 4 and re.fullmatch(r"[\d.]+", row[2])]
    return {row[0]: (float(row[2]), float(row[3])) for row in figures}
