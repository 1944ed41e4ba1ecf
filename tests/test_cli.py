"""The command line as a user runs it: results, exit codes, one sentence for every wrong input, Ctrl-C."""

import os
import re
import subprocess
import sys
from importlib import metadata
from io import BytesIO, TextIOWrapper
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deqflow import zoo
from deqflow.cli import COMMANDS, main
from deqflow.geometry import occlusion
from deqflow.io import VideoWriter, open_video, read_flow, read_image, write_flow, write_image
from deqflow.visualize import PICTURES, scalar_map
from deqflow.visualize.renderings import MOST_MOVEMENT

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: three frames in ``frames`` and a video of five."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (34, 61, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(image, (7, 7), 2)
    for number in (1, 2, 10):
        write_image(tmp_path / "frames" / f"f{number}.png", np.roll(image, number, 1))
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for number in range(5):
            writer.write(np.roll(image, number, 1))
    return tmp_path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def wrong(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs what must fail and returns the sentence it fails with."""
    assert run(*arguments) == 2
    captured = capfd.readouterr()
    lines = [
        line
        for line in captured.err.replace("\r", "\n").splitlines()
        if "pair" not in line or "error" in line
    ]
    lines = [line for line in lines if line.strip()]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("deqflow: error: ")
    return lines[0]


class TestOverview:
    def test_help_names_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--help") == 0
        printed = capsys.readouterr().out
        assert all(name in printed for name in COMMANDS)
        assert run() == 2

    @pytest.mark.parametrize("name", list(COMMANDS))
    def test_every_command_has_help(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(name, "--help") == 0
        printed = capsys.readouterr().out
        assert f"deqflow {name}" in printed
        assert "--help" in printed

    def test_help_waits_for_no_heavy_library(self) -> None:
        """Only what measures or renders needs torch before it runs; a process of its own, ours has it."""
        quick = [name.split() for name in COMMANDS if name != "scenes"]
        program = (
            "import sys\nfrom deqflow.cli import main\n"
            f"assert not any(main([*name, '--help']) for name in {quick})\n"
            "print(sorted({'jinja2', 'matplotlib', 'tensorboard', 'torch'} & sys.modules.keys()))"
        )
        printed = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert printed.splitlines()[-1] == "[]"

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            version = metadata.version("deqflow")
        except metadata.PackageNotFoundError:
            pytest.skip("deqflow is not installed")
        assert run("--version") == 0
        assert capsys.readouterr().out.strip() == version

    def test_models(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("models") == 0
        assert "deqflow-s" in capsys.readouterr().out

    def test_unknown_command_and_option(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert "'fly'" in wrong(capfd, "fly")
        assert run("flow", "a.png", "b.png", "--colour") == 2

    def test_as_a_process(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "deqflow", "flow", "missing.png", "other.png", "--output", "out"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=folder, check=False
        )
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "deqflow: error: cannot read the image missing.png: No such file or directory"
        ]

    @pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
    def test_with_its_streams_closed(self, folder: Path, weights: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        arguments = f"frames/f1.png frames/f2.png --checkpoint '{weights}' --steps 1 --output f.flo"
        command = f"'{sys.executable}' -m deqflow flow {arguments} <&- >&- 2>&-"
        done = subprocess.run(["sh", "-c", command], env=environment, cwd=folder, check=False)
        assert done.returncode == 0
        assert read_flow(folder / "f.flo")[0].shape[2] == 2


class TestFlow:
    def test_a_pair(self, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pair = ("frames/f1.png", "frames/f2.png")
        assert run("flow", *pair, "--checkpoint", weights, "--formats", "color", "flo", "kitti") == 0
        flow, valid = read_flow(folder / "output/f1.flo")
        assert flow.shape == (34, 61, 2)
        assert valid.all()
        assert np.abs(read_flow(folder / "output/f1_kitti.png")[0] - flow).max() <= 1 / 128 + 1e-5
        assert read_image(folder / "output/f1_flow.png").shape == (34, 61, 3)
        assert "output/f1.flo" in capsys.readouterr().out

    def test_every_picture_of_a_pair(
        self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        names = [name for name in PICTURES if name != "uncertainty"]
        model = zoo.load("deqflow-s", checkpoint=weights, precision="float32")
        options = ("frames/f1.png", "frames/f2.png", "--checkpoint", weights, "--steps", 2)
        options += ("--precision", "float32", "--formats")
        assert run("flow", *options, *names) == 0
        pictures = {path.name: read_image(path) for path in Path("output").iterdir()}
        assert pictures.keys() == {"f1_flow.png", *(f"f1_{name}.png" for name in names if name != "color")}
        assert {picture.shape[0] for picture in pictures.values()} == {34}
        flows = [
            model.estimate(f"frames/f{a}.png", f"frames/f{b}.png", steps=2).flow for a, b in ((1, 2), (2, 1))
        ]
        tinted = np.ptp(pictures["f1_occlusion.png"].astype(int), axis=2) > 0
        assert np.array_equal(tinted, occlusion(*flows))
        found = model.estimate("frames/f1.png", "frames/f2.png", steps=2)
        pair = model.prepare(*(model.to_tensor(f"frames/f{number}.png") for number in (1, 2)))
        stride = min(found.evaluations)
        operator = model.operator(model.encoded_at(pair, (stride,)), stride)
        moved = operator(found.state).flow - found.state.flow
        expected = pair.padding.crop(
            stride * moved.norm(dim=1).repeat_interleave(stride, 1).repeat_interleave(stride, 2)
        )
        drawn = scalar_map(expected[0].detach().numpy(), MOST_MOVEMENT)
        assert np.abs(pictures["f1_movement.png"].astype(int) - drawn).max() <= 2
        assert run("flow", *options, "colour") == 2
        assert "invalid choice" in capfd.readouterr().err

    def test_one_file_in_every_format(
        self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        pair = ("frames/f1.png", "frames/f2.png", "--checkpoint", weights, "--steps", 2)
        assert run("flow", *pair, "--output", "new/a.flo") == 0
        flow, _ = read_flow("new/a.flo")
        for suffix in (".flo5", ".pfm", ".npy", ".npz", ".exr"):
            assert run("flow", *pair, "--output", f"new/a{suffix}") == 0
            assert np.array_equal(read_flow(f"new/a{suffix}")[0], flow)
        assert run("flow", *pair, "--output", "new/a.png") == 0
        assert read_image("new/a.png").shape == (34, 61, 3)
        assert run("flow", *pair, "--output", "new/b.PNG", "--formats", "kitti") == 0
        assert np.abs(read_flow("new/b.PNG")[0] - flow).max() <= 1 / 128
        assert len(list(Path("new").iterdir())) == 8
        capfd.readouterr()
        assert "a.flo exists already" in wrong(capfd, "flow", *pair, "--output", "new/a.flo")
        message = wrong(capfd, "flow", *pair, "--output", "c.npy", "--formats", "flo")
        assert "c.npy takes --formats npy or uncertainty-npy or occlusion-npy, got flo" in message
        assert "folder for 2 pairs" in wrong(capfd, "flow", "frames", "--output", "c.npy")

    def test_a_clipped_flow_is_one_line(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        large = np.full((4, 5, 2), 600, np.float32)
        monkeypatch.setattr("deqflow.commands.flow.run", lambda options: write_flow("large.png", large))
        assert run("flow", "a.png", "b.png") == 0
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("deqflow: warning: large.png: 20 of 20 pixels were clipped")

    def test_a_folder_in_natural_order(self, folder: Path, weights: Path) -> None:
        for name in ("._f1.png", ".f3.png"):
            (folder / "frames" / name).write_bytes(b"\0\5\x16\7")
        assert run("flow", "frames", "--checkpoint", weights, "--output", "out", "--steps", 2) == 0
        names = sorted(path.name for path in (folder / "out").iterdir())
        assert names == ["f1.flo", "f1_flow.png", "f2.flo", "f2_flow.png"]
        listed = ["frames/f1.png", "frames/f2.png", "frames/f10.png"]
        assert run("flow", *listed, "--checkpoint", weights, "--output", "listed", "--steps", 2) == 0
        for name in ("f1.flo", "f2.flo"):
            np.testing.assert_array_equal(
                read_flow(folder / "out" / name)[0], read_flow(folder / "listed" / name)[0]
            )

    def test_a_folder_of_frames_can_take_the_results(
        self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        pictures = [name for name in PICTURES if name not in ("occlusion", "uncertainty")]
        command = ("flow", "frames", "--output", "frames/", "--checkpoint", weights, "--steps", 1)
        command = (*command, "--formats", *pictures, "kitti", "flo")
        assert run(*command) == 0
        before = {path.name: path.read_bytes() for path in Path("frames").iterdir()}
        assert len(before) == 3 + 2 * (len(pictures) + 2)
        capfd.readouterr()
        assert "exists already" in wrong(capfd, *command)
        assert run(*command, "--overwrite") == 0
        assert {path.name: path.read_bytes() for path in Path("frames").iterdir()} == before

    @pytest.mark.parametrize("output", ["out.avi", "flow.jpg", "a.TIFF", "sub/b.exr2.webp", "x.mat", "c.gif"])
    def test_a_file_that_cannot_be_written_is_no_folder(
        self, folder: Path, capfd: pytest.CaptureFixture[str], output: str
    ) -> None:
        message = wrong(capfd, "flow", "frames/f1.png", "frames/f2.png", "--output", output)
        assert message.endswith("expected .flo, .png, .flo5, .pfm, .npy, .npz, .exr or a folder")
        assert not Path(output).exists()

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("demo --output demo.mp4", "--output demo.mp4: .mp4 cannot"),
            ("video clip.mp4 --flow-dir flow.flo", "--flow-dir flow.flo: .flo cannot"),
            ("evaluate --data . --report page.html", "--report page.html: .html cannot"),
            ("evaluate submit sintel --data . --output sintel.zip", "--output sintel.zip: .zip cannot"),
        ],
    )
    def test_folders_are_not_called_like_files(
        self, folder: Path, capfd: pytest.CaptureFixture[str], command: str, said: str
    ) -> None:
        before = sorted(folder.iterdir())
        assert run(*command.split()) == 2
        err = " ".join(capfd.readouterr().err.replace("│", " ").split())
        assert f"{said} be written here, expected a folder" in err
        assert sorted(folder.iterdir()) == before

    def test_what_is_a_folder(self, folder: Path, weights: Path) -> None:
        pair = ("flow", "frames/f1.png", "frames/f2.png", "--checkpoint", weights, "--steps", 1)
        Path("old.avi").mkdir()
        for output in ("runs/v1.2", "old.avi", "new.flo/", "plain"):
            assert run(*pair, "--output", output) == 0
            assert sorted(path.name for path in Path(output).iterdir()) == ["f1.flo", "f1_flow.png"]

    @pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
    def test_names_that_the_console_cannot_show(
        self, folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
    ) -> None:
        for number in (1, 2):
            Path(f"frames/f{number}.png").rename(f"frames/左{number}.png")
        console = TextIOWrapper(BytesIO(), encoding)
        monkeypatch.setattr("sys.stdout", console)
        pair = ("frames/左1.png", "frames/左2.png", "--checkpoint", weights, "--steps", 1)
        assert run("flow", *pair, "--output", "流") == 0
        assert Path("流/左1.flo").is_file()
        console.flush()
        shown = "左1.png -> 左2.png" if encoding == "utf-8" else "?1.png -> ?2.png"
        assert shown in console.buffer.getvalue().decode(encoding)

    @pytest.mark.parametrize("kind", ["gray", "rgba", "sixteen"])
    def test_kinds_of_images(self, folder: Path, weights: Path, kind: str) -> None:
        image = cv2.imread("frames/f1.png")
        converted = {
            "gray": image[..., 0],
            "rgba": np.dstack((image, np.full(image.shape[:2], 255, np.uint8))),
            "sixteen": image.astype(np.uint16) * 257,
        }[kind]
        cv2.imwrite("a.png", converted)
        assert run("flow", "a.png", "a.png", "--checkpoint", weights) == 0
        assert np.isfinite(read_flow("output/a.flo")[0]).all()

    @pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 16)])
    def test_smallest_odd_and_flat(self, folder: Path, weights: Path, size: tuple[int, int]) -> None:
        write_image("flat.png", np.full((*size, 3), 90, np.uint8))
        assert run("flow", "flat.png", "flat.png", "--checkpoint", weights) == 0
        flow, _ = read_flow("output/flat.flo")
        assert flow.shape == (*size, 2)
        assert np.isfinite(flow).all()

    def test_frames_are_scaled_down_if_asked(
        self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        pair = ("flow", "frames/f1.png", "frames/f2.png", "--checkpoint", weights, "--steps", 1)
        assert run(*pair, "--max-side", 40) == 0
        assert read_flow("output/f1.flo")[0].shape == (22, 40, 2)
        assert read_image("output/f1_flow.png").shape == (22, 40, 3)
        assert run(*pair, "--max-side", 4000, "--output", "whole") == 0
        assert read_flow("whole/f1.flo")[0].shape == (34, 61, 2)
        capfd.readouterr()
        assert run(*pair, "--max-side", 15) == 2
        assert "--max-side must be at least 16, got 15" in capfd.readouterr().err
        assert "expected at least 16x16" in wrong(capfd, *pair, "--max-side", 20, "--output", "flat")

    @pytest.mark.parametrize("command", ["flow frames/f1.png frames/f2.png", "video clip.mp4"])
    def test_frames_that_memory_is_too_short_for(
        self,
        folder: Path,
        weights: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        command: str,
    ) -> None:
        # Half the finest stride, where single pairs are solved too, takes four times as much.
        free = 2_400_000 if command.startswith("flow") else 600_000
        monkeypatch.setattr("deqflow.devices.free_memory", lambda device: free)
        options = (*command.split(), "--checkpoint", weights, "--steps", 1, "--output", "new")
        message = wrong(capfd, *options)
        assert re.search(r"6[12]x34 pixels need .* GB of memory, of which 0.0 are free", message)
        fitting = re.search(r"scale them down by --max-side (\d+) or less$", message)
        assert fitting is not None and run(*options, "--max-side", fitting[1]) == 0

    def test_running_out_of_memory_is_one_sentence(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def exhaust(options: object) -> None:
            torch.empty(2**62, dtype=torch.uint8)

        monkeypatch.setattr("deqflow.commands.flow.run", exhaust)
        assert "out of memory: smaller frames (--max-side" in wrong(capfd, "flow", "a.png", "b.png")

    def test_results_are_not_overwritten_unasked(
        self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        command = ("flow", "frames/f1.png", "frames/f2.png", "--checkpoint", weights)
        assert run(*command) == 0
        capfd.readouterr()
        assert "f1_flow.png exists already" in wrong(capfd, *command)
        assert run(*command, "--overwrite") == 0

    def test_bad_images(self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
        image = read_image("frames/f1.png")
        write_image("other.png", image[:-1])
        write_image("small.png", image[:15])
        Path("cut.png").write_bytes(Path("frames/f1.png").read_bytes()[:500])
        Path("empty").mkdir()
        expected = {
            "other.png": "other.png is 61x33 pixels, frames/f1.png is 61x34",
            "small.png": "small.png is 61x15 pixels, expected at least 16x16",
            "cut.png": "cut.png is not an image that can be decoded, or is cut short",
            "missing.png": "missing.png: No such file",
        }
        for second, sentence in expected.items():
            for extra in ((), ("--device", "cpu")):
                message = wrong(capfd, "flow", "frames/f1.png", second, "--checkpoint", weights, *extra)
                assert sentence in message
        assert "holds 0 images" in wrong(capfd, "flow", "empty", "--checkpoint", weights)
        assert "two images" in wrong(capfd, "flow", "frames/f1.png", "--checkpoint", weights)
        assert not list(Path("output").iterdir())

    def test_bad_outputs_and_models(
        self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        pair = ("flow", "frames/f1.png", "frames/f2.png")
        Path("file").touch()
        assert "output folder file/out" in wrong(capfd, *pair, "--output", "file/out")
        assert "nope.safetensors" in wrong(capfd, *pair, "--checkpoint", "nope.safetensors")
        assert "file" in wrong(capfd, *pair, "--checkpoint", "file")
        save_file({"weight": torch.zeros(3)}, "other.safetensors")
        assert "other.safetensors" in wrong(capfd, *pair, "--checkpoint", "other.safetensors")
        assert "model 'huge' is unknown" in wrong(capfd, *pair, "--model", "huge")
        assert "'abacus'" in wrong(capfd, *pair, "--checkpoint", weights, "--device", "abacus")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
    def test_unwritable_folder(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        Path("locked").mkdir(mode=0o555)
        message = wrong(capfd, "flow", "frames/f1.png", "frames/f2.png", "--output", "locked")
        assert "cannot write to the output folder locked" in message


class TestVideo:
    def test_a_file_that_cannot_be_written_is_no_folder(
        self, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        message = wrong(capfd, "video", "clip.mp4", "--output", "out.avi")
        assert "--output out.avi: .avi cannot be written here, expected .mp4, " in message
        assert not Path("out.avi").exists()

    def test_a_file(self, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("--checkpoint", weights, "--flow-dir", "flows", "--compare")
        assert run("video", "clip.mp4", *arguments) == 0
        video = open_video("output/clip_flow.mp4")
        assert (video.frame_count, video.fps, video.size) == (4, 10, (34, 124))
        assert len(list(Path("flows").glob("*.flo"))) == 4
        assert read_flow("flows/frame_000004.flo")[0].shape == (34, 62, 2)
        printed = capsys.readouterr().out
        assert "output/clip_flow.mp4" in printed
        rows = [line.split() for line in printed.splitlines()]
        # Behind the number: solved anew, as a first pair is, or a cut, which random weights see everywhere.
        assert [row[0].rstrip("*|") for row in rows[1:7]] == ["1", "2", "3", "4", "mean", "median"]
        assert rows[1][0] in ("1*", "1|")
        assert all(len(row) == 6 for row in rows[1:7])

    def test_a_folder_of_images(self, folder: Path, weights: Path) -> None:
        Path("frames/f10.png").rename("frames/f3.png")
        arguments = ("--checkpoint", weights, "--fps", 5, "--layout", "color", "--no-reuse", "--max-side", 32)
        assert run("video", "frames", "--output", "a/b.mp4", *arguments) == 0
        video = open_video("a/b.mp4")
        assert (video.frame_count, video.fps, video.size) == (2, 5, (18, 32))

    def test_no_pair_across_a_gap(
        self, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("video", "frames", "--checkpoint", weights, "--steps", 2) == 0
        assert "no frame 3 to 9; there is no flow across" in capsys.readouterr().err
        assert len(list(open_video("output/frames_flow.mp4"))) == 1

    def test_arrows_and_limits(self, folder: Path, weights: Path) -> None:
        arguments = ("--checkpoint", weights, "--layout", "arrows", "--max-frames", 3)
        assert run("video", "clip.mp4", *arguments) == 0
        assert len(list(open_video("output/clip_flow.mp4"))) == 2

    def test_bad_sources(self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
        Path("text.mp4").write_text("not a video")
        image = read_image("frames/f1.png")
        with VideoWriter("one.mp4", 10) as writer:
            writer.write(image)
        Path("two").mkdir()
        write_image("two/1.png", image)
        write_image("two/2.png", image[:-2])
        expected = {
            "text.mp4": "text.mp4 is not a video",
            "missing.mp4": "missing.mp4: No such file",
            "one.mp4": "one.mp4 has only one frame",
            "two": "frame 2 of the folder two is 61x32 pixels",
            "987": "no webcam",
        }
        for source, sentence in expected.items():
            assert sentence in wrong(capfd, "video", source, "--checkpoint", weights)
        assert not list(Path("output").glob("*"))

    def test_a_source_that_breaks_leaves_what_was_done(
        self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        image = read_image("frames/f1.png")
        Path("frames/f10.png").rename("frames/f3.png")
        write_image("frames/f4.png", image[:-2])
        message = wrong(capfd, "video", "frames", "--checkpoint", weights)
        assert "frame 4" in message and "frames/f4.png" in message
        assert len(list(open_video("output/frames_flow.mp4"))) == 2

    def test_outputs_are_safe(self, folder: Path, weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
        Path("output").mkdir()
        Path("output/clip_flow.mp4").write_text("precious")
        assert "exists already" in wrong(capfd, "video", "clip.mp4", "--checkpoint", weights)
        message = wrong(capfd, "video", "clip.mp4", "--output", "clip.mp4", "--overwrite")
        assert "is the source itself" in message
        Path("flows").mkdir()
        Path("flows/frame_000001.flo").write_text("precious")
        arguments = ("--output", "new", "--flow-dir", "flows")
        assert "frame_000001.flo exists already" in wrong(capfd, "video", "clip.mp4", *arguments)

    def test_interrupted(
        self, folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write = VideoWriter.write

        def interrupting(self: VideoWriter, frame: np.ndarray) -> None:
            write(self, frame)
            if self.frames_written == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(VideoWriter, "write", interrupting)
        assert run("video", "clip.mp4", "--checkpoint", weights) == 130
        assert "Traceback" not in capfd.readouterr().err
        monkeypatch.undo()
        assert len(list(open_video(folder / "output/clip_flow.mp4"))) == 3


class TestDemo:
    def test_writes_a_video_and_a_still_of_every_clip_again_and_again(
        self, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for _ in range(2):
            assert run("demo", "--checkpoint", weights, "--max-frames", 3, "--max-side", 64) == 0
        printed = capsys.readouterr().out
        clips = sorted((REPOSITORY / "demo").glob("*.mp4"))
        assert clips
        for clip in clips:
            result = folder / "output/demo" / f"{clip.stem}_flow.mp4"
            assert str(result) in printed
            assert len(list(open_video(result))) == 2
            assert read_image(result.with_suffix(".png")).shape[:2] == open_video(result).size

    def test_clips_are_attributed_and_small(self) -> None:
        attribution = (REPOSITORY / "demo/ATTRIBUTION.md").read_text()
        clips = list((REPOSITORY / "demo").glob("*.mp4"))
        assert all(clip.name in attribution for clip in clips)
        assert sum(clip.stat().st_size for clip in clips) < 1.5e6
