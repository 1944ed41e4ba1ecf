"""Evaluations as users run them: data sets by name, batches, sequences, interruptions, several processes."""

import json
import math
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_data import (
    HEIGHT,
    WIDTH,
    constant_flow,
    tiny_model,
    write_benchmarks,
    write_frame,
    write_kitti,
    write_pair,
    write_sintel,
)

from deqflow import zoo
from deqflow.cli import main
from deqflow.commands.evaluate import fingerprint
from deqflow.data.datasets import find_benchmarks, open_dataset
from deqflow.errors import ConfigError, DataError
from deqflow.estimator import FlowState
from deqflow.evaluation.baselines import dis_flow
from deqflow.evaluation.benchmark import run_benchmark
from deqflow.evaluation.folder import ResultsFolder
from deqflow.evaluation.metrics import RegionErrors, end_point_error, measure_sample
from deqflow.evaluation.predictors import (
    BaselinePredictor,
    Item,
    PairPredictor,
    Prediction,
    SequencePredictor,
)
from deqflow.evaluation.results import SampleResult, SampleTable, read_samples
from deqflow.evaluation.runner import Plan, batches, evaluate, read_ahead
from deqflow.evaluation.summary import Summary
from deqflow.evaluation.totals import Total
from deqflow.stream import FlowStream, carry
from deqflow.training.processes import Processes

ALONE = Processes(torch.device("cpu"))


class ConstantPredictor:
    """Answers with a constant flow, and remembers what it was asked."""

    sequential = False

    def __init__(self, u: float = 1.0, v: float = 1.0, *, fail_at: int | None = None) -> None:
        self.motion, self.fail_at = (u, v), fail_at
        self.asked: list[list[str]] = []

    def __call__(self, items):
        self.asked.append([item.sample.name for item in items])
        if self.fail_at is not None and sum(map(len, self.asked)) > self.fail_at:
            raise KeyboardInterrupt
        return [
            Prediction(
                constant_flow(*self.motion, *item.sample.flow.shape[:2]), 0.5, 7, True, 0.25, 0.5, False
            )
            for item in items
        ]


@pytest.fixture
def benchmarks(tmp_path) -> Path:
    write_benchmarks(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def model(monkeypatch):
    """A small model that every name of a preset loads."""
    model = tiny_model()
    monkeypatch.setattr(zoo, "load", lambda name, **options: model)
    return model


def results(methods, plan, **options) -> list[SampleResult]:
    return [result for found in evaluate(methods, plan, **options) for result in found]


def figures(path: Path) -> list[SampleResult]:
    """What a table says, apart from how long it took."""
    return [replace(result, seconds=0.0) for result in read_samples(path)]


class TestPlan:
    def test_pairs_that_follow_each_other_are_a_chain(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [3, 4], "cave_2": [5, 6, 11, 12, 13]})
        datasets = open_dataset("sintel", root)
        plan = Plan.of(datasets, sequential=True)
        assert [[place.pair for place in chain] for chain in plan.chains] == [[0, 1], [2, 3], [4, 5, 6]]
        assert [len(chain) for chain in Plan.of(datasets).chains] == [1] * 7
        assert [len(chain) for chain in Plan.of(datasets, sequential=True, limit=3).chains] == [2, 1]
        assert plan.pairs == {"MPI-Sintel final": 7}

    def test_shares_are_everything_once(self, benchmarks):
        plan = Plan.of(find_benchmarks(benchmarks), sequential=True)
        for count in (1, 2, 3, 20):
            shares = [plan.share(rank, count).chains for rank in range(count)]
            assert sorted(chain for share in shares for chain in share) == sorted(plan.chains)

    def test_pairs_of_one_name_are_refused(self, benchmarks):
        (dataset,) = open_dataset("sintel", benchmarks)
        dataset.files[1] = replace(dataset.files[1], name=dataset.files[0].name)
        with pytest.raises(DataError, match="2 pairs of MPI-Sintel final are called 'cave_2 1'"):
            Plan.of([dataset])


