"""Runs that are broken off and continued: what comes out is what an unbroken run writes."""

import csv
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import psutil
import pytest
from clips import encode, textured

if sys.platform == "win32":
    pytest.skip("no fork and no SIGKILL here", allow_module_level=True)

from broken_runs import BrokenRuns, moments
from small_pyramid import small_pyramid

from deqflow import zoo
from deqflow.io import VideoFrame, VideoWriter, open_video
from deqflow.io.video.segments import Segment, SegmentedVideo

PAIRS, SEGMENT = 14, 4


@pytest.fixture(scope="module")
def runs() -> Iterator[BrokenRuns]:
    with BrokenRuns() as runs:
        yield runs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with sound, irregular times, a frame twice and a cut; and weights."""
    folder = tmp_path_factory.mktemp("inputs")
    frames = textured(PAIRS + 1, (32, 48))
    frames[5] = frames[4]
    frames[9:] = [255 - frame[::-1] for frame in frames[9:]]
    times = np.cumsum(np.random.default_rng(0).integers(20, 200, len(frames))).tolist()
    encode(folder / "clip.mkv", frames, times=times, time_base=Fraction(1, 1000), audio=True)
    zoo.save_weights(small_pyramid(), folder / "weights.safetensors")
    return folder


def command(inputs: Path, *more: object) -> list[object]:
    options = ["--checkpoint", inputs / "weights.safetensors", "--steps", 3, "--precision", "float32"]
    numbers = ["--flow-dir", "flows", "--flow-format", "npy", "--hdf5", "clip.h5", "--record-dir", "run"]
    return ["video", inputs / "clip.mkv", *options, *numbers, "--segment", SEGMENT, *more]


def video(path: Path) -> list[tuple[Fraction, bytes]]:
    return [(frame.time, frame.image.tobytes()) for frame in open_video(path).frames()]


def sound(path: Path) -> bytes:
    with av.open(str(path)) as file:
        return (
            b"".join(frame.to_ndarray().tobytes() for frame in file.decode(audio=0))
            if file.streams.audio
            else b""
        )


def results(folder: Path) -> dict[str, Any]:
    """All that a run has written, by name, but for times of day and of machines."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name, content = str(path.relative_to(folder)), None
        if path.suffix in (".mp4", ".webm", ".gif"):
            content = video(path), sound(path)
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                names = ["frame", "time", "cut", "duplicate", "forward/flow"]
                content = {name: file[name][:].tobytes() for name in names}
        elif path.suffix == ".csv":
            with path.open(newline="") as table:
                content = [
                    {name: cell for name, cell in row.items() if not name.endswith("milliseconds")}
                    for row in csv.DictReader(table)
                ]
        elif path.name == "manifest.json":
            content = {**json.loads(path.read_text()), "finished": "", "options": ""}
            content["counts"]["seconds"] = 0
        elif path.is_file():
            content = path.read_bytes()
        found[name] = content
    return found


@pytest.fixture(scope="module")
def unbroken(
    runs: BrokenRuns, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], int]:
    """What an unbroken run writes, and how many changes of files that takes."""
    folder = tmp_path_factory.mktemp("unbroken")
    code, events, said = runs.run(
        folder, command(inputs, "--output", "out.mp4", "--layout", "color", "arrows")
    )
    assert code == 0, said
    expected = results(folder)
    assert len(expected["out_color.mp4"][0]) == len(expected["run/frames.csv"]) == PAIRS
    assert expected["out_color.mp4"][1] and not [name for name in expected if "parts" in name]
    return expected, events


def resumed(runs: BrokenRuns, folder: Path, arguments: list[object]) -> dict[str, Any]:
    code, _, said = runs.run(folder, [*arguments, "--resume"])
    assert code == 0, said
    return results(folder)


