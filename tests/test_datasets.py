"""Data sets in their official layouts, made of tiny files; the check of what is on disk; the sample data."""

import csv
import json
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqflow.cli import main
from deqflow.data.datasets import DATASETS, PairDataset, find_benchmarks, open_dataset
from deqflow.data.datasets.headers import pixel_size
from deqflow.errors import DataError, FlowFileError
from deqflow.io.flow_files import FLOW_FORMATS, read_flow, write_flow
from deqflow.io.images import read_image, write_image

HEIGHT, WIDTH = 20, 24


def write_frame(path: Path, value: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """A frame whose first pixel tells which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[0, 0] = value
    write_image(path, image)
    return path


def write_motion(
    path: Path, u: float = 1, v: float = -2, valid: np.ndarray | None = None, scale: int = 1
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    flow = np.tile(np.array([u, v], np.float32), (scale * HEIGHT, scale * WIDTH, 1))
    write_flow(path, flow, valid)
    return path


def write_mask(path: Path, mask: np.ndarray, value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.where(mask, value, 0).astype(np.uint8))
    return path


def corner(rows: int, columns: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:rows, :columns] = True
    return mask


def names(dataset: PairDataset) -> list[str]:
    return [pair.name for pair in dataset.files]


def make_sintel(root: Path, renders=("clean", "final")) -> Path:
    training = root / "training"
    for number in (1, 2, 3, 10):
        for render in renders:
            write_frame(training / render / "cave_2" / f"frame_{number:04d}.png", number)
    for number in (1, 2, 10):
        write_motion(training / "flow" / "cave_2" / f"frame_{number:04d}.flo", number)
    write_mask(training / "occlusions" / "cave_2" / "frame_0002.png", corner(4, 5))
    write_mask(training / "invalid" / "cave_2" / "frame_0002.png", corner(1, 3))
    for scene, number in product(("market_1", "ambush_3"), (1, 2, 3)):
        write_frame(root / "test" / "final" / scene / f"frame_{number:04d}.png", number)
    return root


class TestSintel:
    def test_every_pass_that_is_there_is_a_data_set(self, tmp_path):
        clean, final = open_dataset("sintel", make_sintel(tmp_path))
        assert [clean.title, final.title] == ["MPI-Sintel clean", "MPI-Sintel final"]
        assert [clean.group, final.group] == ["Sintel clean", "Sintel final"]
        make_sintel(tmp_path, ["albedo"])
        assert [found.title for found in open_dataset("sintel", tmp_path)][2:] == ["MPI-Sintel albedo"]

    def test_a_pair_exists_where_flow_and_both_frames_do(self, tmp_path):
        clean, _ = open_dataset("sintel", make_sintel(tmp_path))
        assert names(clean) == ["cave_2 1", "cave_2 2"]
        assert [pair.name for pair in clean.incomplete] == ["cave_2 10"]
        assert clean.incomplete[0].missing() == tmp_path / "training/clean/cave_2/frame_0011.png"

    def test_masks_are_read_and_none_where_they_are_missing(self, tmp_path):
        first, second = open_dataset("sintel", make_sintel(tmp_path))[0]
        assert first.occlusion is None and first.invalid is None
        assert np.array_equal(second.occlusion, corner(4, 5))
        assert np.array_equal(second.invalid, corner(1, 3))
        assert second.valid.all()  # the published error counts every pixel
        assert (second.name, second.sequence, second.index) == ("cave_2 2", "cave_2", 2)
        assert (second.frame1[0, 0, 0], second.frame2[0, 0, 0], second.flow[0, 0, 0]) == (2, 3, 2)

    def test_the_test_split_has_frames_and_no_flow(self, tmp_path):
        (final,) = open_dataset("sintel", make_sintel(tmp_path), split="testing")
        assert names(final) == ["ambush_3 1", "ambush_3 2", "market_1 1", "market_1 2"]
        frame1, frame2 = final.files[1].read_frames()
        assert (frame1[0, 0, 0], frame2[0, 0, 0]) == (2, 3)
        with pytest.raises(DataError, match=r"ambush_3/frame_0001.png belongs to a test split"):
            final[0]

    def test_a_pass_without_a_pair_is_left_out(self, tmp_path):
        make_sintel(tmp_path)
        (tmp_path / "training/albedo").mkdir()
        assert len(open_dataset("sintel", tmp_path)) == 2


def make_kitti(root: Path, images: str, truths=("flow_occ", "flow_noc")) -> Path:
    for number in (0, 7):
        for frame in (9, 10, 11, 12):
            write_frame(root / "training" / images / f"{number:06d}_{frame:02d}.png", frame)
        for truth in truths:
            valid = corner(10, 10) if truth == "flow_occ" else corner(10, 4)
            write_motion(root / "training" / truth / f"{number:06d}_10.png", 3, 4, valid)
    for frame in (10, 11):
        write_frame(root / "testing" / images / f"000001_{frame:02d}.png", frame)
    return root


class TestKitti:
    def test_2015_with_all_its_masks(self, tmp_path):
        make_kitti(tmp_path, "image_2")
        write_mask(tmp_path / "training/obj_map/000007_10.png", corner(2, 2), value=3)
        (dataset,) = open_dataset("kitti-2015", tmp_path)
        assert names(dataset) == ["000000", "000007"]
        without, sample = dataset
        assert without.objects is None
        assert (sample.frame1[0, 0, 0], sample.frame2[0, 0, 0]) == (10, 11)
        assert np.array_equal(sample.valid, corner(10, 10))
        assert np.array_equal(sample.noc, corner(10, 4))
        assert np.array_equal(sample.objects, np.where(corner(2, 2), 3, 0))
        assert (sample.sequence, sample.index) == ("000007", 10)
        assert sample.flow[sample.valid].tolist() == [[3, 4]] * 100

    def test_2012_by_occluded_truth_or_the_other_alone(self, tmp_path):
        (dataset,) = open_dataset("kitti-2012", make_kitti(tmp_path / "whole", "colored_0"))
        assert (names(dataset)[0], dataset[0].valid.sum(), dataset[0].noc.sum()) == ("000000", 100, 40)
        (dataset,) = open_dataset("kitti-2012", make_kitti(tmp_path / "noc", "colored_0", ["flow_noc"]))
        assert (names(dataset)[0], dataset[0].valid.sum()) == ("000000 (noc)", 40)

    def test_2012_in_gray_where_colour_is_missing(self, tmp_path):
        (dataset,) = open_dataset("kitti-2012", make_kitti(tmp_path, "image_0"))
        assert dataset.files[0].frame1.parent.name == "image_0"

    @pytest.mark.parametrize(("name", "images"), [("kitti-2015", "image_2"), ("kitti-2012", "colored_0")])
    def test_testing(self, tmp_path, name, images):
        (dataset,) = open_dataset(name, make_kitti(tmp_path, images), split="testing")
        assert names(dataset) == ["000001"]
        assert dataset.files[0].flow is None


def make_chairs(root: Path) -> Path:
    for number in range(1, 5):
        for frame in (1, 2):
            write_frame(root / "data" / f"{number:05d}_img{frame}.ppm", frame)
        write_motion(root / "data" / f"{number:05d}_flow.flo", number)
    (root / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n1\n")
    return root


class TestChairs:
    def test_the_list_splits(self, tmp_path):
        make_chairs(tmp_path)
        (training,) = open_dataset("chairs", tmp_path)
        (validation,) = open_dataset("chairs", tmp_path, split="validation")
        assert (names(training), names(validation)) == (["00001", "00003", "00004"], ["00002"])
        assert validation[0].flow[0, 0].tolist() == [2, -2]

    def test_a_missing_list_is_said_in_one_sentence(self, tmp_path):
        (make_chairs(tmp_path) / "FlyingChairs_train_val.txt").unlink()
        with pytest.raises(
            DataError, match=r"FlyingChairs_train_val.txt is missing.*lmb.informatik"
        ) as error:
            open_dataset("chairs", tmp_path)
        assert "\n" not in str(error.value)
        assert len(open_dataset("chairs", tmp_path, split="all")[0]) == 4

    @pytest.mark.parametrize("content", ["", "1\n3\n", "0001_img1.ppm\n", "\xff"])
    def test_another_file_of_that_name_is_refused(self, tmp_path, content):
        (make_chairs(tmp_path) / "FlyingChairs_train_val.txt").write_text(content, encoding="latin-1")
        with pytest.raises(DataError, match="not the official list"):
            open_dataset("chairs", tmp_path)

    def test_chairs2(self, tmp_path):
        for folder, number in product(("train", "val"), (0, 12)):
            stem = tmp_path / folder / f"{number:07d}"
            for frame in (0, 1):
                write_frame(Path(f"{stem}-img_{frame}.png"), frame)
            write_motion(Path(f"{stem}-flow_01.flo"), number)
            write_motion(Path(f"{stem}-flow_10.flo"), -number)
        write_mask(tmp_path / "val" / "0000012-occ_01.png", corner(3, 3))
        assert names(open_dataset("chairs2", tmp_path)[0]) == ["0000000", "0000012"]
        without, sample = open_dataset("chairs2", tmp_path, split="validation")[0]
        assert without.occlusion is None
        assert np.array_equal(sample.occlusion, corner(3, 3))
        assert (sample.frame1[0, 0, 0], sample.frame2[0, 0, 0], sample.flow[0, 0, 0]) == (0, 1, 12)


def make_things(root: Path, renders=("clean", "final"), split="TRAIN") -> Path:
    for render, camera, number in product(renders, ("left", "right"), (6, 7, 8)):
        write_frame(
            root / f"frames_{render}pass" / split / "A" / "0000" / camera / f"{number:04d}.png", number
        )
    for camera, number in product(("left", "right"), (6, 7, 8)):
        truth = root / "optical_flow" / split / "A" / "0000"
        side = camera[0].upper()
        for direction, prefix in (("into_future", "IntoFuture"), ("into_past", "IntoPast")):
            u = number if direction == "into_future" else -number
            write_motion(truth / direction / camera / f"OpticalFlow{prefix}_{number:04d}_{side}.pfm", u)
    return root


class TestThings:
    def test_passes_cameras_and_directions(self, tmp_path):
        found = {dataset.title: dataset for dataset in open_dataset("things", make_things(tmp_path))}
        assert list(found) == [
            f"FlyingThings3D {render} {camera} {direction}"
            for render, camera, direction in product(
                ("clean", "final"), ("left", "right"), ("into_future", "into_past")
            )
        ]
        assert {dataset.group for dataset in found.values()} == {
            "FlyingThings3D clean",
            "FlyingThings3D final",
        }
        forward = found["FlyingThings3D clean left into_future"]
        assert [(s.frame1[0, 0, 0], s.frame2[0, 0, 0], s.flow[0, 0, 0]) for s in forward] == [
            (6, 7, 6),
            (7, 8, 7),
        ]
        backward = found["FlyingThings3D final right into_past"]
        assert [(s.frame1[0, 0, 0], s.frame2[0, 0, 0], s.flow[0, 0, 0]) for s in backward] == [
            (8, 7, -8),
            (7, 6, -7),
        ]

    def test_a_part_of_it(self, tmp_path):
        make_things(tmp_path, ["clean"], "TEST")
        for path in (tmp_path / "optical_flow").rglob("into_past/*/*.pfm"):
            path.unlink()
        with pytest.raises(DataError, match="FlyingThings3D clean left into_future"):
            open_dataset("things", tmp_path)
        titles = [dataset.title for dataset in open_dataset("things", tmp_path, split="testing")]
        assert titles == [f"FlyingThings3D clean {camera} into_future" for camera in ("left", "right")]


def make_hd1k(root: Path) -> Path:
    for folder, sequence, number in product(("hd1k_input", "hd1k_challenge"), (0, 35), (0, 1, 2)):
        write_frame(root / folder / "image_2" / f"{sequence:06d}_{number:04d}.png", number)
    for sequence, number in product((0, 35), (0, 1, 2)):
        write_motion(root / "hd1k_flow_gt/flow_occ" / f"{sequence:06d}_{number:04d}.png", number, 0)
    return root


class TestHD1K:
    @pytest.mark.parametrize("split", ["training", "testing"])
    def test_sequences_are_kept_apart(self, tmp_path, split):
        (dataset,) = open_dataset("hd1k", make_hd1k(tmp_path), split=split)
        assert [(pair.sequence, pair.index) for pair in dataset.files] == [
            ("000000", 0),
            ("000000", 1),
            ("000035", 0),
            ("000035", 1),
        ]
        assert (dataset.files[0].flow is None) == (split == "testing")
        assert not dataset.incomplete


def make_middlebury(root: Path) -> Path:
    for folder, scene, number in product(("other-data", "eval-data"), ("Venus", "Grove2"), (10, 11)):
        write_frame(root / folder / scene / f"frame{number}.png", number)
    for scene in ("Venus", "Grove2"):
        write_motion(root / "other-gt-flow" / scene / "flow10.flo", valid=~corner(3, 3))
    return root


class TestMiddlebury:
    def test_both_splits(self, tmp_path):
        (training,) = open_dataset("middlebury", make_middlebury(tmp_path))
        (testing,) = open_dataset("middlebury", tmp_path, split="testing")
        assert names(training) == names(testing) == ["Grove2", "Venus"]
        assert np.array_equal(training[0].valid, ~corner(3, 3))
        assert testing.files[0].flow is None


def make_spring(root: Path) -> Path:
    for split, camera, number in product(("train", "test"), ("left", "right"), (1, 2, 3)):
        write_frame(root / split / "0001" / f"frame_{camera}" / f"frame_{camera}_{number:04d}.png", number)
    for camera, direction, number in product(("left", "right"), ("FW", "BW"), (1, 2, 3)):
        name = f"flow_{direction}_{camera}"
        first, last = (1, 2) if direction == "FW" else (2, 3)
        if first <= number <= last:
            u = number if direction == "FW" else -number
            write_motion(root / "train" / "0001" / name / f"{name}_{number:04d}.flo5", u, scale=2)
    return root


class TestSpring:
    def test_cameras_and_directions(self, tmp_path):
        found = {dataset.title: dataset for dataset in open_dataset("spring", make_spring(tmp_path))}
        assert list(found) == ["Spring left FW", "Spring left BW", "Spring right FW", "Spring right BW"]
        assert [(s.frame1[0, 0, 0], s.frame2[0, 0, 0], s.flow[0, 0, 0]) for s in found["Spring left FW"]] == [
            (1, 2, 1),
            (2, 3, 2),
        ]
        assert [
            (s.frame1[0, 0, 0], s.frame2[0, 0, 0], s.flow[0, 0, 0]) for s in found["Spring right BW"]
        ] == [
            (3, 2, -3),
            (2, 1, -2),
        ]

    def test_truth_of_twice_the_resolution(self, tmp_path):
        path = make_spring(tmp_path) / "train/0001/flow_FW_left/flow_FW_left_0001.flo5"
        values = np.random.default_rng(1).normal(0, 9, (2 * HEIGHT, 2 * WIDTH, 2)).astype(np.float32)
        values[2, 5] = np.nan  # in pixel (1, 2)
        with h5py.File(path, "w") as file:
            file["flow"] = values
        sample = open_dataset("spring", tmp_path)[0][0]
        known = ~(corner(2, 3) & ~corner(1, 3) & ~corner(2, 2))
        assert np.array_equal(sample.valid, known)
        assert sample.subpixels.shape == (4, HEIGHT, WIDTH, 2)
        for number, (y, x) in enumerate(product((0, 1), (0, 1))):
            assert np.array_equal(sample.subpixels[number][known], values[y::2, x::2][known])
        assert np.array_equal(sample.flow[known], values[::2, ::2][known])

    def test_truth_of_the_frames_own_resolution_is_refused(self, tmp_path):
        path = make_spring(tmp_path) / "train/0001/flow_FW_left/flow_FW_left_0001.flo5"
        write_motion(path)
        with pytest.raises(DataError, match=r"flow_FW_left_0001.flo5 is 12x10 pixels"):
            open_dataset("spring", tmp_path)[0][0]

    def test_the_test_split(self, tmp_path):
        found = open_dataset("spring", make_spring(tmp_path), split="testing")
        assert [len(dataset) for dataset in found] == [2] * 4
        assert all(pair.flow is None for dataset in found for pair in dataset.files)


def make_tartanair(root: Path) -> Path:
    trajectory = root / "abandonedfactory" / "Easy" / "P001"
    for number in range(3):
        write_frame(trajectory / "image_left" / f"{number:06d}_left.png", number)
    for number in range(2):
        flow = write_motion(trajectory / "flow" / f"{number:06d}_{number + 1:06d}_flow.npy", number)
        mask = np.where(corner(2, 2), 100, 0).astype(np.uint8)
        np.save(flow.with_name(flow.name.replace("_flow", "_mask")), mask)
    return root


class TestTartanAir:
    def test_masked_pixels_are_not_valid(self, tmp_path):
        (dataset,) = open_dataset("tartanair", make_tartanair(tmp_path))
        assert [pair.name for pair in dataset.files] == [f"abandonedfactory/Easy/P001 {n}" for n in (0, 1)]
        assert np.array_equal(dataset[1].valid, ~corner(2, 2))
        assert dataset[1].flow[0, 5].tolist() == [1, -2]

    @pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04"])
    def test_a_broken_mask_is_named(self, tmp_path, content):
        mask = make_tartanair(tmp_path) / "abandonedfactory/Easy/P001/flow/000000_000001_mask.npy"
        mask.write_bytes(content)
        with pytest.raises(DataError, match=r"000000_000001_mask.npy"):
            open_dataset("tartanair", tmp_path)[0][0]

    def test_a_mask_of_another_size_is_named(self, tmp_path):
        mask = make_tartanair(tmp_path) / "abandonedfactory/Easy/P001/flow/000000_000001_mask.npy"
        np.save(mask, np.zeros((3, 4), np.uint8))
        with pytest.raises(DataError, match=r"mask.npy has shape \(3, 4\), expected .*\(20, 24\)"):
            open_dataset("tartanair", tmp_path)[0][0]


def make_custom(root: Path, suffix: str = ".flo") -> Path:
    for number in (1, 2, 10):  # natural order: 10 follows 2
        write_frame(root / "frames" / f"shot{number}.jpg", number)
        write_motion(root / "flow" / f"shot{number}{suffix}", number)
    write_mask(root / "masks" / "shot2.png", corner(7, 7))
    return root


def make_list(root: Path, kind: str) -> Path:
    frames = [write_frame(root / "clip" / f"{number}.png", number) for number in range(4)]
    rows = []
    for first, second in ((0, 1), (1, 2), (2, 3), (0, 2)):
        flow = write_motion(root / "truth" / f"{first}_{second}.flo", second - first)
        row = {"frame1": frames[first], "frame2": frames[second], "flow": flow}
        rows.append({name: path.relative_to(root).as_posix() for name, path in row.items()})
    rows[1]["mask"] = write_mask(root / "known.png", corner(5, 5)).name
    file = root / f"pairs.{kind}"
    if kind == "csv":
        with file.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, ["frame1", "frame2", "flow", "mask"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return file


class TestCustom:
    @pytest.mark.parametrize("suffix", FLOW_FORMATS)
    def test_folders_with_any_flow_format(self, tmp_path, suffix):
        (dataset,) = open_dataset("custom", make_custom(tmp_path / "mine", suffix))
        assert (dataset.title, names(dataset)) == ("mine", ["shot1", "shot2"])
        first, second = dataset
        assert second.flow[0, 0].tolist() == [2, -2]
        assert first.valid.all() and np.array_equal(second.valid, corner(7, 7))
        assert [(s.sequence, s.index) for s in (first, second)] == [("mine", 0), ("mine", 1)]

    def test_a_folder_per_sequence(self, tmp_path):
        for sequence, number in product(("b", "a2", "a10"), (1, 2)):
            write_frame(tmp_path / "frames" / sequence / f"{number}.png", number)
        for sequence in ("b", "a10"):
            write_motion(tmp_path / "flow" / sequence / "1.pfm")
        assert names(open_dataset("custom", tmp_path)[0]) == ["a10/1", "b/1"]
        testing = open_dataset("custom", tmp_path, split="testing")[0]
        assert names(testing) == ["a2/1", "a10/1", "b/1"]
        assert testing.files[0].flow is None

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_a_list(self, tmp_path, kind):
        (dataset,) = open_dataset("custom", make_list(tmp_path, kind))
        assert [sample.flow[0, 0, 0] for sample in dataset] == [1, 1, 1, 2]
        assert [sample.valid.sum() for sample in dataset][:2] == [HEIGHT * WIDTH, 25]
        assert names(dataset) == ["clip/0 to 1", "clip/1 to 2", "clip/2 to 3", "clip/0 to 2"]
        assert {pair.sequence for pair in dataset.files} == {"clip"}
        assert [pair.index for pair in dataset.files] == [0, 1, 2, 4]  # the last does not follow
        assert open_dataset("custom", tmp_path / f"pairs.{kind}", split="testing")[0].files[0].flow is None

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("a.csv", "frame1,flow\n", "a.csv has no column 'frame2'"),
            ("a.csv", "", "a.csv has no column 'frame1'"),
            (
                "a.csv",
                "frame1,frame2,flow\nx.png,y.png,z.flo\n",
                r"a.csv, line 2: the frame1 .*x.png does not",
            ),
            (
                "a.csv",
                "frame1,frame2\nin.png,in.png\n",
                "a.csv, line 2: no flow, expected frame1, frame2, flow",
            ),
            ("a.jsonl", '{"frame1": "in.png"}\n', "a.jsonl, line 1: no frame2"),
            ("a.jsonl", "[1]\n", "a.jsonl, line 1: expected a JSON object"),
            ("a.jsonl", "{\n", "a.jsonl cannot be read as a list of pairs"),
            ("a.jsonl", "\x00" * 9, "a.jsonl cannot be read as a list of pairs"),
            ("a.jsonl", "\n", "holds no complete pair"),
            ("a.txt", "in.png in.png", "a.txt is not a folder"),
        ],
    )
    def test_a_list_that_is_wrong_says_where(self, tmp_path, file, content, message):
        write_frame(tmp_path / "in.png")
        (tmp_path / file).write_text(content)
        with pytest.raises(DataError, match=message):
            open_dataset("custom", tmp_path / file)

    def test_a_folder_without_frames(self, tmp_path):
        with pytest.raises(DataError, match=r"frames is not a folder: expected frames/ and flow/"):
            open_dataset("custom", tmp_path)


MAKERS = {
    "sintel": make_sintel,
    "kitti-2015": lambda root: make_kitti(root, "image_2"),
    "kitti-2012": lambda root: make_kitti(root, "colored_0"),
    "middlebury": make_middlebury,
    "chairs": make_chairs,
    "things": make_things,
    "hd1k": make_hd1k,
    "spring": make_spring,
    "tartanair": make_tartanair,
    "custom": make_custom,
}


class TestAll:
    @pytest.mark.parametrize("name", MAKERS)
    def test_a_higher_index_means_that_the_frames_go_on(self, tmp_path, name):
        MAKERS[name](tmp_path)
        for split in DATASETS[name].splits:
            if name == "things" and split == "testing":
                continue
            for dataset in open_dataset(name, tmp_path, split=split):
                for first, second in pairwise(dataset.files):
                    goes_on = first.sequence == second.sequence and second.index == first.index + 1
                    assert goes_on == (first.frame2 == second.frame1)

    @pytest.mark.parametrize("name", MAKERS)
    def test_names_tell_the_pairs_of_a_data_set_apart(self, tmp_path, name):
        MAKERS[name](tmp_path)
        for dataset in open_dataset(name, tmp_path):
            assert len(set(names(dataset))) == len(dataset)

    @pytest.mark.parametrize("name", MAKERS)
    def test_every_sample_is_of_one_kind(self, tmp_path, name):
        MAKERS[name](tmp_path)
        for sample in (sample for dataset in open_dataset(name, tmp_path) for sample in dataset):
            assert sample.frame1.shape == sample.frame2.shape == (HEIGHT, WIDTH, 3)
            assert sample.flow.shape == (HEIGHT, WIDTH, 2)
            assert (sample.frame1.dtype, sample.flow.dtype) == (np.uint8, np.float32)
            for mask in (sample.valid, sample.occlusion, sample.noc, sample.invalid):
                assert mask is None or (mask.shape == (HEIGHT, WIDTH) and mask.dtype == bool)

    @pytest.mark.parametrize("name", [name for name in MAKERS if DATASETS[name].folder])
    def test_a_root_may_hold_it_under_its_official_name(self, tmp_path, name):
        MAKERS[name](tmp_path / DATASETS[name].folder)
        assert len(open_dataset(name, tmp_path)[0]) > 0
        assert open_dataset(name, tmp_path)[0].title in {d.title for d in find_benchmarks(tmp_path)}

    @pytest.mark.parametrize("name", DATASETS)
    def test_a_missing_root_is_named(self, tmp_path, name):
        with pytest.raises(DataError, match=r"gone is not a folder: expected .* in it") as error:
            open_dataset(name, tmp_path / "gone")
        assert DATASETS[name].tree in str(error.value)

    @pytest.mark.parametrize("name", set(DATASETS) - {"custom"})
    def test_an_empty_root_is_named(self, tmp_path, name):
        split = "all" if name == "chairs" else "training"
        with pytest.raises(DataError, match=f"{tmp_path.name}.* holds no complete pair of"):
            open_dataset(name, tmp_path, split=split)

    def test_names_and_splits_that_do_not_exist(self, tmp_path):
        with pytest.raises(DataError, match="no data set 'sintle', expected one of sintel, kitti-2015"):
            open_dataset("sintle", tmp_path)
        with pytest.raises(DataError, match="no split 'test', expected one of training, testing"):
            open_dataset("sintel", tmp_path, split="test")

    def test_a_name_outside_the_layout_is_named(self, tmp_path):
        make_sintel(tmp_path)
        write_motion(tmp_path / "training/flow/cave_2/frame_last.flo")
        with pytest.raises(DataError, match=r"frame_last.flo does not follow the layout"):
            open_dataset("sintel", tmp_path)

    def test_a_file_cut_short_is_named(self, tmp_path):
        path = make_sintel(tmp_path) / "training/flow/cave_2/frame_0001.flo"
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(FlowFileError, match=r"frame_0001.flo .* 24x20 pixels, 3852 bytes, but has 3844"):
            open_dataset("sintel", tmp_path)[0][0]

    def test_slices(self, tmp_path):
        (dataset,) = open_dataset("chairs", make_chairs(tmp_path))
        assert [sample.name for sample in dataset[1:]] == ["00003", "00004"]


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


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
    def test_every_data_set_is_recognised_and_sound(self, tmp_path, capsys, name):
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
    @given(part=st.floats(0, 1, exclude_max=True))
    def test_no_beginning_of_a_file_passes(self, tmp_path_factory, suffix, part):
        path = tmp_path_factory.mktemp("cut") / f"file{suffix}"
        (write_motion if suffix in FLOW_FORMATS else write_frame)(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises((DataError, FlowFileError), match=path.name):
            pixel_size(path)

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


@pytest.fixture(scope="module")
def made_sample(repository, tmp_path_factory):
    """The sample data, made anew."""
    import runpy

    root = tmp_path_factory.mktemp("made") / "sample"
    runpy.run_path(str(repository / "datasets" / "make_sample.py"))["main"](root)
    return root


class TestSampleData:
    def test_it_is_what_the_script_makes(self, repository, made_sample):
        shipped = repository / "datasets" / "sample"
        files = {path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()}
        assert files == {path.relative_to(made_sample) for path in made_sample.rglob("*") if path.is_file()}
        for file in files:
            if file.suffix == ".flo" or file.parent.name in ("flow_occ", "flow_noc"):
                for ours, theirs in zip(
                    read_flow(made_sample / file), read_flow(shipped / file), strict=True
                ):
                    assert np.allclose(ours, theirs, atol=1e-3), file
            else:
                # Another processor may round the last bit of a warped pixel differently.
                difference = read_image(made_sample / file).astype(int) - read_image(shipped / file)
                assert np.abs(difference).mean() < 0.1, file

    def test_it_is_small(self, repository):
        files = (repository / "datasets" / "sample").rglob("*")
        assert sum(path.stat().st_size for path in files if path.is_file()) < 2_000_000

    def test_sequences_go_on(self, repository):
        clean, final = open_dataset("sintel", repository / "datasets/sample/sintel")
        assert [(pair.sequence, pair.index) for pair in clean.files] == [
            ("shapes_1", 1),
            ("shapes_1", 2),
            ("shapes_1", 3),
            ("shapes_2", 1),
            ("shapes_2", 2),
        ]
        for sharp, soft in zip(clean, final, strict=True):
            assert np.array_equal(sharp.flow, soft.flow)
            assert not np.array_equal(sharp.frame1, soft.frame1)
            assert 0 < sharp.occlusion.mean() < 0.3

    def test_flow_takes_a_visible_point_to_the_same_colour(self, repository):
        for sample in open_dataset("sintel", repository / "datasets/sample/sintel")[0]:
            rows, columns = np.mgrid[: sample.flow.shape[0], : sample.flow.shape[1]].astype(np.float32)
            found = cv2.remap(
                sample.frame2,
                columns + sample.flow[..., 0],
                rows + sample.flow[..., 1],
                cv2.INTER_LINEAR,
            )
            error = np.abs(found.astype(int) - sample.frame1).mean(-1)
            still = np.abs(sample.frame2.astype(int) - sample.frame1).mean(-1)
            assert error[~sample.occlusion].mean() < 0.6 * still[~sample.occlusion].mean()

    def test_kitti_has_all_its_masks(self, repository):
        for sample in open_dataset("kitti-2015", repository / "datasets/sample/kitti-2015")[0]:
            assert 0.1 < sample.valid.mean() < 0.4
            assert (sample.noc <= sample.valid).all() and sample.noc.sum() < sample.valid.sum()
            assert 0 < (sample.objects > 0).mean() < 0.1

    @pytest.mark.parametrize(("folder", "splits"), [("sintel", 4), ("kitti-2015", 2)])
    def test_the_check_finds_it_sound(self, repository, capsys, folder, splits):
        code, out, _ = run(capsys, "datasets", "check", repository / "datasets/sample" / folder)
        assert code == 0
        assert len(out.splitlines()) == splits
