"""Flow of a corpus of clips: what is written, what is refused, and what a killed process changes: nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from clips import encode, textured

from deqflow import zoo
from deqflow.cli import main
from deqflow.commands import corpus_files
from deqflow.commands.corpus import CorpusOptions, write_clip
from deqflow.commands.corpus_files import Clip, find_clips, put
from deqflow.errors import ConfigError, DataError, DeqflowError
from deqflow.io import dequantize_flow

REPOSITORY = Path(__file__).resolve().parent.parent
SIZE = (48, 64)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips, one of them in a folder of its own, and what is none."""
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    for name, shift in (("a.mp4", 0), ("b.mkv", 3), ("more/a.mp4", 5)):
        encode(folder / name, [np.roll(frame, shift, axis=0) for frame in textured(6, SIZE)])
    (folder / "notes.txt").write_text("no clip")
    (folder / "._a.mp4").write_bytes(b"what macOS leaves")
    return folder


def options(output: object, weights: Path, *inputs: object, **changes: object) -> CorpusOptions:
    usual = {"checkpoint": weights, "steps": 2, "precision": "float32", "device": "cpu", "threads": 1}
    words = tuple(str(path) for path in inputs) or ("clips",)
    return CorpusOptions(inputs=words, output=str(output), **{**usual, **changes})  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestClips:
    def test_results_are_called_as_clips_are_below_the_input(self, clips: Path) -> None:
        found = find_clips([str(clips)])
        assert [clip.result for clip in found] == ["a.mp4.h5", "b.mkv.h5", "more/a.mp4.h5"]
        assert [clip.result for clip in find_clips([f"{clips}/more/", f"{clips}/*.mkv"])] == [
            "a.mp4.h5",
            "b.mkv.h5",
        ]
        assert find_clips([f"file://{clips}/b.mkv"]) == find_clips([str(clips / "b.mkv")])

    def test_two_of_one_name_are_refused(self, clips: Path) -> None:
        with pytest.raises(ConfigError, match=r"would both be a\.mp4\.h5"):
            find_clips([str(clips), str(clips / "more")])
        assert len(find_clips([str(clips), str(clips / "a.mp4")])) == 3  # the same clip twice is one

    def test_an_input_without_clips_is_refused(self, clips: Path) -> None:
        for given in ("nowhere", "clips/*.avi"):
            with pytest.raises(DataError, match="no clip is there"):
                find_clips([str(clips.parent / given)])
        with pytest.raises(ConfigError, match="nothing://a cannot be opened"):
            find_clips(["nothing://a"])

    def test_no_name_leads_out_of_the_output(self) -> None:
        fsspec = pytest.importorskip("fsspec")
        store = fsspec.filesystem("memory")
        store.pipe_file("/bucket/../../evil.mp4", b"")
        with pytest.raises(DataError, match="leads out of the output folder"):
            find_clips(["memory://bucket"])
        store.rm("/bucket", recursive=True)