class TestLoop:
    @pytest.mark.parametrize("workers", [0, 1, 3])
    def test_samples_come_in_order(self, tmp_path, workers):
        root = write_sintel(tmp_path, {"alley_1": list(range(1, 12))})
        plan = Plan.of(open_dataset("sintel", root))
        assert [item.sample.index for item in read_ahead(plan, workers)] == list(range(1, 12))

    def test_a_file_that_cannot_be_read_ends_the_run_with_its_name(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2, 3, 4]})
        (root / "training/flow/alley_1/frame_0003.flo").write_bytes(b"PIEH")
        methods = {"ours": ConstantPredictor()}
        plan = Plan.of(open_dataset("sintel", root))
        with pytest.raises(ValueError, match=r"frame_0003\.flo"):
            results(methods, plan, workers=2)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]

    def test_batches_are_of_one_size_and_few_wait(self, tmp_path):
        for index in range(30):
            frames = [tmp_path / "data" / f"{index:05d}_img{n}.ppm" for n in (1, 2)]
            write_pair(tmp_path / "data" / f"{index:05d}_flow.flo", *frames, size=(16 + index % 9, 16))
        plan = Plan.of(open_dataset("chairs", tmp_path, split="all"))
        taken = 0

        def counted():
            nonlocal taken
            for item in read_ahead(plan, 0):
                taken += 1
                yield item

        given: list[Item] = []
        for group in batches(counted(), 2):
            given += group
            assert len({item.sample.frame1.shape for item in group}) == 1
            assert len(group) <= 2
            assert taken - len(given) <= 8
        assert sorted(item.sample.name for item in given) == [f"{index:05d}" for index in range(30)]

    def test_a_batch_gives_what_its_pairs_give_alone(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2, 3], "cave_2": [4, 5]})
        write_kitti(tmp_path, size=(30, 45))
        datasets = [*open_dataset("sintel", root), *open_dataset("kitti-2015", tmp_path)]
        methods = {"tiny": PairPredictor(tiny_model(), tolerance=0.5), "dis": BaselinePredictor("dis")}
        alone, together = (
            {
                result.key: replace(result, seconds=0.0)
                for result in results(methods, Plan.of(datasets), batch=size)
            }
            for size in (1, 4)
        )
        assert len(alone) == 12 and together.keys() == alone.keys()
        for key, found in together.items():
            # Convolutions of a batch may add up in another order on some machines, and nothing else.
            assert found.epe == (
                alone[key].epe if key.method == "dis" else pytest.approx(alone[key].epe, rel=1e-5)
            )
            assert found.steps == alone[key].steps
            assert found.regions.keys() == alone[key].regions.keys()

    def test_kitti_is_padded_at_the_bottom_and_the_rest_centred(self, tmp_path):
        write_kitti(tmp_path, size=(30, 45))
        root = write_sintel(tmp_path, {"alley_1": [1]})
        for dataset, odd in (
            (open_dataset("kitti-2015", tmp_path)[0], (0, 2)),
            (open_dataset("sintel", root)[0], (0, 0)),
        ):
            padding = Item(dataset, dataset[0]).padding
            assert (padding.top, padding.bottom) == odd
        seen = []
        model = tiny_model()
        model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        dataset = open_dataset("kitti-2015", tmp_path)[0]
        (prediction,) = PairPredictor(model)([Item(dataset, dataset[0])])
        frame = torch.from_numpy(dataset[0].frame1).permute(2, 0, 1).float()
        assert torch.equal(seen[0][0, :, :30, 1:46], frame)
        assert torch.equal(seen[0][0, :, 31], seen[0][0, :, 29])
        assert prediction.flow.shape == (30, 45, 2)


