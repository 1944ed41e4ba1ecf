"""What is written: every container with the source's times and sound, nothing lost on the way."""

import os
import signal
import struct
import subprocess
import sys
import time
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import encode, textured
from evaluation_data import tiny_model
from PIL import Image

from deqflow import zoo
from deqflow.cli import main
from deqflow.errors import VideoError, VideoWarning
from deqflow.io import VideoWriter, open_video, read_flow, read_image, write_image
from deqflow.io.outputs import Replacements
from deqflow.io.video import Behind, ahead
from deqflow.io.video.sound import SoundCopy
from deqflow.visualize import PICTURES

STAMPS = (0, 100, 150, 1000, 1040, 4000)
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run ``deqflow video`` with few steps in an empty folder and return the exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(
        ["video", *map(str, arguments), "--checkpoint", str(weights), "--steps", "2"]
    )


def copy(source: Path, target: Path) -> VideoWriter:
    video = open_video(source)
    with VideoWriter(
        target,
        video.fps,
        time_base=video.time_base,
        pixel_aspect=video.pixel_aspect,
        sound=video.sound,
    ) as writer:
        for frame in video.frames():
            writer.write(frame)
    return writer


def durations(path: Path) -> list[int]:
    """Milliseconds of each picture of an animation."""
    found = []
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            found.append(image.info["duration"])
    return found


def sound(path: Path) -> tuple[str, float] | None:
    """Codec and seconds of the sound of a file."""
    with av.open(str(path)) as file:
        if not file.streams.audio:
            return None
        samples = sum(frame.samples for frame in file.decode(audio=0))
        return file.streams.audio[0].codec_context.name, samples / 48000


