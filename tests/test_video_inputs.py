"""Every kind of clip is read whole, upright, in its colors and with its times."""

import os
import subprocess
import sys
import threading
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import corners, damage, encode, textured
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deqflow.errors import ImageError, VideoError, VideoWarning
from deqflow.io import open_video, write_flow, write_image
from deqflow.io.video.containers import Clock

CLOSE = 12
"""Levels that lossy compression may change of smooth pictures, on average."""


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(int) - second).mean())


def times(path: Path, **options: Any) -> list[Fraction]:
    return [frame.time for frame in open_video(path, **options).frames()]


class TestWhichStream:
    def test_an_attached_picture_is_no_video(self, tmp_path: Path) -> None:
        picture = cv2.imencode(".png", np.zeros((256, 256, 3), np.uint8))[1].tobytes()

        def attach(container: Any, stream: Any) -> None:
            container.add_attachment("cover.png", "image/png", picture)

        def tag(container: Any, stream: Any) -> None:
            cover = container.add_stream("png")
            cover.width = cover.height = 256
            cover.pix_fmt = "rgb24"
            cover.disposition = av.stream.Disposition.attached_pic
            container.mux(cover.encode(av.VideoFrame(256, 256, "rgb24")))

        for name, prepare in (("a.mkv", attach), ("a.mp4", tag)):
            video = open_video(encode(tmp_path / name, textured(5), prepare=prepare))
            assert (video.size, len(list(video)), video.notes) == ((48, 64), 5, ())

    def test_the_largest_is_taken_and_said_and_any_can_be_chosen(self, tmp_path: Path) -> None:
        path = tmp_path / "two.mkv"
        with av.open(str(path), "w") as file:
            sizes = ((32, 32), (48, 64))
            streams = [file.add_stream("libx264", rate=25) for _ in sizes]
            for stream, (stream.height, stream.width) in zip(streams, sizes, strict=True):
                stream.pix_fmt = "yuv420p"
            for image in textured(4):
                for stream, (height, width) in zip(streams, sizes, strict=True):
                    cropped = np.ascontiguousarray(image[:height, :width])
                    file.mux(stream.encode(av.VideoFrame.from_ndarray(cropped, "rgb24")))
            for stream in streams:
                file.mux(stream.encode())
        best = open_video(path)
        assert best.size == (48, 64)
        assert "stream 1 (64x48), stream 0 (32x32)" in best.notes[0]
        assert open_video(path, stream=0).size == (32, 32)
        assert open_video(path, stream=0).notes == ()
        with pytest.raises(VideoError, match=r"no video stream 2, it holds 0 \(video\), 1 \(video\)"):
            open_video(path, stream=2)

    def test_sound_only(self, tmp_path: Path) -> None:
        with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as file:
            sound = file.add_stream("aac", rate=48000)
            block = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            block.sample_rate = 48000
            file.mux(sound.encode(block))
            file.mux(sound.encode())
        with pytest.raises(VideoError, match="no video that FFmpeg can decode"):
            open_video(tmp_path / "a.m4a")