class TestSequences:
    def test_reuse_is_the_stream_and_starts_anew_at_gaps(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2, 3], "cave_2": [4, 7]})
        (dataset,) = open_dataset("sintel", root)
        model = tiny_model()
        found = results({"tiny": SequencePredictor(model, steps=5)}, Plan.of([dataset], sequential=True))
        assert [result.reused for result in found] == [False, True, True, False, False]
        stream = FlowStream(model, detect_cuts=False, steps=5)
        stream.push(dataset[0].frame1)
        for sample, result in zip(dataset[:3], found[:3], strict=True):
            estimate = stream.push(sample.frame2)
            assert result.regions == measure_sample(estimate.flow, sample)
        cold = model.estimate(dataset[4].frame1, dataset[4].frame2, steps=5)
        assert found[4].regions == measure_sample(cold.flow, dataset[4])
        assert found[1].regions != results({"tiny": PairPredictor(model, 5)}, Plan.of([dataset]))[1].regions

    def test_warm_start_takes_the_flow_and_leaves_hidden(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2]})
        (dataset,) = open_dataset("sintel", root)
        model = tiny_model()
        predictor = SequencePredictor(model, flow_only=True, steps=3)
        found = results({"tiny": predictor}, Plan.of([dataset], sequential=True))
        first = model.estimate(dataset[0].frame1, dataset[0].frame2, steps=3)
        start = FlowState(torch.zeros_like(first.state.hidden), carry(first.state).flow)
        second = model.estimate(dataset[1].frame1, dataset[1].frame2, steps=3, state=start)
        assert found[1].reused
        assert found[1].epe == pytest.approx(measure_sample(second.flow, dataset[1])["all"].epe, rel=1e-6)

    def test_rendering_passes_are_sequences_of_their_own(self, tmp_path):
        for render in ("clean", "final"):
            root = write_sintel(tmp_path, {"alley_1": [1, 2]}, render)
        plan = Plan.of(open_dataset("sintel", root), sequential=True)
        found = results({"tiny": SequencePredictor(tiny_model(), steps=2)}, plan)
        assert [result.reused for result in found] == [False, True, False, True]


