"""Synthetic scenes: exact flow, honest occlusion, the same pair for the same seed and index."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from deqflow.cli import main
from deqflow.data.synthetic import MOTIONS, SceneConfig, SyntheticScenes, Textures
from deqflow.data.synthetic.report import warp_back
from deqflow.data.synthetic.sequences import COURSES, positions
from deqflow.data.synthetic.textures import TextureCache
from deqflow.errors import ConfigError, DataError
from deqflow.geometry import backward_warp
from deqflow.io import write_image

HEIGHT, WIDTH = 192, 256


@pytest.fixture(scope="module")
def textures(shared_textures):
    """Some of each kind, so that they are decoded once and not for every scene."""
    every = Textures.from_folder(shared_textures)
    return Textures(every.photos[::8], every.objects[::8])


@pytest.fixture(scope="module")
def scenes(textures):
    return SyntheticScenes(textures, HEIGHT, WIDTH, seed=3)


def assert_same(one, other):
    for name in ("frame1", "frame2", "flow", "valid", "occlusion"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_pair_is_a_function_of_seed_and_index(textures, scenes):
    again = SyntheticScenes(textures, HEIGHT, WIDTH, seed=3)
    for index in (5, 2, 9):
        assert_same(again[index], scenes[index])
    other = SyntheticScenes(textures, HEIGHT, WIDTH, seed=4)
    assert not np.array_equal(other[5].frame1, scenes[5].frame1)
    assert not np.array_equal(scenes[6].frame1, scenes[5].frame1)


@pytest.mark.parametrize("size", [(64, 64), (96, 200), (33, 47)])
def test_shapes_and_kinds_of_numbers(size):
    sample = SyntheticScenes(Textures(), *size, seed=0)[1]
    for frame in (sample.frame1, sample.frame2):
        assert frame.shape == (*size, 3) and frame.dtype == np.uint8
    assert sample.flow.shape == (*size, 2) and sample.flow.dtype == np.float32
    assert sample.valid.shape == sample.occlusion.shape == size
    assert sample.valid.dtype == sample.occlusion.dtype == bool
    assert np.isfinite(sample.flow[sample.valid]).all()


def away_from_edges(surfaces):
    """Pixels two or more from the edge of a surface."""
    kernel = np.ones((5, 5), np.uint8)
    return cv2.dilate(surfaces, kernel) == cv2.erode(surfaces, kernel)


def visible_interior(sample, recipe):
    """Pixels that are seen in both frames and away from edges in both."""
    interior = [away_from_edges(surfaces) for surfaces in recipe.surfaces]
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    target = np.stack([x, y], axis=-1) + np.nan_to_num(sample.flow)
    inside = (target >= 0).all(-1) & (target[..., 0] <= WIDTH - 1) & (target[..., 1] <= HEIGHT - 1)
    # The point must be away from edges in frame 2 as well: bilinear sampling mixes over them there.
    there = cv2.remap(interior[1].astype(np.float32), target[..., 0], target[..., 1], cv2.INTER_LINEAR)
    return sample.valid & ~sample.occlusion & inside & interior[0] & (there > 0.999)


@pytest.mark.parametrize("motion", ["usual", "fast"])
def test_frame_2_warped_by_the_flow_is_frame_1_where_visible(textures, motion):
    plain = SyntheticScenes(textures, HEIGHT, WIDTH, seed=11, config=MOTIONS[motion].without_appearance())
    total, count, kinds = 0.0, 0, set()
    for index in range(40):
        sample, recipe = plain.render(index)
        chosen = visible_interior(sample, recipe)
        if chosen.sum() < 500:
            continue
        gap = np.abs(warp_back(sample).astype(float) - sample.frame1).mean(axis=2)[chosen]
        total, count = total + gap.sum(), count + gap.size
        kinds |= {recipe.kind} | recipe.effects
        # Bilinear sampling of fine texture at half pixels is never exact; a wrong flow is off by tens.
        assert gap.mean() < 5, (index, recipe.kind)
    assert {"layered", "planes"} <= kinds
    assert (motion == "fast") == ({"limbs", "dart"} <= kinds)
    assert total / count < 2


def test_the_frame_before_changes_nothing_else_and_often_goes_the_same_way(textures):
    plain = MOTIONS["fast"].without_appearance()
    scenes = SyntheticScenes(textures, HEIGHT, WIDTH, seed=11, config=plain, history=True, bidirectional=True)
    alone = SyntheticScenes(textures, HEIGHT, WIDTH, seed=11, config=plain, bidirectional=True)
    same_way = still = 0
    for index in range(16):
        sample, recipe = scenes.render(index)
        assert_same(sample, alone[index])
        np.testing.assert_array_equal(sample.backward, alone[index].backward)
        assert alone[index].before is None
        assert sample.before.shape == sample.frame1.shape and sample.before.dtype == np.uint8
        if recipe.kind == "still":
            np.testing.assert_array_equal(sample.before, sample.frame1)
            continue
        # Flow from the frame before to frame 1, where it is that of frame 1 to frame 2 in the same place.
        flow = torch.from_numpy(sample.flow).permute(2, 0, 1)[None]
        frame1 = torch.from_numpy(sample.frame1).permute(2, 0, 1)[None].float()
        warped = backward_warp(frame1, flow)[0][0].permute(1, 2, 0).numpy()
        gap = np.median(np.abs(warped - sample.before))
        same_way += gap < np.median(np.abs(sample.frame1.astype(float) - sample.before))
        still += np.median(np.abs(sample.frame1.astype(float) - sample.before)) < 0.5
    assert same_way >= 4 and still >= 1


def test_a_sequence_is_one_scene_whose_frames_follow_each_other(textures):
    plain = replace(MOTIONS["fast"].without_appearance(), tiny_probability=0.0)
    scenes = SyntheticScenes(textures, HEIGHT, WIDTH, seed=6, config=plain)
    again = SyntheticScenes(textures, HEIGHT, WIDTH, seed=6, config=plain)
    seen, lengths, total, count = set(), set(), 0.0, 0
    for index in range(40):
        samples, _ = scenes.sequence(index)
        assert [sample.index for sample in samples] == list(range(len(samples)))
        assert all(np.array_equal(one.frame2, other.frame1) for one, other in pairwise(samples))
        seen.add(samples[0].sequence)
        lengths.add(len(samples) + 1)
        if index < 4:
            for one, other in zip(samples, again.sequence(index)[0], strict=True):
                assert_same(one, other)
        unknown = [sample.index for sample in samples if not sample.known]
        assert len(unknown) == (samples[0].sequence == "cut")
        for sample in samples:
            visible = sample.valid & ~sample.occlusion
            if visible.sum() < 500:
                continue
            gap = np.abs(warp_back(sample).astype(float) - sample.frame1).mean(axis=2)[visible]
            total, count = total + np.median(gap), count + 1
            assert np.median(gap) < 6, (index, sample.index)
    assert {"steady", "stop", "start", "twos", "cut"} <= seen and lengths == set(range(3, 9))
    assert total / count < 1.5


def test_courses_move_as_they_are_called():
    rng = np.random.default_rng(0)
    for name, course in COURSES.items():
        for count in (1, 2, 7):
            speeds = course(rng, count)
            assert speeds.shape == (count,) and np.abs(speeds).max() <= 1.8, name
    assert set(COURSES["twos"](rng, 6)) == {0, 1}
    stop, start = COURSES["stop"](rng, 7), COURSES["start"](rng, 7)
    assert stop[0] == 1 and stop[-1] == 0 and start[0] == 0 and start[-1] == 1
    assert {1, -1} == set(COURSES["reversal"](rng, 7))
    where = positions(rng, "steady", range(40), 5)
    assert np.allclose(np.diff(where[0]), 1) and where[0].mean() == 0.5
    own = sum(where[group] is not where[0] for group in range(1, 40))
    assert 3 < own < 20


def test_the_flow_back_undoes_the_flow_there(textures):
    plain = replace(SceneConfig().without_appearance(), background_deformation_probability=0.5)
    scenes = SyntheticScenes(textures, HEIGHT, WIDTH, seed=11, config=plain, bidirectional=True)
    one_way = SyntheticScenes(textures, HEIGHT, WIDTH, seed=11, config=plain)
    seen = set()
    for index in range(20):
        sample, recipe = scenes.render(index)
        assert_same(sample, one_way[index])
        assert one_way[index].backward is None
        chosen = visible_interior(sample, recipe)
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        target = np.stack([x, y], axis=-1) + np.nan_to_num(sample.flow)
        back = cv2.remap(sample.backward, target, None, cv2.INTER_LINEAR)
        gap = np.linalg.norm(back + sample.flow, axis=2)[chosen]
        assert sample.backward_valid.dtype == bool and sample.backward_valid.any()
        if gap.size:
            # What is left is bilinear interpolation of a smooth field, and the edge of a rounded matte.
            assert np.median(gap) < 0.01 and np.quantile(gap, 0.95) < 0.1, (index, recipe.kind)
            seen |= recipe.effects | {recipe.kind}
    assert {"layered", "planes", "deformation", "background deformation"} <= seen


def test_the_flow_of_what_was_painted_over_is_unknown(textures):
    config = SceneConfig(eraser_probability=1.0)
    for index in range(4):
        sample = SyntheticScenes(textures, 64, 96, seed=2, config=config, bidirectional=True)[index]
        assert 0.3 < sample.backward_valid.mean() < 1


def test_occluded_points_are_covered_or_outside(textures):
    plain = SyntheticScenes(textures, HEIGHT, WIDTH, seed=12, config=SceneConfig().without_appearance())
    outside_seen = covered_seen = 0
    for index in range(12):
        sample, recipe = plain.render(index)
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        column, row = (np.rint(a + sample.flow[..., i]) for i, a in enumerate((x, y)))
        inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT) & sample.valid
        far_outside = sample.valid & ((column < -1) | (column > WIDTH) | (row < -1) | (row > HEIGHT))
        assert sample.occlusion[far_outside].all()
        there = row[inside].astype(int), column[inside].astype(int)
        other = recipe.surfaces[1][there] != recipe.surfaces[0][inside]
        nearer = np.zeros_like(inside)
        nearer[inside] = other & away_from_edges(recipe.surfaces[1])[there]
        assert sample.occlusion[nearer].all()
        outside_seen += int(far_outside.sum())
        covered_seen += int(nearer.sum())
    assert outside_seen > 1000 and covered_seen > 1000


def test_without_appearance_the_scene_stays(textures):
    plain = SyntheticScenes(textures, HEIGHT, WIDTH, seed=3, config=SceneConfig().without_appearance())
    still = SceneConfig(motion_blur_probability=0.0)
    styled = SyntheticScenes(textures, HEIGHT, WIDTH, seed=3, config=still)
    for index in range(4):
        np.testing.assert_allclose(plain[index].flow, styled[index].flow, atol=1e-4)


class TestTextures:
    def picture(self, path, *, alpha=False, size=80):
        rgb = np.random.default_rng(0).integers(0, 256, (size, size, 4 if alpha else 3), dtype=np.uint8)
        if alpha:
            rgb[: size // 2, :, 3] = 0
            cv2.imwrite(str(path), rgb)
        else:
            write_image(path, rgb)

    def test_a_plain_folder_is_sorted_into_photos_and_cut_outs(self, tmp_path):
        (tmp_path / "deep").mkdir()
        self.picture(tmp_path / "deep" / "a.png")
        self.picture(tmp_path / "b.png", alpha=True)
        for name in ("deep/._a.png", "._b.png", ".trash/c.png"):  # companions that macOS leaves, and the like
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"\0\5\x16\7")
        found = Textures.from_folder(tmp_path)
        assert [path.name for path in found.photos] == ["a.png"]
        assert [path.name for path in found.objects] == ["b.png"]
        assert SyntheticScenes(found, 64, 64, seed=0)[0].frame1.std() > 0

    def test_a_manifest_chooses(self, tmp_path):
        for name in ("a.png", "b.png"):
            self.picture(tmp_path / name)
        (tmp_path / "manifest.tsv").write_text("path\tpermissive\na.png\tyes\nb.png\tno\n")
        assert [path.name for path in Textures.from_folder(tmp_path).photos] == ["a.png"]
        assert len(Textures.from_folder(tmp_path, permissive_only=False).photos) == 2

    def test_wrong_folders_are_named(self, tmp_path):
        with pytest.raises(DataError, match="nowhere"):
            Textures.from_folder(tmp_path / "nowhere")
        with pytest.raises(DataError, match="no image"):
            Textures.from_folder(tmp_path)
        (tmp_path / "manifest.tsv").write_text("name\nx\n")
        with pytest.raises(DataError, match=r"manifest\.tsv"):
            Textures.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"jpeg_probability": 1.5}, "jpeg_probability"),
        ({"objects": (5, 2)}, "objects"),
        ({"planes_probability": 0.9, "rush_probability": 0.9}, "kinds of scene"),
        ({"rotation": -1.0}, "rotation"),
    ],
)
def test_impossible_configurations_are_named(changes, named):
    with pytest.raises(ConfigError, match=named):
        SceneConfig(**changes)


def test_frames_below_32_pixels_are_refused():
    with pytest.raises(ConfigError, match="32x32"):
        SyntheticScenes(Textures(), 31, 64, seed=0)


def test_the_report_prints_statistics_and_writes_a_sheet(tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    words = ["scenes", "--samples", "9", "--height", "64", "--width", "80", "--output", str(sheet)]
    assert main([*words, "--scenes", "large", "--sequences", "3"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "median |flow|",
        "on average at 512 px",
        "limbs",
        "courses",
        "pixels beyond 100 px",
        "pixels occluded",
        "effects",
        "ms per pair",
    ):
        assert word in printed
    assert cv2.imread(str(sheet)).shape[1] == 5 * 48
    assert "sequences: 3, mean" in printed
    assert main(words) == 2  # not overwritten unasked
    assert main([*words, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("float.tiff", lambda rgb: (rgb / 255).astype(np.float32)),
        ("float255.tiff", lambda rgb: rgb.astype(np.float32)),
        ("deep.png", lambda rgb: rgb.astype(np.uint16) * 257),
        ("gray.png", lambda rgb: rgb),
    ],
)
def test_a_texture_of_any_depth_is_as_bright_as_it_looks(tmp_path, name, values):
    gray = cv2.resize(np.array([[0, 200], [90, 255]], np.uint8), (32, 24))
    cv2.imwrite(str(tmp_path / name), values(gray))
    found = Textures.from_folder(tmp_path)
    assert found.photos == (tmp_path / name,)
    photo = TextureCache(side=64).photo(tmp_path / name)[0]
    assert np.array_equal(photo, np.repeat(gray[..., None], 3, axis=2))