class TestOutput:
    def test_a_file_holds_what_the_video_command_writes(
        self, clips: Path, weights: Path, tmp_path: Path
    ) -> None:
        source = clips / "a.mp4"
        (clip,) = find_clips([str(source)])
        assert write_clip(options(tmp_path / "out", weights), clip) == 5
        words = ["video", source, "--output", tmp_path / "a.mp4", "--hdf5", tmp_path / "a.h5", "--quiet"]
        same = ["--checkpoint", weights, "--steps", 2, "--precision", "float32", "--device", "cpu"]
        assert main([str(word) for word in [*words, *same, "--threads", 1]]) == 0
        with h5py.File(tmp_path / "a.h5") as expected, h5py.File(tmp_path / "out" / "a.mp4.h5") as written:
            for name in ("frame", "time", "cut", "duplicate", "forward/flow"):
                np.testing.assert_array_equal(written[name], expected[name])
                assert written[name].dtype == expected[name].dtype
            assert written["cut"][:].any()  # random features match nothing
            assert written.attrs["source"] == "a.mp4"

    def test_features_are_flow_in_8_bits(self, clips: Path, weights: Path, tmp_path: Path) -> None:
        (clip,) = find_clips([str(clips / "a.mp4")])
        for write in ("flow", "features"):
            write_clip(options(tmp_path / write, weights, write=write, bound=4.0), clip)
        with (
            h5py.File(tmp_path / "flow" / "a.mp4.h5") as file,
            h5py.File(tmp_path / "features" / "a.mp4.h5") as features,
        ):
            coded, flow = features["forward/flow"][:], file["forward/flow"][:]
            assert coded.dtype == np.uint8 and "* 4 / 127.5" in features.attrs["flow"]
        np.testing.assert_allclose(dequantize_flow(coded, 4.0), flow.clip(-4, 4), atol=4 / 255 + 1e-6)

    def test_a_clip_in_a_store_is_read(self, clips: Path, weights: Path, tmp_path: Path) -> None:
        fsspec = pytest.importorskip("fsspec")
        fsspec.filesystem("memory").pipe_file("/store/a.mp4", (clips / "a.mp4").read_bytes())
        (clip,) = find_clips(["memory://store"])
        write_clip(options("memory://results", weights), clip)
        write_clip(options(tmp_path, weights), find_clips([str(clips / "a.mp4")])[0])
        stored = fsspec.filesystem("memory").open("/results/a.mp4.h5")
        with h5py.File(stored) as written, h5py.File(tmp_path / "a.mp4.h5") as expected:
            np.testing.assert_array_equal(written["forward/flow"], expected["forward/flow"])

    def test_what_fails_leaves_nothing(self, weights: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.mp4").write_bytes(b"no video")
        (clip,) = find_clips([str(tmp_path / "bad.mp4")])
        with pytest.raises(DeqflowError):
            write_clip(options(tmp_path / "out", weights), clip)
        encode(tmp_path / "single.mp4", textured(1, SIZE))
        (clip,) = find_clips([str(tmp_path / "single.mp4")])
        with pytest.raises(DeqflowError, match="it has only one frame, flow needs at least two"):
            write_clip(options(tmp_path / "out", weights), clip)
        assert names(tmp_path / "out") == []


def begin(settings: CorpusOptions, clips: list[Clip]) -> set[str]:
    return corpus_files.begin(settings.output, settings.settings(), clips)


class TestBegin:
    def test_another_run_of_the_same_command_sees_what_is_there(self, weights: Path, tmp_path: Path) -> None:
        settings = options(tmp_path / "out", weights)
        clips = [Clip("a.mp4", "a.mp4.h5")]
        assert "a.mp4.h5" not in begin(settings, clips)
        (tmp_path / "result").write_bytes(b"flow")
        put(settings.output, tmp_path / "result", "a.mp4.h5")
        assert "a.mp4.h5" in begin(settings, clips)
        assert json.loads((tmp_path / "out" / "corpus.json").read_text())["model"] == "deqflow-s"

    def test_results_of_other_settings_are_not_mixed(self, weights: Path, tmp_path: Path) -> None:
        begin(options(tmp_path, weights), [])
        with pytest.raises(
            ConfigError, match="of another run, with steps 2 instead of 3: name another place"
        ):
            begin(options(tmp_path, weights, steps=3), [])
        for changes in ({"fine_steps": 1}, {"scales": (8,)}, {"max_frames": 9}, {"write": "features"}):
            with pytest.raises(ConfigError, match=f"with {next(iter(changes))} "):
                begin(options(tmp_path, weights, **changes), [])
        with pytest.raises(ConfigError, match=r"with weights .* instead of"):
            begin(options(tmp_path, zoo.loading.shipped_weights("deqflow-s")), [])
        begin(options(tmp_path, weights, workers=3, tries=1, bound=3.0), [])  # the same flow
        (tmp_path / "corpus.json").write_text("[]")
        with pytest.raises(ConfigError, match=r"corpus\.json is not of this command"):
            begin(options(tmp_path, weights), [])

    def test_files_of_others_are_not_taken_for_results(self, weights: Path, tmp_path: Path) -> None:
        (tmp_path / "a.mp4.h5").write_bytes(b"mine")
        with pytest.raises(ConfigError, match=r"a\.mp4\.h5 exists already"):
            begin(options(tmp_path, weights), [Clip("a.mp4", "a.mp4.h5")])
        assert names(tmp_path) == ["a.mp4.h5"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--tries", "0"], "--tries must be 1 or more, got 0"),
        (["--bound", "0"], "--bound must be positive, got 0"),
        (["--max-frames", "1"], "--max-frames must be 2 or more, got 1"),
        (["--max-side", "4"], "--max-side must be 16 or more, got 4"),
        (["--workers", "2", "--address", "auto"], "--workers is for this machine"),
    ],
)
def test_impossible_options_are_refused(words: list[str], expected: str, capsys) -> None:
    assert main(["corpus", "clips", "--output", "out", *words]) == 2
    assert expected in capsys.readouterr().err