class TestFolder:
    def test_rows_read_back_to_the_last_digit(self, tmp_path):
        regions = {
            "all": RegionErrors(7, 1, 1 / 3, (3, 2, 1), 2, 12345),
            "noc": RegionErrors(),
        }
        result = SampleResult(
            method="a, b", dataset='quoted "set"', group="g", name="line\u2028 end", width=5, height=4,
            regions=regions, seconds=0.1, steps=3, converged=False, residual=math.inf, residual_peak=2e-9,
            reused=True,
        )  # fmt: skip
        plain = SampleResult(
            method="zero", dataset="s", group="g", name="n", width=1, height=1, regions=regions
        )
        with SampleTable(tmp_path / "samples.csv") as table:
            table.append(result)
            table.append(plain)
        assert list(read_samples(tmp_path / "samples.csv")) == [replace(result, name="line  end"), plain]

    def test_a_line_that_was_cut_short_is_dropped(self, benchmarks, tmp_path):
        plan, path = Plan.of(find_benchmarks(benchmarks)), tmp_path / "samples.csv"
        found = results({"ours": ConstantPredictor()}, plan)
        with SampleTable(path) as table:
            for result in found[:3]:
                table.append(result)
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        assert list(read_samples(path)) == found[:2]
        with SampleTable(path) as table:
            table.append(found[2])
        assert path.read_bytes() == whole
        path.write_bytes(whole[:5])
        with SampleTable(path) as table:
            table.append(found[0])
        assert list(read_samples(path)) == found[:1]

    def test_other_files_are_refused(self, tmp_path):
        path = tmp_path / "samples.csv"
        path.write_text("a,b\n1,2\n")
        with pytest.raises(DataError, match="is not a table of results"):
            SampleTable(path)
        with pytest.raises(ConfigError, match=r"samples\.csv but no settings\.json"):
            ResultsFolder(tmp_path).open({})
        path.unlink()
        with SampleTable(path):
            pass
        path.write_text(path.read_text() + "1,2\n")
        with pytest.raises(DataError, match="line 2"):
            list(read_samples(path))

    def test_an_interrupted_run_goes_on_where_it_was(self, benchmarks, tmp_path, capsys):
        plan, folder = Plan.of(find_benchmarks(benchmarks)), ResultsFolder(tmp_path / "out")
        settings = {"model": "ours", "steps": None}
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(
                {"ours": ConstantPredictor(fail_at=4)}, plan, ALONE, folder=folder, settings=settings
            )
        assert "the same command goes on" in capsys.readouterr().err
        assert len(list(read_samples(folder.path / "samples.csv"))) == 4
        assert not (folder.path / "summary.json").exists()
        rest = ConstantPredictor()
        summary = run_benchmark({"ours": rest}, plan, ALONE, folder=folder, settings=settings)
        assert len(rest.asked) == 3
        once = run_benchmark({"ours": ConstantPredictor()}, plan, ALONE)
        assert summary.as_dict() == once.as_dict()
        assert summary.table() == once.table() == (folder.path / "table.md").read_text().rstrip("\n")
        stored = json.loads((folder.path / "summary.json").read_text())
        assert stored == {"settings": settings, **json.loads(json.dumps(once.as_dict()))}
        nothing = ConstantPredictor()
        run_benchmark({"ours": nothing}, plan, ALONE, folder=folder, settings=settings)
        assert nothing.asked == []

    def test_a_run_of_other_settings_is_refused_and_overwritten_when_asked(self, benchmarks, tmp_path):
        plan, folder = Plan.of(find_benchmarks(benchmarks), limit=1), ResultsFolder(tmp_path)
        run_benchmark({"a": ConstantPredictor(5)}, plan, ALONE, folder=folder, settings={"steps": 12})
        before = (tmp_path / "samples.csv").read_bytes()
        with pytest.raises(ConfigError, match="whose steps was 12 and not 24"):
            run_benchmark({"a": ConstantPredictor()}, plan, ALONE, folder=folder, settings={"steps": 24})
        assert (tmp_path / "samples.csv").read_bytes() == before
        run_benchmark(
            {"a": ConstantPredictor(1, -2)},
            plan,
            ALONE,
            folder=folder,
            settings={"steps": 24},
            overwrite=True,
        )
        assert {result.epe for result in read_samples(tmp_path / "samples.csv")} == {0.0}

    def test_a_chain_of_which_something_is_missing_runs_whole_and_gives_the_same(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2, 3], "cave_2": [4, 5]})
        plan, folder = Plan.of(open_dataset("sintel", root), sequential=True), ResultsFolder(tmp_path / "out")

        def run() -> list[SampleResult]:
            methods = {"tiny": SequencePredictor(tiny_model(), steps=3), "zero": BaselinePredictor("zero")}
            run_benchmark(methods, plan, ALONE, folder=folder, settings={}, progress=False)
            return figures(folder.path / "samples.csv")

        whole = run()
        lines = (folder.path / "samples.csv").read_text().splitlines(keepends=True)
        (folder.path / "samples.csv").write_text("".join([*lines[:2], *lines[3:6], *lines[7:]]))
        assert run() == whole

    def test_tables_of_several_processes_become_one(self, benchmarks, tmp_path):
        plan, methods = Plan.of(find_benchmarks(benchmarks)), {"ours": ConstantPredictor()}
        folder = ResultsFolder(tmp_path / "out")
        folder.open({})
        summaries = []
        for rank in range(3):
            summaries.append(Summary.of(["ours"], plan))
            with folder.table(rank) as table:
                for result in results(methods, plan.share(rank, 3)):
                    table.append(result)
                    summaries[rank].add(result)
        for other in summaries[1:]:
            summaries[0].merge(other)
        once = run_benchmark(methods, plan, ALONE, progress=False)
        assert summaries[0].as_dict() == once.as_dict()
        again = run_benchmark({"ours": ConstantPredictor(9)}, plan, ALONE, folder=folder, settings={})
        assert again.as_dict() == once.as_dict()  # nothing was computed again
        assert sorted(path.name for path in folder.path.iterdir()) == [
            "samples.csv",
            "settings.json",
            "summary.json",
            "table.md",
        ]
        assert [result.name for result in read_samples(folder.path / "samples.csv")] == [
            plan.datasets[place.dataset].files[place.pair].name for place in plan.places
        ]


