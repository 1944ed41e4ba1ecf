"""``deqflow evaluate`` as users run it."""

import json
import math
import re

import pytest
import torch
from dataset_files import corner, make_custom, write_mask
from evaluation_data import (
    HEIGHT,
    WIDTH,
    figures,
    tiny_model,
    write_frame,
)

from deqflow import zoo
from deqflow.cli import main
from deqflow.commands.evaluate import fingerprint
from deqflow.evaluation.predictors import (
    PairPredictor,
)
from deqflow.evaluation.results import read_samples


@pytest.fixture
def model(monkeypatch):
    """A small model that every name of a preset loads, solved as the command line says."""
    model = tiny_model()
    defaults = model.defaults

    def load(name, *, checkpoint, device, precision, **options):
        model.defaults = defaults.changed(**options)
        return model

    monkeypatch.setattr(zoo, "load", load)
    return model


def evaluate_command(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


class TestCommand:
    def test_all_data_sets_of_a_folder(self, benchmarks, tmp_path, model, capsys):
        file = tmp_path / "new" / "report.json"
        assert evaluate_command("--data", benchmarks, "--device", "cpu", "--json", file, "--steps", 3) == 0
        table = capsys.readouterr().out
        assert re.search(r"\| MPI-Sintel final cave_2 11 +\| .*\| +2\.236 \| .* \| +3 \| ", table)
        assert re.search(r"\*\*KITTI \(2\)\*\*", table)
        assert "Geometric mean of EPE / DIS's EPE" in table
        report = json.loads(file.read_text())
        assert report["groups"]["Sintel final"]["zero"]["epe"] == pytest.approx(math.sqrt(5))
        assert report["datasets"]["KITTI-2012"]["zero"]["epe_noc"] == pytest.approx(math.sqrt(5))
        assert report["pairs"][0]["methods"]["deqflow-s"]["steps"] == 3
        assert report["pairs"][0]["methods"]["zero"]["steps"] is None
        assert (
            report["datasets"]["KITTI-2012"]["deqflow-s"]["cost"] == 3
        )  # frames too small for a coarse start
        assert report["settings"]["weights"] == fingerprint(model)
        assert report["settings"]["pairs"]["MPI-Sintel final"] == 3

    def test_a_file_that_exists_is_not_replaced_unasked(self, benchmarks, tmp_path, model, capsys):
        file = tmp_path / "report.json"
        file.write_text("mine")
        options = ("--data", benchmarks, "--limit", 1, "--steps", 1, "--json", file)
        assert evaluate_command(*options) == 2
        assert "report.json exists already" in capsys.readouterr().err and file.read_text() == "mine"
        assert evaluate_command(*options, "--overwrite") == 0
        assert json.loads(file.read_text())["settings"]["steps"] == 1

    def test_data_sets_by_name_under_their_own_root_or_a_common_one(self, benchmarks, model, capsys):
        common = ("--baselines", "zero", "--steps", 2, "--precision", "float32")
        assert evaluate_command("--dataset", "sintel", "kitti-2015", "--data", benchmarks, *common) == 0
        both = capsys.readouterr().out
        assert (
            "**MPI-Sintel final (3)**" in both and "**KITTI-2015 (1)**" in both and "KITTI-2012" not in both
        )
        assert evaluate_command("--dataset", "sintel", "--data", benchmarks / "MPI-Sintel", *common) == 0
        assert "**MPI-Sintel final (3)**" in capsys.readouterr().out
        assert evaluate_command("--data", benchmarks / "MPI-Sintel", *common) == 0
        alone = capsys.readouterr().out
        assert "**MPI-Sintel final (3)**" in alone and "KITTI" not in alone.partition("Left out")[0]

    @pytest.mark.parametrize("start", ["--reuse", "--warm-start"])
    def test_sequences(self, benchmarks, tmp_path, model, start):
        options = ("--data", benchmarks, "--limit", 2, "--steps", 2, "--output", tmp_path / "out")
        assert evaluate_command(*options, start) == 0
        reused = [result.reused for result in read_samples(tmp_path / "out" / "samples.jsonl")]
        assert reused[:6] == [False, None, None, True, None, None]
        settings = json.loads((tmp_path / "out" / "settings.json").read_text())
        assert settings["start"] == start.removeprefix("--").replace("-", " ")

    def test_an_interrupted_run_ends_with_130_and_goes_on(
        self, benchmarks, tmp_path, model, capsys, monkeypatch
    ):
        output = tmp_path / "out"
        options = ("--data", benchmarks, "--steps", 2, "--output", output)
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
        done = {result.key for result in read_samples(output / "samples.jsonl")}
        assert 0 < len(done) < 21
        assert evaluate_command(*options) == 0
        resumed = figures(output / "samples.jsonl")
        assert evaluate_command(*options, "--overwrite") == 0
        assert figures(output / "samples.jsonl") == resumed
        assert evaluate_command(*options, "--tolerance", 0.5) == 2
        assert "results of another run, whose tolerance was 0.05 and not 0.5" in capsys.readouterr().err
        assert evaluate_command(*options, "--scales", 16, 8) == 2
        assert "results of another run, whose scales was [8] and not [16, 8]" in capsys.readouterr().err

    def test_estimates_that_are_not_finite_are_said(self, benchmarks, model, capsys):
        with torch.no_grad():
            for parameter in model.upsample.parameters():
                parameter.fill_(math.nan)
        assert evaluate_command("--data", benchmarks, "--baselines", "dis") == 0
        table = capsys.readouterr().out
        assert f"deqflow-s: {7 * HEIGHT * WIDTH} valid pixels without a finite estimate" in table

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "--data"),
            (("--dataset", "sintel"), "--data"),
            (("--data", "data", "--split", "training"), "--split goes with --dataset"),
            (("--data", "data/MPI-Sintel/training"), "holds no known data set"),
            (("--dataset", "sintle", "--data", "data"), "there is no data set 'sintle'"),
            (("--dataset", "sintel", "--data", "absent"), "absent is not a folder"),
            (("--dataset", "sintel", "--data", "data", "--split", "evening"), "no split 'evening'"),
            (("--data", "data", "--batch", "0"), "--batch must be 1 or more"),
            (("--data", "data", "--tolerance", "nan"), "--tolerance must be 0 or more"),
            (("--data", "data", "--tolerance", "-1"), "--tolerance must be 0 or more"),
            (("--data", "data", "--reuse", "--warm-start"), "expected one of them"),
            (("--data", "data", "--reuse", "--batch", "2"), "every pair waits"),
            (("--data", "data", "--overwrite"), "--overwrite goes with"),
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
        assert evaluate_command("--dataset", "sintel", "--data", tmp_path, "--split", "testing") == 2
        assert "the testing split of sintel has no public ground truth" in capsys.readouterr().err

    def test_pairs_of_which_nothing_is_known_are_named_counted_and_in_no_mean(self, tmp_path, model, capsys):
        mine = make_custom(tmp_path / "mine")
        write_mask(mine / "masks" / "shot9.png", corner(0, 0))
        options = ("--dataset", "custom", "--data", mine, "--baselines", "zero", "--steps", 2)
        assert evaluate_command(*options, "--json", tmp_path / "a.json") == 0
        told = capsys.readouterr()
        assert "mine: 1 pairs are left out of every mean: no pixel of theirs is known." in told.out
        assert told.err.count("mine shot9: the flow of no pixel is known; the pair is left out") == 1
        zero = json.loads((tmp_path / "a.json").read_text())["datasets"]["mine"]["zero"]
        assert zero["pairs"] == 1 and zero["epe"] == pytest.approx(math.hypot(10, 2))

    def test_a_mean_over_nothing_is_an_error(self, tmp_path, model, capsys):
        mine = make_custom(tmp_path / "mine")
        for name in ("shot9", "shot10"):
            write_mask(mine / "masks" / f"{name}.png", corner(0, 0))
        assert evaluate_command("--dataset", "custom", "--data", mine, "--baselines", "zero") == 2
        assert "error: the flow of no pixel is known in any pair of mine" in capsys.readouterr().err
