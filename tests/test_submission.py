"""Submissions: the servers' names and formats, reuse along sequences, runs that go on, what a check finds."""

import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import deqflow
from deqflow.cli import main
from deqflow.data.datasets import DATASETS
from deqflow.data.sample import Sample
from deqflow.errors import ConfigError, DataError
from deqflow.evaluation import predictors
from deqflow.evaluation.predictors import Item, Prediction, SequencePredictor
from deqflow.evaluation.submission import Submission
from deqflow.io import read_flow, read_image, write_flow
from deqflow.io.images import write_image
from deqflow.stream import FlowStream

SIZE = (40, 56)
SETTINGS = {"model": "test"}


def frames(folder: Path, names: Sequence[str], seed: int) -> list[Path]:
    """A smooth random picture that moves by a pixel from file to file."""
    noise = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.float32)
    for axis in (0, 1):
        noise = sum(np.roll(noise, shift, axis) for shift in range(5)) / 5
    paths = [folder / name for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        write_image(path, np.roll(noise, number, axis=1).astype(np.uint8))
    return paths


@pytest.fixture
def sintel(tmp_path: Path) -> Path:
    root = tmp_path / "MPI-Sintel"
    for seed, render in enumerate(("clean", "final")):
        for scene, count in (("ambush_1", 4), ("wall", 3)):
            names = [f"frame_{number:04d}.png" for number in range(1, count + 1)]
            frames(root / "test" / render / scene, names, seed)
    return root


def kitti(root: Path, images: str) -> Path:
    for scene in (0, 1):
        frames(root / "testing" / images, [f"{scene:06d}_10.png", f"{scene:06d}_11.png"], scene)
    return root


def complete(monkeypatch: pytest.MonkeyPatch, name: str, pairs: int) -> None:
    """Let so many pairs be the whole test split."""
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], pairs={"testing": pairs}))


class Counting:
    """Answers each pair with how many it has seen of its sequence; may be interrupted."""

    sequential = True

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.calls, self.last = limit, 0, ("", "", -1, 0)

    def __call__(self, items: Sequence[Item]) -> list[Prediction]:
        if self.calls == self.limit:
            raise KeyboardInterrupt
        self.calls += 1
        sample, title = items[0].sample, items[0].dataset.title
        follows = self.last[:3] == (title, sample.sequence, sample.index - 1)
        seen = self.last[3] + 1 if follows else 1
        self.last = (title, sample.sequence, sample.index, seen)
        return [Prediction(np.full((*SIZE, 2), seen, np.float32), 0.0, steps=2)]


def contents(folder: Path, *suffixes: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes
    }