class TestContainers:
    @pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
    def test_times_and_pictures_are_kept(self, tmp_path: Path, suffix: str) -> None:
        source = encode(tmp_path / "a.mkv", textured(6), times=STAMPS, time_base=Fraction(1, 1000))
        copy(source, tmp_path / f"b.{suffix}")
        before, after = (list(open_video(path).frames()) for path in (source, tmp_path / f"b.{suffix}"))
        assert [frame.time for frame in after] == [Fraction(stamp, 1000) for stamp in STAMPS]
        for one, two in zip(before, after, strict=True):
            assert np.abs(one.image.astype(int) - two.image).mean() < 5

    def test_times_of_any_unit_are_exact_in_mp4(self, tmp_path: Path) -> None:
        source = encode(tmp_path / "a.mp4", textured(12), rate=Fraction(24000, 1001))
        copy(source, tmp_path / "b.mp4")
        found = [frame.time for frame in open_video(tmp_path / "b.mp4").frames()]
        assert found == [Fraction(1001 * index, 24000) for index in range(12)]

    def test_animations(self, tmp_path: Path) -> None:
        path, unit = tmp_path / "a.mkv", Fraction(1, 1000)
        source = encode(path, textured(6), times=STAMPS, time_base=unit, codec="ffv1")
        for suffix in ("gif", "webp"):
            copy(source, tmp_path / f"b.{suffix}")
            assert durations(tmp_path / f"b.{suffix}")[:5] == [100, 50, 850, 40, 2960]
        with Image.open(tmp_path / "b.gif") as image:
            assert image.info["loop"] == 0
            for index, frame in enumerate(open_video(source)):
                image.seek(index)
                assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frame).mean() < 1

    def test_a_gif_of_a_fast_video_keeps_its_pace(self, tmp_path: Path) -> None:
        copy(encode(tmp_path / "a.mp4", textured(60), rate=60), tmp_path / "b.gif")
        found = durations(tmp_path / "b.gif")
        assert min(found) >= 20
        assert abs(sum(found) - 1000) <= 20

    def test_how_long_the_last_frame_is_shown(self, tmp_path: Path) -> None:
        frames = textured(2)
        for suffix in ("mp4", "mkv", "webm"):
            source = encode(tmp_path / "a.gif", frames, codec="gif", pixels="rgb8", times=[0, 50], rate=100)
            copied = [frame for frame in open_video(source).frames()]
            with VideoWriter(tmp_path / f"b.{suffix}", 2, time_base=Fraction(1, 100)) as writer:
                for frame in copied:
                    writer.write(frame)
            with av.open(str(tmp_path / f"b.{suffix}")) as file:
                assert file.duration == 1_000_000

    def test_frames_too_large_for_the_encoder_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(VideoError, match=r"b\.mp4, 20000x16 pixels in libx264: "):  # noqa: SIM117
            with VideoWriter(tmp_path / "b.mp4", 25) as writer:
                writer.write(np.zeros((16, 20000, 3), np.uint8))

    @pytest.mark.parametrize("suffix", ["avi", "txt", "flv"])
    def test_other_containers_are_refused_by_name(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(VideoError, match=rf"b\.{suffix}: expected a name ending in \.mp4, .*\.gif"):
            VideoWriter(tmp_path / f"b.{suffix}", 25)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("suffix", ["mp4", "webm", "gif"])
    def test_pixel_aspect(self, tmp_path: Path, suffix: str) -> None:
        def stretch(_: object, stream: av.VideoStream) -> None:
            stream.codec_context.sample_aspect_ratio = Fraction(3, 2)

        copy(encode(tmp_path / "a.mp4", textured(3), prepare=stretch), tmp_path / f"b.{suffix}")
        video = open_video(tmp_path / f"b.{suffix}")
        height, width = video.size
        assert (width * video.pixel_aspect, height) == (96, 48)


class TestSound:
    @pytest.mark.parametrize(
        ("source", "target", "codec"),
        [
            ("a.mp4", "b.mp4", "aac"),
            ("a.mp4", "b.mkv", "aac"),
            ("a.ts", "b.mov", "aac"),
            ("a.webm", "b.webm", "opus"),
            ("a.webm", "b.mp4", "opus"),
        ],
    )
    def test_is_copied_where_the_container_takes_it(
        self, tmp_path: Path, source: str, target: str, codec: str
    ) -> None:
        encoder = "libvpx-vp9" if source.endswith("webm") else "libx264"
        path = encode(tmp_path / source, textured(50), codec=encoder, audio=True)
        writer = copy(path, tmp_path / target)
        found = sound(tmp_path / target)
        assert found is not None and found[0] == codec
        assert found[1] == pytest.approx(2, abs=0.1)
        assert writer.notes == []
        assert len(list(open_video(tmp_path / target))) == 50

    @pytest.mark.parametrize(("source", "target"), [("a.mp4", "b.webm"), ("a.webm", "b.mov")])
    def test_is_left_out_and_said_where_not(self, tmp_path: Path, source: str, target: str) -> None:
        encoder = "libvpx-vp9" if source.endswith("webm") else "libx264"
        writer = copy(encode(tmp_path / source, textured(12), codec=encoder, audio=True), tmp_path / target)
        assert sound(tmp_path / target) is None
        assert len(list(open_video(tmp_path / target))) == 12
        assert "the sound is left out" in writer.notes[0]

    def test_what_cannot_be_read_is_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = encode(tmp_path / "a.mp4", textured(12), audio=True)

        def fails(self: SoundCopy, stream: object):
            raise av.InvalidDataError(1, "damaged")
            yield

        monkeypatch.setattr(SoundCopy, "_shifted", fails)
        writer = copy(path, tmp_path / "b.mp4")
        assert "the sound is left out" in writer.notes[0]
        with av.open(str(tmp_path / "b.mp4")) as file:
            assert [stream.type for stream in file.streams] == ["video"]
        assert len(list(open_video(tmp_path / "b.mp4"))) == 12

    def test_begins_and_ends_with_the_frames(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mp4", textured(100), audio=True)
        video = open_video(path)
        with VideoWriter(tmp_path / "b.mp4", 25, time_base=video.time_base, sound=video.sound) as writer:
            for frame in video.frames():
                if 50 <= frame.number < 75:
                    writer.write(frame)
        found = sound(tmp_path / "b.mp4")
        assert found is not None
        assert found[1] == pytest.approx(1, abs=0.05)

    def test_is_left_out_of_frames_with_other_times(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mp4", textured(12), audio=True)
        assert open_video(path, fps=10).sound is None
        assert open_video(path).sound is not None


class TestNothingLost:
    def test_sources_are_never_outputs(self, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "frames"
        folder.mkdir()
        for number, image in enumerate(textured(4, (32, 32)), 1):
            write_image(folder / f"frame_{number:06d}.png", image)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        into = ("--flow-dir", "frames", "--flow-format", "kitti", "--overwrite")
        assert run("frames", *into) == 2
        assert "frame_000001.png is the source itself" in capsys.readouterr().err
        (folder / "frame_000001.png").rename(folder / "frame_000000.png")
        # File 1 is absent now; all others are still the user's.
        assert run("frames", *into) == 2
        assert run("frames", "--output", "frames/frame.png", "--overwrite") == 2
        (tmp_path / "link").symlink_to(folder, target_is_directory=True)
        assert run("frames", "--flow-dir", "link", "--flow-format", "kitti", "--overwrite") == 2
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert sorted(after.values()) == sorted(before.values())

    def test_a_hard_link_is_the_source_too(
        self, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clip = encode(tmp_path / "a.mp4", textured(3))
        os.link(clip, tmp_path / "b.mp4")
        before = clip.read_bytes()
        assert run("a.mp4", "--output", "b.mp4", "--overwrite") == 2
        assert "the output b.mp4 is the source itself" in capsys.readouterr().err
        assert clip.read_bytes() == before

    def test_every_output_is_checked_before_work(
        self, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        encode(tmp_path / "a.mp4", textured(5))
        (tmp_path / "flows").mkdir()
        (tmp_path / "flows/frame_000003.flo").write_text("precious")
        assert run("a.mp4", "--flow-dir", "flows") == 2
        assert "frame_000003.flo exists already" in capsys.readouterr().err
        assert not list(tmp_path.glob("output/*"))

    def test_overwrite_replaces_only_on_success(
        self, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "frames"
        folder.mkdir()
        for number, image in enumerate(textured(4, (32, 32)), 1):
            write_image(folder / f"{number}.png", image if number < 4 else image[:-2])
        old = tmp_path / "old.mp4"
        old.write_text("old video")
        (tmp_path / "flows").mkdir()
        (tmp_path / "flows/frame_000001.flo").write_text("old flow")
        arguments = ("frames", "--output", "old.mp4", "--flow-dir", "flows", "--overwrite")
        assert run(*arguments) == 2
        assert old.read_text() == "old video"
        assert (tmp_path / "flows/frame_000001.flo").read_text() == "old flow"
        assert "old.mp4 and 1 more as before" in capsys.readouterr().err
        assert len(list(open_video(tmp_path / "old.partial.mp4"))) == 2
        write_image(folder / "4.png", textured(4, (32, 32))[3])
        assert run(*arguments) == 0
        assert len(list(open_video(old))) == 3
        assert read_flow(tmp_path / "flows/frame_000001.flo")[0].shape == (32, 32, 2)

    def test_a_header_that_announces_ages(self, run, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mkv", textured(4, (32, 32)))
        data = path.read_bytes()
        with av.open(str(path)) as file:
            assert file.duration == 160_000
        found = data.index(struct.pack(">d", 160.0))  # the segment's duration, milliseconds
        path.write_bytes(data[:found] + struct.pack(">d", 1e15) + data[found + 8 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)
            assert (open_video(path).frame_count or 0) > 10**10
            assert run("a.mkv", "--output", "b.mp4", "--flow-dir", "flows") == 0
        assert len(list((tmp_path / "flows").iterdir())) == 3

    @pytest.mark.parametrize("name", ["12:30.mp4", "12:30.gif", "a:b/c.webm", "two\nlines.mkv"])
    def test_names_are_just_names(self, run, tmp_path: Path, name: str) -> None:
        encode(tmp_path / "a.mp4", textured(3))
        assert run("a.mp4", "--output", name, "--segment", "1") == 0
        assert len(list(open_video(tmp_path / name))) == 2
        assert [path.name for path in (tmp_path / name).parent.glob("*.parts")] == []

    def test_a_file_in_place_of_a_folder(
        self, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        encode(tmp_path / "a.mp4", textured(3))
        assert run("a.mp4", "--output", "a.mp4/b.mp4") == 2
        assert "output folder a.mp4" in capsys.readouterr().err

    def test_two_results_in_one_place(self, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        encode(tmp_path / "a.mp4", textured(3))
        arguments = ("--output", "out/frame.png", "--flow-dir", "out", "--flow-format", "kitti")
        assert run("a.mp4", *arguments) == 2
        assert "two results would both be out/frame_000001.png" in capsys.readouterr().err

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "gif"])
    def test_a_full_disk(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"a.{suffix}").symlink_to("/dev/full")
        noise = np.random.default_rng(0).integers(0, 256, (40, 128, 128, 3), dtype=np.uint8)
        said = pytest.raises(VideoError, match=rf"cannot write .*a\.{suffix}: No space left on device")
        with said, VideoWriter(tmp_path / f"a.{suffix}", 25) as writer:
            for image in noise:
                writer.write(image)

    def test_partial_files_never_replace_any(self, tmp_path: Path) -> None:
        names = ("a.txt", "a.partial.txt", "a.partial1.txt")
        for name in names:
            (tmp_path / name).write_text(name)
        with pytest.raises(ZeroDivisionError), Replacements(overwrite=True) as files:
            files.place(tmp_path / "a.txt").write_text("new")
            raise ZeroDivisionError
        assert all((tmp_path / name).read_text() == name for name in names)
        assert (tmp_path / "a.partial2.txt").read_text() == "new"
        with Replacements(overwrite=True) as files:
            files.place(tmp_path / "a.txt").write_text("newer")
        assert (tmp_path / "a.txt").read_text() == "newer"

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals of this kind here")
    @pytest.mark.parametrize(
        "name", ["SIGINT", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGTERM", "SIGHUP"))]
    )
    def test_a_real_signal_to_a_real_process(self, weights: Path, tmp_path: Path, name: str) -> None:
        """Twice, in haste."""
        number = getattr(signal, name)
        encode(tmp_path / "a.mp4", textured(200))
        command = [sys.executable, "-m", "deqflow", "video", "a.mp4", "--checkpoint", str(weights)]
        command += ["--flow-dir", "flows", "--tolerance", "0", "--steps", "40"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("flows/*.flo"))) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        for _ in range(2):
            process.send_signal(number)
            time.sleep(0.02)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in errors and "interrupted" in errors
        frames = list(open_video(tmp_path / "output/a_flow.mp4"))
        flows = list(tmp_path.glob("flows/*.flo"))
        assert len(frames) >= 3 and abs(len(frames) - len(flows)) <= 1
        assert all(read_flow(path)[1].all() for path in flows)

    @pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="terminals do not end what runs in them here")
    def test_a_terminal_that_is_closed(self, weights: Path, tmp_path: Path) -> None:
        encode(tmp_path / "a.mp4", textured(200))
        # The interpreter takes its standard input for its terminal, as the leader of a session may.
        takes = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        takes += "from deqflow.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", takes, "video", "a.mp4", "--checkpoint", str(weights)]
        command += ["--flow-dir", "flows", "--tolerance", "0", "--steps", "40"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        terminal, inside = os.openpty()
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=tmp_path,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("flows/*.flo"))) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        os.close(terminal)
        assert process.wait(60) == 130
        assert len(list(open_video(tmp_path / "output/a_flow.mp4"))) >= 3


class TestCommand:
    def test_frames_as_images_are_numbered_as_the_source(self, run, tmp_path: Path) -> None:
        (tmp_path / "frames").mkdir()
        for number, image in zip((7, 8, 9, 12, 13), textured(5, (32, 32)), strict=True):
            write_image(tmp_path / f"frames/f{number}.png", image)
        assert run("frames", "--output", "out/flow.png", "--layout", "color", "--flow-dir", "flows") == 0
        numbers = ("000007", "000008", "000012")
        assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
            f"flow_{number}.png" for number in numbers
        ]
        assert [path.name for path in sorted((tmp_path / "flows").iterdir())] == [
            f"frame_{number}.flo" for number in numbers
        ]
        assert read_image(tmp_path / "out/flow_000007.png").shape == (32, 32, 3)

    def test_times_and_sound_of_the_source(self, run, tmp_path: Path) -> None:
        encode(tmp_path / "a.mp4", textured(6), times=STAMPS, time_base=Fraction(1, 1000), audio=True)
        assert run("a.mp4", "--output", "b.mov") == 0
        found = [frame.time for frame in open_video(tmp_path / "b.mov").frames()]
        assert found == [Fraction(stamp, 1000) for stamp in STAMPS[:-1]]
        with av.open(str(tmp_path / "b.mov")) as file:
            assert file.duration == 4_000_000
        assert sound(tmp_path / "b.mov") is not None

    def test_every_layout_in_one_run(self, run, tmp_path: Path) -> None:
        """Of several layouts there is a file each; what one of them holds does not depend on the others."""
        encode(tmp_path / "a.mp4", textured(3, (32, 32)), codec="libx264")
        assert run("a.mp4", "--output", "all/a.png", "--layout", *PICTURES) == 0
        for layout in PICTURES:
            assert run("a.mp4", "--output", f"one/{layout}.png", "--layout", layout) == 0
            for number in ("000001", "000002"):
                together = read_image(tmp_path / f"all/a_{layout}_{number}.png")
                assert (together == read_image(tmp_path / f"one/{layout}_{number}.png")).all()
        assert len(list((tmp_path / "all").iterdir())) == 2 * len(PICTURES)
        assert run("a.mp4", "--output", "b.webm", "--layout", "color", "arrows") == 0
        assert {path.name for path in tmp_path.glob("*.webm")} == {"b_color.webm", "b_arrows.webm"}

    def test_layouts_that_cannot_be(self, run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        encode(tmp_path / "a.mp4", textured(3))
        assert run("a.mp4", "--layout", "color", "color") == 2
        said = " ".join(capfd.readouterr().err.replace("│", " ").split())
        assert "--layout must name different things, got color color" in said
        (tmp_path / "b_arrows.mp4").write_text("precious")
        assert run("a.mp4", "--output", "b.mp4", "--layout", "color", "arrows") == 2
        assert "b_arrows.mp4 exists already" in capfd.readouterr().err

    def test_an_unknown_container_is_refused(
        self, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        encode(tmp_path / "a.mp4", textured(3))
        assert run("a.mp4", "--output", "b.avi") == 2
        assert "--output b.avi: .avi cannot be written here, expected .mp4, .mov" in capsys.readouterr().err

    def test_two_frames_across_a_gap(self, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "frames").mkdir()
        for number, image in zip((1, 10, 11), textured(3, (32, 32)), strict=True):
            write_image(tmp_path / f"frames/{number}.png", image)
        assert run("frames", "--max-frames", "2") == 2
        assert "the folder frames has no two neighboring frames" in capsys.readouterr().err


class TestQueues:
    def test_ahead_keeps_order_and_passes_errors_on(self) -> None:
        assert list(ahead(range(100))) == list(range(100))

        def breaks():
            yield 1
            raise VideoError("broken")

        taken = ahead(breaks())
        assert next(taken) == 1
        with pytest.raises(VideoError, match="broken"):
            next(taken)

    def test_ahead_is_bounded_and_closes_what_it_reads(self) -> None:
        made, closed = [], []

        def numbers():
            try:
                for number in range(1000):
                    made.append(number)
                    yield number
            finally:
                closed.append(True)

        taken = ahead(numbers(), depth=3)
        assert [next(taken) for _ in range(5)] == [0, 1, 2, 3, 4]
        taken.close()
        assert len(made) <= 5 + 3 + 2
        assert closed == [True]

    def test_behind_keeps_order_and_finishes_whatever_happens(self) -> None:
        done: list[int] = []
        with pytest.raises(KeyboardInterrupt), Behind() as work:
            for number in range(50):
                work.call(lambda number=number: done.append(number))
            raise KeyboardInterrupt
        assert done == list(range(50))

    def test_behind_passes_errors_on_and_does_no_more(self) -> None:
        done: list[int] = []
        with pytest.raises(ZeroDivisionError), Behind() as work:
            work.call(lambda: done.append(1))
            work.call(lambda: done.append(1 // 0))
            work.call(lambda: done.append(2))
        assert done == [1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage here")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """A thousand frames of 225 KiB, decoded ahead and encoded behind, need no more than a hundred."""
    code = (
        "import resource, sys\n"
        "from deqflow.io.video import Behind, VideoWriter, ahead, open_video\n"
        "source = open_video(sys.argv[1])\n"
        "with VideoWriter(sys.argv[2], 25) as writer, Behind() as behind:\n"
        "    for frame in ahead(source.frames()):\n"
        "        behind.call(lambda frame=frame: writer.write(frame))\n"
        "print(writer.frames_written, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for count in (100, 1000):
        source, target = tmp_path / f"{count}.mp4", tmp_path / f"{count}-copy.mp4"
        encode(source, textured(1, (240, 320)) * count, preset="ultrafast")
        command = [sys.executable, "-c", code, str(source), str(target)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        written, peak = map(int, done.stdout.split())
        assert written == count
        peaks.append(peak)
    assert peaks[1] < 1.15 * peaks[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage here")
def test_memory_of_a_run_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """The same of the whole command: estimated, drawn, recorded and joined."""
    code = (
        "import resource, sys\n"
        "from deqflow.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    zoo.save_weights(tiny_model(), tmp_path / "tiny.safetensors")
    for count in (100, 500):  # of a quarter of a megabyte with its flow and picture
        encode(tmp_path / f"{count}.mp4", textured(50, (112, 144)) * (count // 50), preset="ultrafast")
        arguments = ["video", f"{count}.mp4", "--steps", "2", "--quiet", "--output", f"{count}-flow.mp4"]
        arguments += ["--hdf5", f"{count}.h5", "--record-dir", f"{count}", "--checkpoint", "tiny.safetensors"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        ended, peak = map(int, done.stdout.split())
        assert ended == 0
        peaks.append(peak)
    assert peaks[1] < 1.15 * peaks[0], peaks
