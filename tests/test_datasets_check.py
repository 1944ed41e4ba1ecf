"""The check of what is on disk, headers against lengths, and the measurement of speed."""

from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
from dataset_files import (
    HEIGHT,
    MAKERS,
    WIDTH,
    make_chairs,
    make_list,
    make_middlebury,
    make_sintel,
    make_spring,
    run,
    write_frame,
    write_motion,
)
from hypothesis import given
from hypothesis import strategies as st

from deqflow.data.datasets import DATASETS, open_dataset
from deqflow.data.datasets.headers import pixel_size
from deqflow.errors import DataError, FlowFileError
from deqflow.io.flow_files import FLOW_FORMATS


class TestCheck:
    def test_what_is_there_against_the_official_counts(self, tmp_path, capsys):
        make_sintel(tmp_path / "MPI-Sintel")
        make_chairs(tmp_path / "FlyingChairs_release")
        code, out, _ = run(capsys, "datasets", "check", tmp_path)
        assert code == 0
        assert out.splitlines() == [
            "MPI-Sintel clean, training: 2 of 1041 pairs; masks: occlusion of 1, invalid of 1",
            f"  1 more lack a file, the first {tmp_path}/MPI-Sintel/training/clean/cave_2/frame_0011.png",
            "MPI-Sintel final, training: 2 of 1041 pairs; masks: occlusion of 1, invalid of 1",
            f"  1 more lack a file, the first {tmp_path}/MPI-Sintel/training/final/cave_2/frame_0011.png",
            "MPI-Sintel final, testing: 4 of 552 pairs",
            "FlyingChairs, training: 3 of 22232 pairs",
            "FlyingChairs, validation: 1 of 640 pairs",
            "FlyingChairs, all: 4 of 22872 pairs",
        ]

    def test_complete_is_said(self, tmp_path, capsys, monkeypatch):
        make_middlebury(tmp_path)
        family = replace(DATASETS["middlebury"], pairs={"training": 2, "testing": 2})
        monkeypatch.setitem(DATASETS, "middlebury", family)
        code, out, _ = run(capsys, "datasets", "check", tmp_path)
        assert code == 0
        assert out == "Middlebury, training: 2 pairs, complete\nMiddlebury, testing: 2 pairs, complete\n"

    @pytest.mark.parametrize("name", MAKERS)
    def test_every_data_set_is_recognized_and_sound(self, tmp_path, capsys, name):
        MAKERS[name](tmp_path)
        code, out, err = run(capsys, "datasets", "check", tmp_path)
        assert (code, err) == (0, "")
        assert out.count("pairs") >= len(open_dataset(name, tmp_path))
        assert "broken" not in out

    def test_a_list_of_pairs(self, tmp_path, capsys):
        code, out, _ = run(capsys, "datasets", "check", make_list(tmp_path, "csv"))
        assert code == 0
        assert out.startswith("pairs.csv, training: 4 pairs; masks: known of 1\n")

    def test_broken_files_are_named_once(self, tmp_path, capsys):
        training = make_sintel(tmp_path) / "training"
        flow = training / "flow/cave_2/frame_0001.flo"
        flow.write_bytes(flow.read_bytes()[:100])
        frame = training / "clean/cave_2/frame_0002.png"
        frame.write_bytes(frame.read_bytes()[:-20])
        write_frame(training / "final/cave_2/frame_0003.png", height=HEIGHT + 2)
        code, out, _ = run(capsys, "datasets", "check", tmp_path)
        assert code == 1
        broken = [line for line in out.splitlines() if line.startswith("  broken: ")]
        assert broken == [
            f"  broken: {frame}: it is a PNG image of 24x20 pixels without its end",
            f"  broken: {flow}: it says 24x20 pixels, 3852 bytes, but has 100",
            f"  broken: {training}/final/cave_2/frame_0003.png: it is 24x22 pixels, "
            "expected 24x20 as frame_0002.png is 24x20",
        ]
        assert out.endswith("3 broken files\n")

    def test_truth_of_spring_must_be_twice_as_large(self, tmp_path, capsys):
        path = make_spring(tmp_path) / "train/0001/flow_FW_left/flow_FW_left_0001.flo5"
        write_motion(path)
        code, out, _ = run(capsys, "datasets", "check", tmp_path, "--dataset", "spring")
        assert code == 1
        assert f"{path}: it is 24x20 pixels, expected 48x40 as frame_left_0001.png is 24x20" in out

    def test_a_missing_list_of_the_split_is_said_once(self, tmp_path, capsys):
        (make_chairs(tmp_path) / "FlyingChairs_train_val.txt").unlink()
        code, out, _ = run(capsys, "datasets", "check", tmp_path)
        assert code == 0
        assert out.count("FlyingChairs_train_val.txt is missing") == 1
        assert out.endswith("FlyingChairs, all: 4 of 22872 pairs\n")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["{root}/gone"], "gone does not exist: expected a data set"),
            (["{root}"], "holds no known data set: expected one of MPI-Sintel (training/flow/"),
            (["{root}", "--dataset", "sintle"], "there is no data set 'sintle'"),
        ],
    )
    def test_a_wrong_root_is_one_sentence_and_exit_code_2(self, tmp_path, capsys, arguments, message):
        filled = [argument.format(root=tmp_path) for argument in arguments]
        code, _, err = run(capsys, "datasets", "check", *filled)
        assert code == 2
        assert err.startswith("deqflow: error: ") and message in err
        assert err.count("\n") == 1

    def test_list(self, capsys):
        code, out, _ = run(capsys, "datasets", "list")
        assert code == 0
        assert "sintel: MPI-Sintel (training 1041, testing 552 pairs)" in out
        assert all(f"{name}: " in out for name in DATASETS)