def test_without_ray_the_extra_is_named(clips: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["corpus", str(clips), "--output", str(tmp_path / "out")]) == 2
    assert "deqflow corpus needs the package ray, which `pip install 'deqflow[corpus]'` brings" in (
        capsys.readouterr().err
    )
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert main(["corpus", str(clips), "--output", str(tmp_path / "out")]) == 2
    assert "no release for Intel Macs and Python 3.14" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def start(output: Path, weights: Path, *inputs: Path, workers: int = 2) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    words = ["--output", output, "--checkpoint", weights, "--steps", 2, "--precision", "float32"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [str(word) for word in [sys.executable, "-m", "deqflow", "corpus", *inputs, *words]]
        + ["--workers", str(workers)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def busy_worker(command: subprocess.Popen[str]) -> psutil.Process:
    """A process that has begun to write the result of a clip."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and command.poll() is None:
        for process in psutil.Process(command.pid).children(recursive=True):
            try:
                if any(file.path.endswith("/result.h5") for file in process.open_files()):
                    return process
            except psutil.Error:
                continue
        time.sleep(0.02)
    raise AssertionError(f"no worker was seen: {command.communicate()}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL here")
def test_a_killed_process_changes_nothing_and_what_cannot_be_done_is_named(
    weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray, of the extra corpus, is not installed")
    clips = tmp_path / "clips"
    clips.mkdir()
    for index in range(6):
        frames = [np.roll(frame, 5 * index, axis=1) for frame in textured(24, SIZE)]
        encode(clips / f"{index}.mp4", frames)

    for clip in find_clips([str(clips)]):  # one after the other, in this process
        write_clip(options(tmp_path / "whole", weights, device="auto"), clip)
    results = names(tmp_path / "whole")
    assert results == [f"{index}.mp4.h5" for index in range(6)]

    (clips / "bad.mp4").write_bytes(b"no video")
    killed = start(tmp_path / "killed", weights, clips)
    busy_worker(killed).kill()
    out, err = killed.communicate()
    assert killed.returncode == 1 and "6 done, 1 failed" in out, (out, err)
    assert "bad.mp4: " in err and err.count("deqflow: error: ") == 1
    assert names(tmp_path / "killed") == sorted([*results, "corpus.json"])
    for name in results:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

    # Once more: what is whole stays as it is, what was removed is done anew, to the same bits.
    (clips / "bad.mp4").unlink()
    (tmp_path / "killed" / "3.mp4.h5").unlink()
    before = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in results if name[0] != "3"}
    again = start(tmp_path / "killed", weights, clips, workers=1)
    out, err = again.communicate()
    assert again.returncode == 0 and "5 clips were there, 1 done, 0 failed" in out, (out, err)
    assert {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in before} == before
    assert (tmp_path / "killed" / "3.mp4.h5").read_bytes() == (tmp_path / "whole" / "3.mp4.h5").read_bytes()
