"""What a run says and writes besides pictures: records, numbers of either direction, costs."""

import csv
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from clips import encode, textured

from deqflow import zoo
from deqflow.cli import main
from deqflow.commands.first_look import clip_scale
from deqflow.equilibrium import DampedIteration
from deqflow.geometry import occlusion, resize_flow
from deqflow.io import VideoWriter, open_video, read_flow, read_image, write_image
from deqflow.stream import FlowStream
from deqflow.visualize import flow_to_image

SIZE = (64, 96)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """Motion, a frame twice, and another scene from the sixth frame on."""
    moving = textured(5, SIZE)
    noise = np.random.default_rng(1).integers(0, 256, (SIZE[0] // 4, SIZE[1] // 4, 3), dtype=np.uint8)
    return [
        *moving[:4],
        moving[3],
        *(np.roll(np.kron(noise, np.ones((4, 4, 1), np.uint8)), k, 1) for k in (0, 2)),
    ]


@pytest.fixture
def run(frames: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command in a folder that holds ``clip.mkv``, lossless, and return the exit code."""
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "clip.mkv", frames, codec="ffv1", pixels="bgr0", rate=10)
    return lambda *arguments: main([*map(str, arguments), "--steps", "6", "--precision", "float32"])


def rows(path: Path | str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


class TestRecord:
    def test_a_row_per_pair(self, run, frames: list[np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("--record-dir", "run", "--flow-dir", "flows", "--layout", "color", "occlusion")
        assert run("video", "clip.mkv", *arguments) == 0
        table = rows("run/frames.csv")
        assert [row["frame"] for row in table] == ["1", "2", "3", "4", "5", "6"]
        assert [float(row["time"]) for row in table] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
        assert [row["duplicate"] for row in table] == ["0", "0", "0", "1", "0", "0"]
        assert [row["cut"] for row in table] == ["0", "0", "0", "0", "1", "0"]
        assert [row["reused"] for row in table][:4] == ["0", "1", "1", "0"]
        model = zoo.load("deqflow-s", steps=6, precision="float32")
        stream = FlowStream(model)
        stream.push(frames[0])
        for row, frame in zip(table, frames[1:], strict=True):
            estimate = stream.push(frame)
            flow = read_flow(f"flows/frame_{int(row['frame']):06d}.flo")[0]
            length = np.hypot(flow[..., 0], flow[..., 1])
            assert float(row["mean_motion"]) == pytest.approx(length.mean(), rel=1e-4)
            assert float(row["max_motion"]) == pytest.approx(length.max(), rel=1e-4)
            assert float(row["residual"]) == pytest.approx(estimate.residual, rel=1e-3)
            assert float(row["cost"]) == pytest.approx(stream.cost)
            assert float(row["afresh"]) == pytest.approx(stream.afresh, rel=1e-4)
            counted = {stride: row[f"evaluations_{stride}"] for stride in model.defaults.scales}
            assert {stride: int(count) for stride, count in counted.items() if int(count)} == {
                stride: count for stride, count in estimate.evaluations.items() if count
            }
            assert float(row["occluded"]) == pytest.approx(
                occlusion(estimate.flow, stream.backward().flow).mean(), rel=1e-4
            )
        printed = capsys.readouterr().out
        assert "   4= " in printed and "   5| " in printed
        assert "* solved anew, = equal frames, | across a cut" in printed

    def test_both_directions_have_columns(self, run, frames: list[np.ndarray]) -> None:
        options = ("--max-frames", "5", "--layout", "color")
        for direction in ("forward", "backward", "both"):
            where = ("--record-dir", direction, "--output", f"{direction}.mp4")
            more = ("--numbers", "flow", "occlusion", "--flow-dir", "flows") if direction == "both" else ()
            assert run("video", "clip.mkv", "--direction", direction, *where, *options, *more) == 0
        tables = {direction: rows(f"{direction}/frames.csv") for direction in ("forward", "backward", "both")}
        columns = {direction: list(table[0]) for direction, table in tables.items()}
        of_pair = ["frame", "time", "cut", "duplicate", "cold_cost", "cold_milliseconds", "difference"]
        of_flow = [name for name in columns["forward"] if name not in of_pair]
        back = [f"backward_{name}" for name in of_flow]
        assert columns["backward"] == [*of_pair[:4], *back, *of_pair[4:]]
        assert columns["both"] == [*of_pair[:4], *of_flow, *back, *of_pair[4:]]
        differing = {"milliseconds", "occluded"}
        for both, forward, backward in zip(
            tables["both"], tables["forward"], tables["backward"], strict=True
        ):
            for name, prefixed in zip(of_flow, back, strict=True):
                if name not in differing:
                    assert (both[name], both[prefixed]) == (forward[name], backward[prefixed])
            flow, flow_back = (
                read_flow(f"flows/frame_{int(both['frame']):06d}{end}.flo")[0] for end in ("", "_backward")
            )
            length = np.hypot(flow_back[..., 0], flow_back[..., 1])
            assert float(both["backward_mean_motion"]) == pytest.approx(length.mean(), rel=1e-4)
            assert float(both["backward_max_motion"]) == pytest.approx(length.max(), rel=1e-4)
            assert float(both["backward_occluded"]) == pytest.approx(
                occlusion(flow_back, flow).mean(), rel=1e-4
            )
        found = json.loads(Path("both/manifest.json").read_text())["counts"]
        costs = sum(float(row[name]) for row in tables["both"] for name in ("cost", "backward_cost"))
        assert found["pairs"] == 4 and found["flows"] == 8
        assert found["cost"] == pytest.approx(costs, rel=1e-4)

    def test_the_manifest(self, run, tmp_path: Path) -> None:
        assert run("video", "clip.mkv", "--record-dir", "run", "--stride", "2", "--output", "a.mp4") == 0
        found = json.loads(Path("run/manifest.json").read_text())
        digest = hashlib.sha256(Path("clip.mkv").read_bytes()).hexdigest()
        assert [file["sha256"] for file in found["source"]["files"]] == [digest]
        assert (found["source"]["width"], found["source"]["height"], found["source"]["fps"]) == (96, 64, 5)
        weights = zoo.shipped_weights("deqflow-s")
        assert found["model"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert found["model"]["steps"] == 6
        assert found["options"]["stride"] == 2
        table = rows("run/frames.csv")
        assert found["counts"]["pairs"] == len(table) == 3
        assert found["counts"]["cost"] == pytest.approx(sum(float(row["cost"]) for row in table), rel=1e-4)
        assert found["cuts"] == [int(row["frame"]) for row in table if row["cut"] == "1"]
        assert found["outputs"] == ["a.mp4", "run"]
        assert found["ended"] == "complete" and found["versions"]["deqflow"]

    def test_of_a_run_that_ends_early(self, run, monkeypatch: pytest.MonkeyPatch) -> None:
        write = VideoWriter.write

        def interrupting(self: VideoWriter, frame: object) -> None:
            write(self, frame)
            if self.frames_written == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(VideoWriter, "write", interrupting)
        assert run("video", "clip.mkv", "--record-dir", "run") == 130
        assert json.loads(Path("run/manifest.json").read_text())["ended"] == "interrupted"
        assert len(rows("run/frames.csv")) in (1, 2)

    def test_warnings_are_kept(self, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for number, image in zip((1, 2, 5, 6), textured(4, SIZE), strict=True):
            (tmp_path / "images").mkdir(exist_ok=True)
            write_image(tmp_path / f"images/{number}.png", image)
        assert run("video", "images", "--record-dir", "run", "--quiet") == 0
        assert any(
            "no frame 3 to 4" in said
            for said in json.loads(Path("run/manifest.json").read_text())["warnings"]
        )

    def test_nothing_is_overwritten(self, run, capsys: pytest.CaptureFixture[str]) -> None:
        Path("run").mkdir()
        Path("run/frames.csv").write_text("precious")
        assert run("video", "clip.mkv", "--record-dir", "run") == 2
        assert "run/frames.csv exists already" in capsys.readouterr().err
        assert run("video", "clip.mkv", "--record-dir", "run", "--overwrite") == 0
        assert len(rows("run/frames.csv")) == 6

    def test_quiet(self, run, capfd: pytest.CaptureFixture[str]) -> None:
        assert run("video", "clip.mkv", "--quiet", "--max-frames", "3") == 0
        captured = capfd.readouterr()
        assert (captured.out, captured.err) == ("", "")


class TestCompare:
    def test_costs_count_everything_and_the_two_take_turns(
        self, run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        order: list[bool] = []
        take = FlowStream.take

        def noting(self: FlowStream, frame: object) -> bool:
            order.append(self.reuse)
            return take(self, frame)

        monkeypatch.setattr(FlowStream, "take", noting)
        arguments = ("--compare", "--record-dir", "run", "--tolerance", "0", "--scales", "8")
        assert run("video", "clip.mkv", *arguments, "--max-side", "256") == 0
        firsts = order[::2]
        assert firsts == [True, True, False, True, False, True, False]
        table = rows("run/frames.csv")
        assert [float(row["cold_cost"]) for row in table[:3]] == [6, 6, 6]
        assert float(table[0]["cost"]) == 6 and float(table[1]["cost"]) > 6  # with the check
        assert float(table[0]["difference"]) == pytest.approx(0, abs=1e-3)
        printed = capsys.readouterr().out
        assert "cost from zero" in printed and "take turns" in printed


HOW: dict[str, Any] = {"steps": 6, "precision": "float32", "solver": DampedIteration(), "scales": "all"}
"""How `run` solves: as between frames that follow each other."""


class TestNumbers:
    def test_both_directions_in_every_form(self, run, frames: list[np.ndarray]) -> None:
        kinds = ("flow", "uncertainty", "occlusion")
        arguments = ("--direction", "both", "--numbers", *kinds, "--flow-format", "npy")
        places = ("--flow-dir", "flows", "--hdf5", "clip.h5", "--output", "a.png", "--layout", "color")
        assert run("video", "clip.mkv", *arguments, *places) == 0
        names = {
            f"frame_{number:06d}{back}{kind}.npy"
            for number in range(1, 7)
            for back in ("", "_backward")
            for kind in ("", "_uncertainty", "_occlusion")
        }
        assert {path.name for path in Path("flows").iterdir()} == names
        assert len(list(Path().glob("a_0*.png"))) == len(list(Path().glob("a_backward_0*.png"))) == 6
        model = zoo.load("deqflow-s", **HOW)
        there = np.load("flows/frame_000001.npy")
        back = np.load("flows/frame_000001_backward.npy")
        np.testing.assert_allclose(there, model.estimate(frames[0], frames[1]).flow, atol=1e-4)
        np.testing.assert_allclose(back, model.estimate(frames[1], frames[0]).flow, atol=1e-4)
        expected = model.estimate(frames[1], frames[0]).uncertainty
        found = np.load("flows/frame_000001_backward_uncertainty.npy")
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        hidden = np.load("flows/frame_000001_backward_occlusion.npy", allow_pickle=False)
        assert hidden.dtype == bool and np.array_equal(hidden, occlusion(back, there))
        with h5py.File("clip.h5") as file:
            assert list(file["frame"]) == [1, 2, 3, 4, 5, 6]
            assert list(file["cut"]) == [False] * 4 + [True, False]
            assert file["forward/flow"].chunks == (1, *SIZE, 2)
            for index in range(6):
                stem = f"flows/frame_{index + 1:06d}"
                assert np.array_equal(file["forward/flow"][index], np.load(f"{stem}.npy"))
                assert np.array_equal(file["backward/flow"][index], np.load(f"{stem}_backward.npy"))
                assert np.array_equal(file["forward/occlusion"][index], np.load(f"{stem}_occlusion.npy"))

    def test_backward_alone(self, run, frames: list[np.ndarray]) -> None:
        arguments = (
            "--direction",
            "backward",
            "--flow-dir",
            "flows",
            "--max-frames",
            "2",
            "--record-dir",
            "run",
        )
        assert run("video", "clip.mkv", *arguments, "--output", "a.png") == 0
        flow = read_flow("flows/frame_000001_backward.flo")[0]
        estimate = zoo.load("deqflow-s", **HOW).estimate(frames[1], frames[0])
        np.testing.assert_allclose(flow, estimate.flow, atol=1e-4)
        shown = read_image("a_000001.png")[:, : SIZE[1]]
        assert np.abs(shown.astype(int) - frames[1]).max() <= 2  # it starts on the second frame
        assert len(list(Path("flows").iterdir())) == 1
        assert float(rows("run/frames.csv")[0]["backward_residual"]) == pytest.approx(
            estimate.residual, rel=1e-3
        )

    def test_numbers_of_the_size_of_the_source(self, run) -> None:
        arguments = (
            "--max-side",
            "48",
            "--max-frames",
            "2",
            "--numbers",
            "flow",
            "occlusion",
            "--flow-format",
            "npy",
        )
        assert run("video", "clip.mkv", *arguments, "--flow-dir", "a", "--output", "a.mp4") == 0
        whole = ("--flow-size", "source", "--flow-dir", "b", "--output", "b.mp4")
        assert run("video", "clip.mkv", *arguments, *whole) == 0
        small, large = (np.load(f"{folder}/frame_000001.npy") for folder in "ab")
        np.testing.assert_allclose(large, resize_flow(small, SIZE), atol=1e-5)
        assert np.load("b/frame_000001_occlusion.npy").shape == SIZE

    def test_what_cannot_be(self, run, capfd: pytest.CaptureFixture[str]) -> None:
        said = {
            ("--numbers", "occlusion"): "--numbers go to --flow-dir",
            ("--hdf5", "a.zip"): "--hdf5 a.zip",
            ("--record-dir", "a.csv"): "--record-dir a.csv",
        }
        for arguments, sentence in said.items():
            assert run("video", "clip.mkv", *arguments) == 2
            assert sentence in " ".join(capfd.readouterr().err.replace("│", " ").split())

    def test_stills_in_both_directions(self, run, frames: list[np.ndarray], tmp_path: Path) -> None:
        for number, frame in enumerate(frames[:3], 1):
            write_image(tmp_path / f"f{number}.png", frame)
        kinds = ("--formats", "flo", "color", "occlusion-npy")
        assert run("flow", "f1.png", "f2.png", "f3.png", "--direction", "both", *kinds) == 0
        names = {
            f"f{n}{b}{k}"
            for n in (1, 2)
            for b in ("", "_backward")
            for k in (".flo", "_flow.png", "_occlusion.npy")
        }
        assert {path.name for path in Path("output").iterdir()} == names
        model = zoo.load("deqflow-s", steps=6, precision="float32")
        for number, (first, second) in enumerate(pairwise(frames[:3]), 1):
            there, back = (read_flow(f"output/f{number}{b}.flo")[0] for b in ("", "_backward"))
            np.testing.assert_allclose(there, model.estimate(first, second).flow, atol=1e-4)
            np.testing.assert_allclose(back, model.estimate(second, first).flow, atol=1e-4)
            assert np.array_equal(np.load(f"output/f{number}_occlusion.npy"), occlusion(there, back))
        assert run("flow", "f1.png", "f2.png", "--direction", "backward", "--output", "back.npy") == 0
        assert np.array_equal(np.load("back.npy"), read_flow("output/f1_backward.flo")[0])


def test_a_cut_is_said_in_the_picture(run) -> None:
    assert run("video", "clip.mkv", "--output", "a.png", "--layout", "color") == 0
    for number in range(1, 7):
        picture = read_image(f"a_{number:06d}.png")
        corner = picture[:28, -48:]
        assert (corner.max(axis=2) < 30).any() == (number == 5)  # the dark rim of the word


def test_one_color_scale_for_a_clip(run, frames: list[np.ndarray], capfd: pytest.CaptureFixture[str]) -> None:
    """The pictures of all pairs are drawn with one length, about that of the fastest common motion."""
    arguments = ("--color-scale", "clip", "--layout", "color", "--output", "a.png", "--record-dir", "run")
    assert run("video", "clip.mkv", *arguments, "--flow-dir", "flows", "--max-frames", "4") == 0
    scale = json.loads(Path("run/manifest.json").read_text())["full_color"]
    lengths = [float(row["max_motion"]) for row in rows("run/frames.csv")]
    assert max(4.0, 0.5 * max(lengths)) <= scale <= max(4.0, 1.5 * max(lengths))
    for number in range(1, 4):
        flow = read_flow(f"flows/frame_{number:06d}.flo")[0]
        assert (read_image(f"a_{number:06d}.png") == flow_to_image(flow, scale, clip=True)).all()
    assert run("video", "clip.mkv", *arguments[:2], "--max-flow", "3") == 2
    assert "both say what is full color" in " ".join(capfd.readouterr().err.replace("│", " ").split())


def test_a_first_look_sees_the_motion_of_a_clip(tmp_path: Path) -> None:
    model = zoo.load("deqflow-s", precision="float32")
    for step in (2, 6):
        encode(tmp_path / "a.mkv", textured(9, (192, 256), step), codec="ffv1", pixels="bgr0")
        found = clip_scale(open_video(tmp_path / "a.mkv"), model, quiet=True)
        assert max(4, 0.75 * step) <= found <= max(4, 1.4 * step)


def test_a_video_ends_with_the_last_pair(run) -> None:
    assert run("video", "clip.mkv", "--direction", "both", "--output", "a.webm") == 0
    assert {path.name for path in Path().glob("*.webm")} == {"a.webm", "a_backward.webm"}
    assert all(len(list(open_video(path))) == 6 for path in Path().glob("*.webm"))