class TestHeaders:
    @pytest.mark.parametrize("suffix", [*FLOW_FORMATS, ".ppm", ".jpg", ".bmp", ".pgm"])
    def test_sizes(self, tmp_path, suffix):
        path = tmp_path / f"file{suffix}"
        if suffix in FLOW_FORMATS:
            write_motion(path)
        else:
            cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3 if suffix != ".pgm" else 1), np.uint8))
        assert pixel_size(path) == (WIDTH, HEIGHT)

    @pytest.mark.parametrize("suffix", [*FLOW_FORMATS, ".ppm", ".jpg"])
    def test_no_beginning_of_a_file_passes(self, tmp_path, suffix):
        path = tmp_path / f"file{suffix}"
        (write_motion if suffix in FLOW_FORMATS else write_frame)(path)
        data = path.read_bytes()

        @given(length=st.integers(0, len(data) - 1))
        def refused(length: int) -> None:
            path.write_bytes(data[:length])
            with pytest.raises((DataError, FlowFileError), match=path.name):
                pixel_size(path)

        refused()

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(DataError, match=r"gone.flo: No such file"):
            pixel_size(tmp_path / "gone.flo")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.flo", b"PIEH" + np.array([-5, 4], "<i4").tobytes()),
            ("a.flo", b"x" * 40),
            ("a.pfm", b"P6\n3 4\n255\n"),
            ("a.pfm", b"PF\n0 4\n-1\n"),
            ("a.ppm", b"P3\n3 4\n255\n"),
            ("a.npy", b"\x93NUMPY\x01\x00\x05\x00{[(1\n"),
            ("a.flo5", b"\x89HDF\r\n\x1a\n" + b"\x00" * 100),
            ("a.png", b"GIF89a"),
        ],
    )
    def test_nonsense_is_refused(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises((DataError, FlowFileError), match=name):
            pixel_size(tmp_path / name)

    def test_arrays_of_another_shape_are_refused(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((3, 4), np.float32))
        with pytest.raises(DataError, match=r"a.npy: it holds an array of shape \(3, 4\)"):
            pixel_size(tmp_path / "a.npy")
        with h5py.File(tmp_path / "b.flo5", "w") as file:
            file["disparity"] = np.zeros((3, 4))
        with pytest.raises(DataError, match=r"b.flo5: it has no dataset 'flow' of its own"):
            pixel_size(tmp_path / "b.flo5")


class TestSpeed:
    def test_a_row_per_data_set_and_format(self, tmp_path, capsys):
        make_sintel(tmp_path)
        code, out, err = run(
            capsys, "datasets", "speed", "sintel", tmp_path, "--formats", ".flo5", ".png", "--samples", 1
        )
        assert (code, err) == (0, "")
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()[2:]]
        assert [row[:5] for row in rows] == [
            [f"MPI-Sintel {render}{what}", ".png", flow, "24x20", "1"]
            for render in ("clean", "final")
            for what, flow in (("", ".flo"), (" as .flo5", ".flo5"), (" as .png", ".png"))
        ]
        assert all(float(row[5]) > 0 for row in rows)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--split", "testing"], "MPI-Sintel final has no ground truth to read"),
            (["--samples", "0"], "--samples must be at least 1, got 0"),
            (["--formats", ".gif"], "--formats: '.gif' is none of .flo, .png"),
        ],
    )
    def test_options_that_do_not_hold(self, tmp_path, capsys, arguments, message):
        code, _, err = run(capsys, "datasets", "speed", "sintel", make_sintel(tmp_path), *arguments)
        assert code == 2
        assert message in err