class TestTime:
    STAMPS = (0, 100, 150, 1000, 1040, 4000)

    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
    def test_variable_frame_rates(self, tmp_path: Path, suffix: str) -> None:
        path = encode(tmp_path / f"a.{suffix}", textured(6), times=self.STAMPS, time_base=Fraction(1, 1000))
        assert times(path) == [Fraction(stamp, 1000) for stamp in self.STAMPS]
        assert times(path, fps=50) == [Fraction(index, 50) for index in range(6)]
        video = open_video(path)
        assert all((time / video.time_base).denominator == 1 for time in times(path))

    def test_animations(self, tmp_path: Path) -> None:
        stamps = [0, 11, 22, 33, 44, 100]
        gif = encode(
            tmp_path / "a.gif",
            textured(6),
            codec="gif",
            pixels="rgb8",
            times=stamps,
            time_base=Fraction(1, 100),
        )
        assert times(gif) == [Fraction(stamp, 100) for stamp in stamps]
        apng = encode(tmp_path / "a.apng", textured(2), codec="apng", pixels="rgb24", rate=2)
        assert times(apng) == [0, Fraction(1, 2)]
        assert open_video(apng).fps < 100

    def test_a_frame_an_hour(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mp4", textured(3), rate=Fraction(1, 3600))
        assert times(path) == [0, 3600, 7200]
        assert open_video(path).fps == pytest.approx(1 / 3600)
        assert times(path, fps=1 / 3600) == [0, 3600, 7200]

    @pytest.mark.parametrize("fps", [0, -1, float("inf"), float("nan")])
    def test_impossible_rates(self, tmp_path: Path, fps: float) -> None:
        with pytest.raises(VideoError, match="frames per second must be positive"):
            open_video(encode(tmp_path / "a.mp4", textured(2)), fps=fps)

    @given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), min_size=1, max_size=20))
    def test_times_always_increase(self, stamps: list[int | None]) -> None:
        clock = Clock(None, Fraction(25), None)
        frame = av.VideoFrame(16, 16)
        frame.time_base = Fraction(1, 90000)
        found = []
        for number, stamp in enumerate(stamps, 1):
            frame.pts = stamp
            found.append(clock.time(frame, number))
        assert found[0] == 0
        assert found == sorted(set(found))

    def test_the_start_does_not_count(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.ts", textured(4), times=[50, 51, 52, 53])
        assert times(path) == [Fraction(index, 25) for index in range(4)]


class TestDamage:
    def test_every_frame_behind_a_bad_packet_is_used(self, tmp_path: Path) -> None:
        frames = textured(60)
        whole = encode(tmp_path / "a.mp4", frames, g="20", bf="0")
        broken = encode(tmp_path / "b.mp4", frames, g="20", bf="0")
        damage(broken, [25, 26, 30])
        with pytest.warns(VideoWarning, match="57 of 60 announced frames read, 3 decoding errors") as caught:
            found = list(open_video(broken).frames())
        assert len(caught) == 1
        expected = {frame.time: frame.image for frame in open_video(whole).frames()}
        assert [round(frame.time * 25) for frame in found] == [
            index for index in range(60) if index not in (25, 26, 30)
        ]
        assert all(
            np.array_equal(frame.image, expected[frame.time])
            for frame in found
            if not 1 <= frame.time < Fraction(8, 5)
        )

    @pytest.mark.parametrize(
        ("suffix", "said"), [("mp4", "of 60 announced frames"), ("mkv", "of 2.4 announced")]
    )
    def test_a_truncated_file_gives_all_that_decodes(self, tmp_path: Path, suffix: str, said: str) -> None:
        path = encode(tmp_path / f"a.{suffix}", textured(60), container={"movflags": "faststart"})
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
        with pytest.warns(VideoWarning, match=said):
            found = list(open_video(path))
        assert 10 < len(found) < 60

    def test_a_whole_file_says_nothing(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for suffix in ("mp4", "mkv", "webm", "ts", "avi"):
                codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(suffix, "libx264")
                path = encode(
                    tmp_path / f"a.{suffix}", textured(12), codec=codec, audio=suffix in ("mp4", "mkv")
                )
                assert len(list(open_video(path))) == 12

    @given(data=st.data())
    def test_noise_anywhere_is_an_error_or_frames_but_no_crash(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "noise.mkv"
        original = path.with_name("original.mkv")
        if not original.exists():
            encode(original, textured(10))
        content = bytearray(original.read_bytes())
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for frame in open_video(path):
                    assert frame.dtype == np.uint8
            except VideoError as error:
                assert "noise.mkv" in str(error)


class TestPictures:
    @pytest.mark.parametrize("a, b, c, d", [
        (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
        (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0),
    ])  # fmt: skip
    def test_turned_and_mirrored(self, tmp_path: Path, a: int, b: int, c: int, d: int) -> None:
        one = 65536
        matrix = (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 2**30)
        path = encode(
            tmp_path / "a.mp4", corners(), prepare=lambda _, stream: stream.set_display_matrix(matrix)
        )
        image = corners()[0]
        height, width = image.shape[:2]
        # ISO/IEC 14496-12, 6.2.2: pixel (x, y) is shown at (ax + cy, bx + dy), moved to begin at 0.
        y, x = np.mgrid[:height, :width]
        across, down = a * x + c * y, b * x + d * y
        across, down = across - across.min(), down - down.min()
        expected = np.zeros((down.max() + 1, across.max() + 1, 3), np.uint8)
        expected[down, across] = image
        video = open_video(path)
        assert video.size == expected.shape[:2]
        assert difference(next(iter(video)), expected) < CLOSE

    def test_pixel_aspect(self, tmp_path: Path) -> None:
        def stretch(_: Any, stream: Any) -> None:
            stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

        def stretch_and_turn(container: Any, stream: Any) -> None:
            stretch(container, stream)
            stream.set_display_rotation(90)

        assert open_video(encode(tmp_path / "a.mp4", corners(), prepare=stretch)).pixel_aspect == Fraction(
            4, 3
        )
        turned = open_video(encode(tmp_path / "b.mp4", corners(), prepare=stretch_and_turn))
        assert turned.pixel_aspect == Fraction(3, 4)
        assert open_video(encode(tmp_path / "c.mp4", corners())).pixel_aspect == 1

    @pytest.mark.parametrize(
        ("suffix", "codec", "pixels"),
        [
            ("mov", "qtrle", "argb"),
            ("mov", "png", "rgba"),
            ("webm", "libvpx-vp9", "yuva420p"),
            ("apng", "apng", "rgba"),
        ],
    )
    def test_alpha_is_blended_over_black(self, tmp_path: Path, suffix: str, codec: str, pixels: str) -> None:
        alpha = np.full((48, 64, 1), 128, np.uint8)
        frames = [np.concatenate((image, alpha), 2) for image in corners(3)]
        path = encode(tmp_path / f"a.{suffix}", frames, codec=codec, pixels=pixels, source="rgba")
        found = list(open_video(path))
        assert len(found) == 3
        assert difference(found[2], (corners()[0] * (128 / 255)).astype(np.uint8)) < 4

    @pytest.mark.parametrize(("size", "colors"), [((720, 1280), "ITU709"), ((480, 640), "ITU601")])
    @pytest.mark.parametrize("full", [False, True])
    def test_unlabeled_colors(self, tmp_path: Path, size: tuple[int, int], colors: str, full: bool) -> None:
        image = corners(1, size)[0]
        picture = av.VideoFrame.from_ndarray(image, "rgb24").reformat(
            format="yuvj420p" if full else "yuv420p",
            dst_colorspace=colors,
            dst_color_range="JPEG" if full else "MPEG",
        )
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("ffv1", rate=25)
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.color_range = 2 if full else 1
            plain = av.VideoFrame(size[1], size[0], "yuv420p")
            for target, source in zip(plain.planes, picture.planes, strict=True):
                target.update(bytes(source))
            plain.color_range = 2 if full else 1
            file.mux(stream.encode(plain))
            file.mux(stream.encode())
        with av.open(str(path)) as file:
            assert next(file.decode(video=0)).colorspace == 2  # unspecified
        assert difference(next(iter(open_video(path))), image) < 1.5

    def test_interlaced_fields_are_made_whole(self, tmp_path: Path) -> None:
        fields = textured(12, (64, 96), step=4)
        woven = []
        for first, second in zip(fields[::2], fields[1::2], strict=True):
            image = first.copy()
            image[1::2] = second[1::2]
            woven.append(image)
        path = encode(tmp_path / "a.mp4", woven, flags="+ildct+ilme", **{"x264-params": "tff=1"})

        def combing(image: np.ndarray) -> float:
            gray = image.mean(2)
            return float(np.abs(gray[1:-1:2] - (gray[:-2:2] + gray[2::2]) / 2).mean())

        video = open_video(path)
        found = list(video.frames())
        assert "is interlaced" in video.notes[0]
        assert [frame.time for frame in found] == [Fraction(index, 25) for index in range(6)]
        raw = list(open_video(path, deinterlace="off"))
        assert combing(found[3].image) < combing(raw[3]) / 2
        progressive = encode(tmp_path / "b.mp4", fields)
        assert open_video(progressive).notes == ()
        kept = list(open_video(progressive, deinterlace="off"))
        assert all(np.array_equal(a, b) for a, b in zip(kept, open_video(progressive), strict=True))
        assert len(list(open_video(progressive, deinterlace="on"))) == 12


class TestImageSequences:
    def write(self, folder: Path, *names: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, textured(len(names), (20, 24)), strict=True):
            write_image(folder / name, image)
        return folder

    @pytest.mark.parametrize("name", ["a[1]", "100%d", "best *", "?"])
    def test_signs_in_a_folder_are_just_its_name(self, tmp_path: Path, name: str) -> None:
        folder = self.write(tmp_path / name, "f1.png", "f2.png")
        for source in (folder, folder / "f%d.png", folder / "f*.png"):
            assert open_video(source).frame_count == 2
        clip = encode(tmp_path / f"{name}.mp4", textured(3))
        assert open_video(clip).frame_count == 3

    def test_a_name_that_looks_like_an_address_is_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("2026-11-26T12:30.mp4", "http:x.mp4", "pipe:1.gif"):
            kind = {"codec": "gif", "pixels": "rgb8"} if name.endswith("gif") else {}
            encode(tmp_path / f"whole.{name[-3:]}", textured(3), **kind).rename(tmp_path / name)
            video = open_video(name)
            assert (video.name, len(list(video))) == (name, 3)
        for name in ("", "a\0b.mp4"):
            with pytest.raises(VideoError, match="is no name of a video"):
                open_video(name)

    def test_hidden_files_are_left_alone(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path, "f1.png", "f2.png", ".f3.png", "._f1.png")
        assert open_video(folder).frame_count == 2
        assert open_video(folder / "*.png").frame_count == 2

    def test_gaps_are_named_and_numbers_kept(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path, "f008.png", "f009.png", "f011.png", "f012.png", "f020.png")
        with pytest.warns(VideoWarning, match=r"no frame 10, 13 to 19; there is no flow across"):
            video = open_video(folder)
        found = list(video.frames())
        assert [frame.number for frame in found] == [8, 9, 11, 12, 20]
        assert [frame.follows for frame in found] == [True, True, False, True, False]
        assert [frame.file for frame in found] == sorted(folder.iterdir())
        assert video.files == tuple(sorted(folder.iterdir()))

    def test_every_tenth_frame_is_no_gap(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path, "f10.png", "f20.png", "f30.png", "f40.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert [frame.number for frame in open_video(folder).frames()] == [10, 20, 30, 40]

    @pytest.mark.parametrize(
        "names",
        [
            ("left_1.png", "left_2.png", "right_1.png", "right_2.png"),
            ("1.png", "2.png", "1.jpg", "2.jpg"),
            ("cam0_1.png", "cam0_2.png", "cam1_1.png", "cam1_2.png"),
            ("f1_0.png", "f1_1.png", "f2_0.png", "f2_1.png", "f3_0.png", "f3_1.png"),
            ("cover.png", "f1.png", "f2.png"),
        ],
    )
    def test_two_series_are_refused_with_both_names(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        with pytest.raises(VideoError, match="series of images, such as") as caught:
            open_video(self.write(tmp_path, *names))
        assert sum(name in str(caught.value) for name in names) == 2

    @pytest.mark.parametrize(
        "names",
        [
            ("a.png", "b.png", "c.png"),
            ("10-59-58.png", "10-59-59.png", "11-00-00.png"),
            ("shot2_1.png", "shot2_2.png"),
        ],
    )
    def test_one_series(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        assert open_video(self.write(tmp_path, *names)).frame_count == len(names)

    def test_times_as_names_tell_nothing_of_gaps(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path, "1403636579763.png", "1403636579814.png", "1403636579863.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert all(frame.follows for frame in open_video(folder).frames())

    def test_numbers_of_a_pattern_are_digits_and_no_fewer_than_said(self, tmp_path: Path) -> None:
        names = ["0001.png", "0002.png", "12345.png", "00003.png", "004.png", "0001_mask.png", "._0001.png"]
        folder = self.write(tmp_path, *names)
        for pattern, found in {
            "%04d.png": ["0001.png", "0002.png", "12345.png"],
            "%5d.png": ["00003.png", "12345.png"],
            "%d.png": ["12345.png"],
            "%04d_mask.png": ["0001_mask.png"],
        }.items():
            with warnings.catch_warnings(action="ignore"):
                assert [path.name for path in open_video(folder / pattern).files] == found

    def test_a_pattern_takes_one_of_two_series(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path, "left_1.png", "left_2.png", "right_1.png", "right_12345.png")
        assert open_video(folder / "left_*.png").frame_count == 2
        assert open_video(folder / "right_%05d.png").frame_count == 1
        with pytest.raises(VideoError, match="there is no folder"):
            open_video(tmp_path / "none" / "*.png")

    def test_a_frame_of_another_size_is_named(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path, "f7.png", "f8.png")
        write_image(folder / "f8.png", textured(1, (20, 30))[0])
        with pytest.raises(VideoError, match=r"frame 2 .* 30x20 pixels, those before are 24x20: .*f8\.png"):
            list(open_video(folder))


class TestPipes:
    CODE = (
        "import sys\nfrom deqflow.io import open_video\n"
        "video = open_video(sys.argv[1])\nprint(video.name, video.size, len(list(video)))\nlist(video)\n"
    )

    @pytest.mark.parametrize("suffix", ["mkv", "y4m"])
    @pytest.mark.parametrize("source", ["-", "/dev/stdin"])
    @pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="no /dev/stdin here")
    def test_standard_input(self, tmp_path: Path, suffix: str, source: str) -> None:
        codec = "wrapped_avframe" if suffix == "y4m" else "libx264"
        path = encode(tmp_path / f"a.{suffix}", textured(30), codec=codec)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        command = [sys.executable, "-c", self.CODE, source]
        done = subprocess.run(
            command, input=path.read_bytes(), capture_output=True, env=environment, timeout=60
        )
        name = "standard input" if source == "-" else source
        assert done.stdout.decode() == f"{name} (48, 64) 30\n"
        assert f"{name} can be read only once" in done.stderr.decode()

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_named_pipe_is_opened_once(self, tmp_path: Path) -> None:
        data = encode(tmp_path / "a.mkv", textured(30)).read_bytes()
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
        writer.start()
        video = open_video(pipe)
        assert len(list(video)) == 30
        writer.join(timeout=10)
        with pytest.raises(VideoError, match="only once"):
            list(video)


class TestAnimations:
    DURATIONS = (100, 50, 850, 40, 500)

    def write(self, path: Path, images: list[np.ndarray], **options: Any) -> Path:
        first, *rest = map(Image.fromarray, images)
        kind = "PNG" if path.suffix in (".png", ".apng") else None
        durations = list(self.DURATIONS)
        first.save(path, kind, save_all=True, append_images=rest, duration=durations, loop=0, **options)
        return path

    @pytest.mark.parametrize(
        ("suffix", "options", "close"),
        [
            ("webp", {"lossless": True}, 0),
            ("avif", {"quality": 95, "subsampling": "4:4:4"}, 4),
            ("gif", {}, 1),
            ("apng", {}, 0),
            ("png", {}, 0),
        ],
    )
    def test_pictures_and_times(
        self, tmp_path: Path, suffix: str, options: dict[str, Any], close: int
    ) -> None:
        frames = textured(5)
        path = self.write(tmp_path / f"a.{suffix}", frames, **options)
        video = open_video(path)
        for _ in range(2):
            found = list(video.frames())
            assert [frame.time for frame in found] == [Fraction(n, 1000) for n in (0, 100, 150, 1000, 1040)]
            for frame, expected in zip(found, frames, strict=True):
                assert difference(frame.image, expected) <= close
        assert video.notes == ()
        assert [frame.number for frame in open_video(path, start=0.15, stride=2).frames()] == [3, 5]
        assert times(path, fps=10) == [Fraction(index, 10) for index in range(5)]

    @pytest.mark.parametrize(
        ("suffix", "options"), [("webp", {"lossless": True}), ("avif", {"quality": 95}), ("apng", {})]
    )
    def test_alpha(self, tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
        alpha = np.full((48, 64, 1), 128, np.uint8)
        frames = [
            np.concatenate((np.roll(image, index, 1), alpha), 2) for index, image in enumerate(corners(5))
        ]
        found = list(open_video(self.write(tmp_path / f"a.{suffix}", frames, **options)))
        assert len(found) == 5
        assert difference(found[2], (frames[2][..., :3] * (128 / 255)).astype(np.uint8)) < 4

    def test_a_damaged_webp(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "a.webp", textured(5), lossless=True)
        data = bytearray(path.read_bytes())
        last = data.rfind(b"ANMF")
        data[last + 40 :] = bytes(len(data) - last - 40)
        path.write_bytes(data)
        with pytest.warns(VideoWarning, match="4 of 5 announced frames read"):
            assert len(list(open_video(path))) == 4
        path.write_bytes(data[:20])
        with pytest.raises(VideoError, match="cut short"):
            open_video(path)

    def test_stills_have_one_frame(self, tmp_path: Path) -> None:
        for suffix in ("webp", "avif", "gif", "png", "jpg"):
            Image.fromarray(textured(1)[0]).save(tmp_path / f"a.{suffix}")
            assert len(list(open_video(tmp_path / f"a.{suffix}"))) == 1


class TestOpenEXR:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    @pytest.mark.parametrize("channels", ["RGB", "RGBA", "Y"])
    def test_linear_light_becomes_srgb(self, tmp_path: Path, dtype: type, channels: str) -> None:
        openexr = pytest.importorskip("OpenEXR")
        codes = np.arange(256, dtype=np.uint8).repeat(12).reshape(48, 64)
        value = codes / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        count = len(channels)
        for number in (1, 2):
            values = np.ascontiguousarray(np.repeat(linear[..., None], count, 2).squeeze().astype(dtype))
            values[0, 0], values[1, 1] = 7, -1
            header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
            openexr.File(header, {channels: values}).write(str(tmp_path / f"f{number}.exr"))
        expected = np.repeat(codes[..., None], 3, 2)
        expected[0, 0], expected[1, 1] = 255, 0
        for source in (tmp_path, tmp_path / "f*.exr"):
            first, second = open_video(source)
            assert np.array_equal(first, expected)
            assert np.array_equal(second, expected)

    def test_motion_vectors_are_no_picture(self, tmp_path: Path) -> None:
        pytest.importorskip("OpenEXR")
        for number in (1, 2):
            write_flow(tmp_path / f"f{number}.exr", np.zeros((20, 24, 2), np.float32))
        with pytest.raises(ImageError, match=r"f1\.exr is not an OpenEXR picture"):
            open_video(tmp_path)
        for number in (1, 2):
            write_image(tmp_path / f"f{number}.png", textured(2, (20, 24))[0])
        assert open_video(tmp_path).frame_count == 2