def pair_result(group: str, method: str, epe: float, pair: str = "pair") -> SampleResult:
    regions = {
        "all": RegionErrors(10, 0 if math.isfinite(epe) else 1, 10 * epe if math.isfinite(epe) else 0.0)
    }
    return SampleResult(
        method=method, dataset=group, group=group, name=pair, width=5, height=2, regions=regions
    )


def summary_of(epes: dict[str, dict[str, float]]) -> Summary:
    """A pair of each group, with the methods' errors."""
    methods = tuple(next(iter(epes.values())))
    summary = Summary(
        methods,
        {group: group for group in epes},
        {group: {method: Total() for method in methods} for group in epes},
        {(group, "pair"): {} for group in epes},
    )
    for group, values in epes.items():
        for method, epe in values.items():
            summary.add(pair_result(group, method, epe))
    return summary


class TestSummary:
    def test_relative_error_is_a_geometric_mean_over_the_pairs_that_count(self):
        summary = summary_of(
            {
                "Sintel final": {"ours": 1.0, "dis": 2.0},
                "KITTI": {"ours": 8.0, "dis": 1.0},
                "FlyingChairs": {"ours": 2.0, "dis": 1.0},
                "Middlebury": {"ours": 100.0, "dis": 1.0},
            }
        )
        assert summary.relative_error("ours") == pytest.approx(2.0)
        assert math.isnan(summary.relative_error("ours", groups=["Spring"]))

    def test_an_error_of_zero_is_no_crash(self):
        assert summary_of({"KITTI": {"ours": 0.0, "dis": 2.0}}).relative_error("ours") == 0.0
        assert summary_of({"KITTI": {"ours": 1.0, "dis": 0.0}}).relative_error("ours") == math.inf

    def test_it_holds_json_that_every_parser_reads(self):
        text = json.dumps(summary_of({"KITTI": {"ours": math.nan}}).as_dict(), allow_nan=False)
        assert json.loads(text)["groups"]["KITTI"]["ours"]["epe"] is None

    def test_masks_that_are_missing_are_said(self, benchmarks):
        plan = Plan.of(find_benchmarks(benchmarks))
        table = run_benchmark({"ours": ConstantPredictor()}, plan, ALONE, progress=False).table()
        assert "MPI-Sintel final: matched, unmatched over the 1 of 3 pairs with an occlusion mask." in table
        assert re.search(
            r"Left out of KITTI-2015, .*FlyingChairs for want of an occlusion mask: matched", table
        )
        assert re.search(r"\| EPE matched \|.*\| EPE noc \|", table)
        assert "EPE fg" not in table

    def test_pairs_of_a_large_data_set_have_no_rows(self, benchmarks, monkeypatch):
        monkeypatch.setattr("deqflow.evaluation.summary.PAIRS_LISTED", 6)
        plan = Plan.of(find_benchmarks(benchmarks))
        summary = run_benchmark({"ours": ConstantPredictor()}, plan, ALONE, progress=False)
        assert summary.pairs == {}
        assert "cave_2 11" not in summary.table() and "**KITTI (2)**" in summary.table()


