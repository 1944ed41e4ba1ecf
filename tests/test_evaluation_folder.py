"""Results on disk: rows, runs that go on from them, settings that must agree."""

import json
import math
from dataclasses import replace

import pytest
from evaluation_data import (
    ALONE,
    ConstantPredictor,
    figures,
    results,
    tiny_model,
    write_sintel,
)

from deqflow.data.datasets import find_benchmarks, open_dataset
from deqflow.errors import ConfigError, DataError
from deqflow.evaluation.metrics import ErrorSums
from deqflow.evaluation.plan import Plan
from deqflow.evaluation.predictors import (
    BaselinePredictor,
    SequencePredictor,
)
from deqflow.evaluation.results import ResultsFolder, SampleResult, read_samples
from deqflow.evaluation.runner import run_benchmark
from deqflow.evaluation.summary import Summary


class TestFolder:
    def test_results_read_back_to_the_last_digit(self, tmp_path):
        regions = {
            "all": ErrorSums.of_pair(
                7, 1 / 3, nonfinite=1, over_1px=3, over_3px=2, over_5px=1, fl=2, wauc=12345
            ),
            "noc": ErrorSums.of_pair(),
        }
        result = SampleResult(
            method="a, b", dataset='quoted "set"', group="g", name="line\u2028\n end", width=5, height=4,
            regions=regions, seconds=0.1, steps=3, converged=False, residual=math.inf, residual_peak=2e-9,
            reused=True,
        )  # fmt: skip
        plain = SampleResult(
            method="zero", dataset="s", group="g", name="n", width=1, height=1, regions=regions
        )
        with ResultsFolder(tmp_path).table() as keep:
            keep(result)
            keep(plain)
        # What is not finite is null in JSON.
        assert list(read_samples(tmp_path / "samples.jsonl")) == [replace(result, residual=None), plain]
        for line in (tmp_path / "samples.jsonl").read_text(encoding="ascii").splitlines():
            assert json.loads(line)["metrics"]["1px"] == pytest.approx(300 / 7)

    def test_a_line_that_was_cut_short_is_dropped(self, benchmarks, tmp_path):
        plan, folder = Plan.of(find_benchmarks(benchmarks)), ResultsFolder(tmp_path / "out")
        found = results({"ours": ConstantPredictor()}, plan)
        folder.open({})
        path = folder.path / "samples.jsonl"
        with folder.table() as keep:
            for result in found[:3]:
                keep(result)
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        assert list(read_samples(path)) == found[:2]
        folder.open({})
        with folder.table() as keep:
            keep(found[2])
        assert path.read_bytes() == whole
        path.write_bytes(whole[:5])
        folder.open({})
        assert folder.results() == []

    @pytest.mark.parametrize(
        "damage",
        [
            lambda line: "a,b",
            lambda line: "[]",
            lambda line: line.replace('"pixels": 768', '"pixels": "768"'),
            lambda line: line.replace('"all"', '"most"'),
            lambda line: line.replace('"steps"', '"strides"'),
            lambda line: line.replace('"method": "ours"', '"method": null'),
            lambda line: line.replace('"steps": 7', '"steps": "7"'),
            lambda line: line.replace('"seconds": 0.5, ', ""),
        ],
    )
    def test_other_files_are_refused(self, damage, benchmarks, tmp_path):
        folder = ResultsFolder(tmp_path / "out")
        folder.open({})
        path = folder.path / "samples.jsonl"
        (found, *_) = results({"ours": ConstantPredictor()}, Plan.of(find_benchmarks(benchmarks)))
        line = found.encode().decode()
        path.write_text(line + damage(line.rstrip("\n")) + "\n")
        with pytest.raises(DataError, match=r"samples\.jsonl line 2 is not a result of this version"):
            folder.open({})
        (folder.path / "settings.json").unlink()
        with pytest.raises(ConfigError, match=r"samples\.jsonl but no settings\.json"):
            folder.open({})

    def test_an_interrupted_run_goes_on_where_it_was(self, benchmarks, tmp_path, capsys):
        plan, folder = Plan.of(find_benchmarks(benchmarks)), ResultsFolder(tmp_path / "out")
        settings = {"model": "ours", "steps": None}
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(
                {"ours": ConstantPredictor(fail_at=4)}, plan, ALONE, folder=folder, settings=settings
            )
        assert "the same command goes on" in capsys.readouterr().err
        assert len(list(read_samples(folder.path / "samples.jsonl"))) == 4
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
        before = (tmp_path / "samples.jsonl").read_bytes()
        with pytest.raises(ConfigError, match="whose steps was 12 and not 24"):
            run_benchmark({"a": ConstantPredictor()}, plan, ALONE, folder=folder, settings={"steps": 24})
        assert (tmp_path / "samples.jsonl").read_bytes() == before
        run_benchmark(
            {"a": ConstantPredictor(1, -2)},
            plan,
            ALONE,
            folder=folder,
            settings={"steps": 24},
            overwrite=True,
        )
        assert {result.epe for result in read_samples(tmp_path / "samples.jsonl")} == {0.0}

    def test_a_chain_of_which_something_is_missing_runs_whole_and_gives_the_same(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2, 3], "cave_2": [4, 5]})
        plan, folder = Plan.of(open_dataset("sintel", root), sequential=True), ResultsFolder(tmp_path / "out")

        def run() -> list[SampleResult]:
            methods = {"tiny": SequencePredictor(tiny_model(steps=3)), "zero": BaselinePredictor("zero")}
            run_benchmark(methods, plan, ALONE, folder=folder, settings={}, progress=False)
            return figures(folder.path / "samples.jsonl")

        whole = run()
        lines = (folder.path / "samples.jsonl").read_text().splitlines(keepends=True)
        (folder.path / "samples.jsonl").write_text("".join([*lines[:2], *lines[3:6], *lines[7:]]))
        assert run() == whole

    def test_tables_of_several_processes_become_one(self, benchmarks, tmp_path):
        plan, methods = Plan.of(find_benchmarks(benchmarks)), {"ours": ConstantPredictor()}
        folder = ResultsFolder(tmp_path / "out")
        folder.open({})
        found = []
        for rank in range(3):
            with folder.table(rank) as keep:
                for result in results(methods, plan.share(rank, 3)):
                    keep(result)
                    found.append(result)
        once = run_benchmark(methods, plan, ALONE, progress=False)
        assert Summary(["ours"], plan, found).as_dict() == once.as_dict()
        again = run_benchmark({"ours": ConstantPredictor(9)}, plan, ALONE, folder=folder, settings={})
        assert again.as_dict() == once.as_dict()  # nothing was computed again
        assert sorted(path.name for path in folder.path.iterdir()) == [
            "samples.jsonl",
            "settings.json",
            "summary.json",
            "table.md",
        ]
        assert [result.name for result in read_samples(folder.path / "samples.jsonl")] == [
            plan.datasets[place.dataset].files[place.pair].name for place in plan.places
        ]
