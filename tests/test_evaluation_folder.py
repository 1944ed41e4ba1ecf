"""Results on disk: rows, runs that go on from them, settings that must agree."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_data import (
    ALONE,
    ConstantPredictor,
    figures,
    results,
    tiny_model,
    write_benchmarks,
    write_sintel,
)

from deqflow.data.datasets import find_benchmarks, open_dataset
from deqflow.errors import ConfigError, DataError
from deqflow.evaluation.benchmark import run_benchmark
from deqflow.evaluation.folder import ResultsFolder
from deqflow.evaluation.metrics import RegionErrors
from deqflow.evaluation.predictors import (
    BaselinePredictor,
    SequencePredictor,
)
from deqflow.evaluation.results import SampleResult, SampleTable, read_samples
from deqflow.evaluation.runner import Plan
from deqflow.evaluation.summary import Summary


@pytest.fixture
def benchmarks(tmp_path) -> Path:
    write_benchmarks(tmp_path / "data")
    return tmp_path / "data"


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
            methods = {"tiny": SequencePredictor(tiny_model(steps=3)), "zero": BaselinePredictor("zero")}
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