def evaluate_command(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


class TestCommand:
    def test_all_data_sets_of_a_folder(self, benchmarks, tmp_path, model, capsys):
        file = tmp_path / "new" / "report.json"
        assert (
            evaluate_command("--benchmark", benchmarks, "--device", "cpu", "--json", file, "--steps", 3) == 0
        )
        table = capsys.readouterr().out
        assert re.search(r"\| MPI-Sintel final cave_2 11 +\| .*\| +2\.236 \| .* \| +3 \| ", table)
        assert re.search(r"\*\*KITTI \(2\)\*\*", table)
        assert "Geometric mean of EPE / DIS's EPE" in table
        report = json.loads(file.read_text())
        assert report["groups"]["Sintel final"]["zero"]["epe"] == pytest.approx(math.sqrt(5))
        assert report["datasets"]["KITTI-2012"]["zero"]["epe_noc"] == pytest.approx(math.sqrt(5))
        assert report["pairs"][0]["methods"]["deqflow-s"]["steps"] == 3
        assert report["pairs"][0]["methods"]["zero"]["steps"] is None
        assert report["settings"]["weights"] == fingerprint(model)
        assert report["settings"]["pairs"]["MPI-Sintel final"] == 3

    def test_a_file_that_exists_is_not_replaced_unasked(self, benchmarks, tmp_path, model, capsys):
        file = tmp_path / "report.json"
        file.write_text("mine")
        options = ("--benchmark", benchmarks, "--limit", 1, "--steps", 1, "--json", file)
        assert evaluate_command(*options) == 2
        assert "report.json exists already" in capsys.readouterr().err and file.read_text() == "mine"
        assert evaluate_command(*options, "--overwrite") == 0
        assert json.loads(file.read_text())["settings"]["steps"] == 1

    def test_data_sets_by_name_under_their_own_root_or_a_common_one(self, benchmarks, model, capsys):
        common = ("--baselines", "zero", "--steps", 2, "--precision", "float32")
        assert evaluate_command("--dataset", "sintel", "kitti-2015", "--root", benchmarks, *common) == 0
        both = capsys.readouterr().out
        assert (
            "**MPI-Sintel final (3)**" in both and "**KITTI-2015 (1)**" in both and "KITTI-2012" not in both
        )
        assert evaluate_command("--dataset", "sintel", "--root", benchmarks / "MPI-Sintel", *common) == 0
        assert "**MPI-Sintel final (3)**" in capsys.readouterr().out

    @pytest.mark.parametrize("start", ["--reuse", "--warm-start"])
    def test_sequences(self, benchmarks, tmp_path, model, start):
        options = ("--benchmark", benchmarks, "--limit", 2, "--steps", 2, "--output", tmp_path / "out")
        assert evaluate_command(*options, start) == 0
        reused = [result.reused for result in read_samples(tmp_path / "out" / "samples.csv")]
        assert reused[:6] == [False, None, None, True, None, None]
        settings = json.loads((tmp_path / "out" / "settings.json").read_text())
        assert settings["start"] == start.removeprefix("--").replace("-", " ")

    def test_an_interrupted_run_ends_with_130_and_goes_on(
        self, benchmarks, tmp_path, model, capsys, monkeypatch
    ):
        output = tmp_path / "out"
        options = ("--benchmark", benchmarks, "--steps", 2, "--output", output)
        calls = 0
        predict = PairPredictor.__call__

        def interrupted(self, items):
            nonlocal calls
            calls += 1
            if calls > 2:
                raise KeyboardInterrupt
            return predict(self, items)

        with monkeypatch.context() as patch:
            patch.setattr(PairPredictor, "__call__", interrupted)
            assert evaluate_command(*options) == 130
        done = {result.key for result in read_samples(output / "samples.csv")}
        assert 0 < len(done) < 21
        assert evaluate_command(*options) == 0
        resumed = figures(output / "samples.csv")
        assert evaluate_command(*options, "--overwrite") == 0
        assert figures(output / "samples.csv") == resumed
        assert evaluate_command(*options, "--tolerance", 0.5) == 2
        assert "results of another run, whose tolerance was 0.05 and not 0.5" in capsys.readouterr().err

    def test_estimates_that_are_not_finite_are_said(self, benchmarks, model, capsys):
        with torch.no_grad():
            for parameter in model.upsample.parameters():
                parameter.fill_(math.nan)
        assert evaluate_command("--benchmark", benchmarks, "--baselines", "dis") == 0
        table = capsys.readouterr().out
        assert f"deqflow-s: {7 * HEIGHT * WIDTH} valid pixels without a finite estimate" in table

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "expected --dataset NAME"),
            (("--root", "data"), "--root needs --dataset"),
            (("--benchmark", "data", "--root", "data", "--dataset", "sintel"), "expected --dataset NAME"),
            (("--benchmark", "data", "--dataset", "sintel"), "--dataset and --split go with --root"),
            (("--dataset", "sintle", "--root", "data"), "there is no data set 'sintle'"),
            (("--dataset", "sintel", "--root", "absent"), "absent is not a folder"),
            (("--dataset", "sintel", "--root", "data", "--split", "evening"), "no split 'evening'"),
            (("--benchmark", "data", "--batch", "0"), "--batch must be 1 or more"),
            (("--benchmark", "data", "--tolerance", "nan"), "--tolerance must be 0 or more"),
            (("--benchmark", "data", "--reuse", "--warm-start"), "expected one of them"),
            (("--benchmark", "data", "--reuse", "--batch", "2"), "every pair waits"),
            (("--benchmark", "data", "--overwrite"), "--overwrite goes with"),
        ],
    )
    def test_options_that_do_not_go_together_are_named(
        self, benchmarks, monkeypatch, capsys, options, message
    ):
        monkeypatch.chdir(benchmarks.parent)
        assert evaluate_command(*options) == 2
        assert message in " ".join(capsys.readouterr().err.split())

    def test_a_split_without_ground_truth_is_named(self, tmp_path, capsys):
        for number in (1, 2):
            write_frame(
                tmp_path / "MPI-Sintel" / "test" / "final" / "hill" / f"frame_{number:04d}.png", number
            )
        assert evaluate_command("--dataset", "sintel", "--root", tmp_path, "--split", "testing") == 2
        assert "the testing split of sintel has no public ground truth" in capsys.readouterr().err


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
        methods = {name: BaselinePredictor(name) for name in ("dis", "zero")}
        plan = Plan.of(find_benchmarks(shared_benchmark))
        summary = run_benchmark(methods, plan, ALONE, workers=1, progress=False)
        measured = {f"{dataset} {name}": found for (dataset, name), found in summary.pairs.items()}
        assert measured.keys() == {name for name in expected if not name.startswith("**")}
        for name, found in measured.items():
            dis, zero = expected[name]
            # Half a unit of the table's last digit, and as much again for other processors' rounding in DIS.
            assert found["dis"].epe == pytest.approx(dis, abs=1e-3), name
            assert found["zero"].epe == pytest.approx(zero, abs=5.01e-3), name
        groups = {
            f"**{name} ({found['dis'].pairs})**": found for name, found in summary.group_totals().items()
        }
        assert groups.keys() == {name for name in expected if name.startswith("**")}
        for name, totals in groups.items():
            dis, zero = expected[name]
            assert totals["dis"].all.epe_image == pytest.approx(dis, abs=1e-3), name
            assert totals["zero"].all.epe_image == pytest.approx(zero, abs=1.01e-2), name
        sintel = summary.totals["MPI-Sintel final"]["dis"].all
        assert sintel.epe_pixel == pytest.approx(sintel.epe_image)  # every pixel of frames of one size


def published_table(readme: Path) -> dict[str, tuple[float, float]]:
    """Pair or group -> EPE of DIS and of zero flow."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in readme.read_text().splitlines()
    ]
    figures = [row for row in rows if len(row) == 4 and re.fullmatch(r"[*\d.]+", row[2])]
    return {row[0]: (float(row[2].strip("*")), float(row[3].strip("*"))) for row in figures}