def test_sintel_folder_is_the_bundlers_and_reuse_stays_within_a_sequence(
    sintel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = ["evaluate", "submit", "sintel", "--data", str(sintel), "--output", str(output)]
    assert main([*command, "--partial", "--steps", "2", "--precision", "float32"]) == 0
    assert "10 of 10 files are as they should be" in capsys.readouterr().out
    expected = {
        f"{render}/{scene}/frame{number:04d}.flo"
        for render in ("clean", "final")
        for scene, last in (("ambush_1", 3), ("wall", 2))
        for number in range(1, last + 1)
    }
    assert set(contents(output, ".flo")) == expected
    stream = FlowStream(deqflow.load(precision="float32"), detect_cuts=False, steps=2)
    for scene in ("ambush_1", "wall"):
        stream.reset()
        for number, path in enumerate(sorted((sintel / "test" / "final" / scene).iterdir())):
            estimate = stream.push(path)
            if estimate is not None:
                flow, _ = read_flow(output / "final" / scene / f"frame{number:04d}.flo")
                np.testing.assert_allclose(flow, estimate.flow, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "images", "folder"), [("kitti-2015", "image_2", "flow/"), ("kitti-2012", "colored_0", "")]
)
def test_kitti_archive(
    name: str,
    images: str,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """KITTI 2015 wants a folder ``flow`` in the archive, 2012 the files at its root (devkit readme files)."""
    complete(monkeypatch, name, 2)
    root, output = kitti(tmp_path / "data", images), tmp_path / "out"
    command = ["evaluate", "submit", name, "--data", str(root), "--output", str(output), "--steps", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 files are as they should be" in printed
    assert f"upload {output / name}.zip" in printed
    with zipfile.ZipFile(output / f"{name}.zip") as archive:
        assert archive.namelist() == [f"{folder}000000_10.png", f"{folder}000001_10.png"]
        packed = [archive.read(entry) for entry in archive.namelist()]
    assert packed == list(contents(output / "flow", ".png").values())
    flow, valid = read_flow(output / "flow" / "000001_10.png")
    assert valid.all()
    frame1, frame2 = (root / "testing" / images / f"000001_{number}.png" for number in (10, 11))
    item = Item(Submission(name, root, output).datasets[0], sample_of(frame1, frame2))
    estimate = SequencePredictor(deqflow.load(steps=2))([item])[0]
    assert np.abs(flow - estimate.flow).max() <= 0.5 / 64 + 1e-4
    # The same command has nothing left to do, and the archive is the same to the byte.
    before = contents(output, ".png", ".zip")
    monkeypatch.setattr(predictors.SequencePredictor, "__call__", None)
    assert main(command) == 0
    assert contents(output, ".png", ".zip") == before


def sample_of(frame1: Path, frame2: Path) -> Sample:
    truth = np.zeros((*SIZE, 2), np.float32)
    return Sample(read_image(frame1), read_image(frame2), truth, truth[..., 0] > 0)


def test_incomplete_split_is_refused_before_anything_is_written(
    sintel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["evaluate", "submit", "sintel", "--data", str(sintel), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert "5 of MPI-Sintel clean and 5 of MPI-Sintel final of the 1104 test pairs" in error
    assert "--partial" in error
    assert not output.exists()


def test_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(sintel: Path, tmp_path: Path) -> None:
    whole, torn = (Submission("sintel", sintel, tmp_path / name, partial=True) for name in ("whole", "torn"))
    assert whole.write(Counting(), SETTINGS) == 2
    with pytest.raises(KeyboardInterrupt):
        torn.write(Counting(limit=2), SETTINGS)
    assert torn.written() == 2
    rest = Counting()
    torn.write(rest, SETTINGS)
    # The sequence of three pairs that had two is solved from its start, nothing else twice.
    assert rest.calls == 10
    assert contents(torn.folder, ".flo") == contents(whole.folder, ".flo")
    again = Counting()
    assert np.isnan(torn.write(again, SETTINGS))
    assert again.calls == 0
    assert not list(torn.folder.rglob("*.tmp"))


def test_ctrl_c_says_what_is_there(
    sintel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = ["evaluate", "submit", "sintel", "--data", str(sintel), "--output", str(output), "--partial"]
    monkeypatch.setattr(SequencePredictor, "__call__", Counting(limit=3).__call__)
    assert main(command) == 130
    assert f"3 of 10 files are in {output}; the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(SequencePredictor, "__call__", Counting().__call__)
    assert main(command) == 0
    assert "10 of 10 files" in capsys.readouterr().out


def test_nothing_of_another_run_is_overwritten_unasked(sintel: Path, tmp_path: Path) -> None:
    submission = Submission("sintel", sintel, tmp_path / "out", partial=True)
    submission.write(Counting(), SETTINGS)
    before = contents(submission.folder, ".flo", ".json")
    with pytest.raises(ConfigError, match=r"model was .test. and not .other."):
        submission.write(Counting(), {"model": "other"})
    assert contents(submission.folder, ".flo", ".json") == before
    (submission.folder / "settings.json").unlink()
    with pytest.raises(ConfigError, match=r"frame0001.flo exists already"):
        submission.write(Counting(), SETTINGS)
    replaced = Counting()
    submission.write(replaced, {"model": "other"}, overwrite=True)
    assert replaced.calls == 10


def missing(submission: Submission, first: Path) -> None:
    first.unlink()


def cut_short(submission: Submission, first: Path) -> None:
    first.write_bytes(first.read_bytes()[:-20])


def wrong_size(submission: Submission, first: Path) -> None:
    write_flow(first, np.zeros((8, 9, 2), np.float32))


def hole(submission: Submission, first: Path) -> None:
    known = np.ones(SIZE, bool)
    known[3, 4:7] = False
    write_flow(first, np.zeros((*SIZE, 2), np.float32), known)


def stranger(submission: Submission, first: Path) -> None:
    first.with_name("000007_10.png").write_bytes(b"")


def archive_missing(submission: Submission, first: Path) -> None:
    assert submission.archive is not None
    submission.archive.unlink()


def archive_broken(submission: Submission, first: Path) -> None:
    assert submission.archive is not None
    submission.archive.write_bytes(b"PK not a zip")


def archive_old(submission: Submission, first: Path) -> None:
    write_flow(first, np.full((*SIZE, 2), 3, np.float32))


def archive_short(submission: Submission, first: Path) -> None:
    assert submission.archive is not None
    with zipfile.ZipFile(submission.archive, "w") as archive:
        archive.writestr("flow/000001_10.png", b"")
        archive.writestr("../000000_10.png", b"")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (missing, "000000_10.png is missing"),
        (cut_short, "000000_10.png is not a usable KITTI flow file"),
        (wrong_size, "000000_10.png is 9x8 pixels, its frame is 56x40"),
        (hole, "000000_10.png has 3 pixels without an estimate"),
        (stranger, "000007_10.png does not belong"),
        (archive_missing, "kitti-2015.zip is missing"),
        (archive_broken, "kitti-2015.zip is not a usable zip archive"),
        (archive_old, "flow/000000_10.png in .*kitti-2015.zip differs"),
        (archive_short, "kitti-2015.zip lacks flow/000000_10.png"),
    ],
)
def test_check_finds(
    damage: Callable[[Submission, Path], None],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = kitti(tmp_path / "data", "image_2")
    submission = Submission("kitti-2015", root, tmp_path / "out", partial=True)
    submission.write(Counting(), SETTINGS)
    submission.pack()
    assert submission.check().problems == []
    damage(submission, submission.folder / "flow" / "000000_10.png")
    problems = submission.check().problems
    assert [problem for problem in problems if re.search(said, problem)], problems
    command = ["evaluate", "submit", "kitti-2015", "--data", str(root), "--output", str(submission.folder)]
    before = contents(submission.folder, ".png", ".zip", ".json")
    assert main([*command, "--partial", "--check"]) == 2
    assert "is not fit to submit" in capsys.readouterr().err
    assert contents(submission.folder, ".png", ".zip", ".json") == before


def test_check_notes_what_is_odd(tmp_path: Path) -> None:
    root = kitti(tmp_path / "data", "image_2")
    submission = Submission("kitti-2015", root, tmp_path / "out", partial=True)

    class Fast(Counting):
        def __call__(self, items: Sequence[Item]) -> list[Prediction]:
            flow = np.zeros((*SIZE, 2), np.float32)
            flow[0, :2] = 600
            flow[1, 0] = 100
            return [Prediction(flow, 0.0, steps=1)]

    submission.write(Fast(), SETTINGS)
    submission.pack()
    checked = submission.check()
    assert checked.problems == []
    assert [note.split(" has ")[1] for note in checked.notes[:2]] == [
        "2 pixels at the limit of its format, 512 px",
        "3 pixels that move further than the frame's diagonal",
    ]


def test_only_benchmarks_with_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no submission for 'chairs'"):
        Submission("chairs", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no complete pair"):
        Submission("kitti-2015", tmp_path, tmp_path / "out")