@pytest.mark.parametrize("moment", range(6))
def test_killed_anywhere(
    runs: BrokenRuns, inputs: Path, unbroken: tuple[dict[str, Any], int], tmp_path: Path, moment: int
) -> None:
    expected, events = unbroken
    arguments = command(inputs, "--output", "out.mp4", "--layout", "color", "arrows")
    at = moments(0, 6, events)[moment]
    code, _, said = runs.run(tmp_path, arguments, {"signal": signal.SIGKILL, "event": at})
    assert code == -signal.SIGKILL, said
    assert resumed(runs, tmp_path, arguments) == expected


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_twice(
    runs: BrokenRuns, inputs: Path, unbroken: tuple[dict[str, Any], int], tmp_path: Path, kind: signal.Signals
) -> None:
    expected, events = unbroken
    arguments = command(inputs, "--output", "out.mp4", "--layout", "color", "arrows")
    code, _, said = runs.run(tmp_path, arguments, {"signal": kind, "event": events // 2})
    assert code == 130 and "Traceback" not in said
    assert "with --resume goes on behind pair" in said
    begun = results(tmp_path)
    pairs = len(begun["out_color.mp4"][0])
    assert 0 < pairs < PAIRS and begun["out_color.mp4"][0] == expected["out_color.mp4"][0][:pairs]
    assert begun["run/manifest.json"]["ended"] == "interrupted"
    code, _, said = runs.run(tmp_path, [*arguments, "--resume"], {"signal": kind, "event": events // 4})
    assert code == 130, said
    assert resumed(runs, tmp_path, arguments) == expected


def test_a_full_disk(
    runs: BrokenRuns, inputs: Path, unbroken: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    expected, _ = unbroken
    arguments = command(inputs, "--output", "out.mp4", "--layout", "color", "arrows")
    # Too little for a flow file, for the state of a stream, for the numbers of the clip.
    for more, limit in (((), 10_000), (("--resume",), 16_000), (("--resume",), 60_000)):
        code, _, said = runs.run(tmp_path, [*arguments, *more, "--quiet"], {"bytes": limit})
        assert code == 2 and "Traceback" not in said, said
    assert resumed(runs, tmp_path, arguments) == expected


@pytest.mark.parametrize("suffix", [".webm", ".gif", ".png"])
def test_other_containers(runs: BrokenRuns, inputs: Path, tmp_path: Path, suffix: str) -> None:
    arguments = command(inputs, "--output", f"out/a{suffix}", "--layout", "color", "--direction", "backward")
    arguments += ["--color-scale", "clip"]
    arguments = [argument for argument in arguments if argument not in ("--hdf5", "clip.h5")]
    folders = [tmp_path / name for name in ("whole", "broken")]
    for folder in folders:
        folder.mkdir()
    code, events, said = runs.run(folders[0], arguments)
    assert code == 0, said
    breaks = {"signal": signal.SIGKILL, "event": round(0.7 * events)}
    assert runs.run(folders[1], arguments, breaks)[0] == -signal.SIGKILL
    assert resumed(runs, folders[1], arguments) == results(folders[0])


def test_results_that_are_replaced_stay_until_the_end(
    runs: BrokenRuns, inputs: Path, unbroken: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    expected, events = unbroken
    arguments = command(inputs, "--output", "out.mp4", "--layout", "color", "arrows")
    for name in ("flows", "run"):
        (tmp_path / name).mkdir()
    old = ["out_color.mp4", "flows/frame_000002.npy", "flows/frame_000013.npy", "run/frames.csv", "clip.h5"]
    for name in old:
        (tmp_path / name).write_bytes(b"precious")
    (tmp_path / "flows/frame_000013.partial.npy").write_bytes(b"mine")
    kill = {"signal": signal.SIGKILL, "event": events // 2}
    assert runs.run(tmp_path, [*arguments, "--overwrite"], kill)[0] == -signal.SIGKILL
    assert all((tmp_path / name).read_bytes() == b"precious" for name in old)
    found = resumed(runs, tmp_path, arguments)
    assert found.pop("flows/frame_000013.partial.npy") == b"mine"
    assert found == expected


def test_what_becomes_of_a_broken_run_must_be_said(
    runs: BrokenRuns, inputs: Path, unbroken: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    expected, events = unbroken
    arguments = command(inputs, "--output", "out.mp4", "--layout", "color", "arrows")
    runs.run(tmp_path, arguments, {"signal": signal.SIGKILL, "event": events // 2})
    before = results_of_parts(tmp_path)
    said = {
        (): "out.mp4.parts holds a run that was broken off: --resume continues it, --overwrite starts anew",
        ("--resume", "--stride", "2"): "was of another --stride",
        ("--resume", "--max-flow", "3"): "was of another --max-flow",
    }
    for more, sentence in said.items():
        code, _, errors = runs.run(tmp_path, [*arguments, *more])
        assert code == 2 and sentence in errors
        assert results_of_parts(tmp_path) == before
    code, _, errors = runs.run(tmp_path, [*arguments, "--overwrite"])
    assert code == 0, errors
    found = results(tmp_path)
    assert found == expected


def results_of_parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out.mp4.parts").iterdir()}


def test_a_source_that_has_changed_is_not_gone_on_with(
    runs: BrokenRuns, inputs: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mkv"
    clip.write_bytes((inputs / "clip.mkv").read_bytes())
    arguments = [
        "video",
        "clip.mkv",
        "--checkpoint",
        inputs / "weights.safetensors",
        "--steps",
        1,
        "--segment",
        2,
    ]
    code, events, _ = runs.run(tmp_path, [*arguments, "--output", "whole.mp4"])
    assert code == 0
    assert runs.run(tmp_path, arguments, {"signal": signal.SIGKILL, "event": events // 2})[0] < 0
    encode(clip, textured(4, (32, 48)))
    code, _, said = runs.run(tmp_path, [*arguments, "--resume"])
    assert code == 2 and "was of another source" in said
    code, _, said = runs.run(tmp_path, ["video", "-", "--resume"])
    assert code == 2


def test_without_a_broken_run_resume_begins_one(runs: BrokenRuns, inputs: Path, tmp_path: Path) -> None:
    arguments = ["video", inputs / "clip.mkv", "--checkpoint", inputs / "weights.safetensors", "--steps", 1]
    assert runs.run(tmp_path, [*arguments, "--resume", "--max-frames", 3])[0] == 0
    code, _, said = runs.run(tmp_path, [*arguments, "--resume", "--max-frames", 3])
    assert code == 2 and "clip_flow.mp4 exists already" in said


def test_a_run_that_still_goes_on_is_left_alone(runs: BrokenRuns, inputs: Path, tmp_path: Path) -> None:
    arguments = command(inputs, "--output", "out.mp4")
    runs.run(tmp_path, arguments, {"signal": signal.SIGKILL, "event": 30})
    about = json.loads((tmp_path / "out.mp4.parts/run.json").read_text())
    about["process"] = [os.getpid(), round(psutil.Process().create_time(), 2)]
    (tmp_path / "out.mp4.parts/run.json").write_text(json.dumps(about))
    before = results_of_parts(tmp_path)
    for more in ("--resume", "--overwrite"):
        code, _, said = runs.run(tmp_path, [*arguments, more])
        assert code == 2 and f"still goes on, process {os.getpid()}" in said
        assert results_of_parts(tmp_path) == before
    about["process"][1] += 1  # another process that had this number
    (tmp_path / "out.mp4.parts/run.json").write_text(json.dumps(about))
    assert resumed(runs, tmp_path, arguments)["run/manifest.json"]["ended"] == "complete"


def test_a_folder_of_another_is_not_touched(runs: BrokenRuns, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mp4.parts").mkdir()
    (tmp_path / "out.mp4.parts/diary.txt").write_text("precious")
    code, _, said = runs.run(tmp_path, command(inputs, "--output", "out.mp4"))
    assert code == 2 and "out.mp4.parts is where segments go, but holds diary.txt" in said
    assert (tmp_path / "out.mp4.parts/diary.txt").read_text() == "precious"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp"])
def test_segments_are_joined_to_what_is_written_at_once(tmp_path: Path, inputs: Path, suffix: str) -> None:
    source = open_video(inputs / "clip.mkv")
    frames = list(source.frames())
    spans = [after.time - frame.time for frame, after in pairwise(frames)]
    shown = [
        VideoFrame(f.image, f.time, f.number, "", duration=span)
        for f, span in zip(frames, spans, strict=False)
    ]
    settings = {"time_base": source.time_base, "pixel_aspect": Fraction(2), "sound": source.sound}
    with VideoWriter(tmp_path / f"one{suffix}", source.fps, **settings) as one:
        for frame in shown:
            one.write(frame)
    segments: list[Segment] = []
    for begin in range(0, len(shown), 5):  # each by a writer of its own, as after a kill
        part = SegmentedVideo(
            tmp_path / f"many{suffix}",
            lambda number: tmp_path / f"part{number}",
            source.fps,
            **settings,
            segments=[Segment.read(json.loads(json.dumps(segment.stored()))) for segment in segments],
        )
        for frame in shown[begin : begin + 5]:
            part.write(frame)
        part.cut()
        segments = part.segments
    part.close()
    assert part.notes == [note.replace("/one.", "/many.") for note in one.notes]
    whole, joined = (list(open_video(tmp_path / f"{name}{suffix}").frames()) for name in ("one", "many"))
    assert [frame.time for frame in joined] == [frame.time for frame in whole]
    for frame, expected in zip(joined, whole, strict=True):
        assert np.abs(frame.image.astype(int) - expected.image).mean() < 4
    if suffix != ".webp":
        assert sound(tmp_path / f"many{suffix}") == sound(tmp_path / f"one{suffix}")
        lengths = []
        for name in ("one", "many"):
            with av.open(str(tmp_path / f"{name}{suffix}")) as file:
                lengths.append((file.duration, file.streams.video[0].average_rate))
        assert lengths[0] == lengths[1]


KILLS = int(os.environ.get("DEQFLOW_KILLS", "0"))
"""How many of them: by hand, since they take minutes; 50 were survived once."""


@pytest.mark.slow
@pytest.mark.skipif(not KILLS, reason="DEQFLOW_KILLS says how many random kills to survive")
def test_killed_many_times_at_any_time(
    runs: BrokenRuns, inputs: Path, unbroken: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    """Kills at random times, in runs that go on until they are killed again or are done."""
    expected, _ = unbroken
    arguments = command(inputs, "--output", "out.mp4", "--layout", "color", "arrows")
    times, kills, done = random.Random(0), 0, 0
    folder = tmp_path / "0"
    folder.mkdir()
    while kills < KILLS:
        breaks = {"signal": signal.SIGKILL, "seconds": times.uniform(0.2, 2.5)}
        code, _, said = runs.run(folder, [*arguments, "--resume"], breaks)
        if code == -signal.SIGKILL:
            kills += 1
            if (folder / "out.mp4.parts").exists() or not (folder / "out_color.mp4").exists():
                continue
            # Killed when all was done: what is there already is not written again.
        else:
            assert code == 0, said
        assert results(folder) == expected
        done += 1
        folder = tmp_path / str(done)
        folder.mkdir()
    assert resumed(runs, folder, arguments) == expected
