"""Augmentation: what geometry does to flow and validity, exactly; what colors leave alone; what is drawn."""

from dataclasses import fields, replace
from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deqflow.data.augmentation import (
    Augmentation,
    brightened,
    contrasted,
    hue_turned,
    saturated,
)
from deqflow.data.datasets import DATASETS
from deqflow.data.datasets.catalog import augmentation_in
from deqflow.data.sample import Sample
from deqflow.data.transforms import cropped, flipped, hidden, resized
from deqflow.errors import ConfigError

AUGMENTATIONS = {
    f"{stage}, {name}": augmentation
    for name, family in DATASETS.items()
    for stage, augmentation in family.augmentation.items()
}
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.tuples(st.integers(24, 70), st.integers(24, 70))
MAPS = ("frame1", "frame2", "flow", "valid", "occlusion", "noc", "objects", "invalid")
PLAIN = Augmentation(
    crop=(32, 40),
    scale_probability=0,
    flip_horizontal=0,
    flip_vertical=0,
    brightness=0,
    contrast=0,
    saturation=0,
    hue=0,
    eraser_probability=0,
)
"""Crops and nothing else."""


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth picture, float (..., 3) in 27..227, of waves 20 pixels and longer."""
    waves = [np.sin(0.21 * x + 0.13 * y), np.cos(0.17 * x - 0.24 * y + 1), np.sin(0.3 * y + 2)]
    return np.stack([127 + 100 * wave for wave in waves], -1)


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return x, y


def affine(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix and an offset of a flow of a few pixels over a frame of SIZES."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.08, 0.08, (2, 2)), rng.uniform(-4, 4, 2)


def moved(matrix: np.ndarray, offset: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([x, y], -1) @ matrix.T + offset


def analytic(size: tuple[int, int], seed: int) -> Sample:
    """A pair whose every pixel is known by formula: frame1(p) = texture(p + flow(p)), frame2 = texture."""
    x, y = grid(*size)
    flow = moved(*affine(seed), x, y)
    frames = [texture(x + flow[..., 0], y + flow[..., 1]), texture(x, y)]
    frame1, frame2 = (np.rint(frame).astype(np.uint8) for frame in frames)
    return Sample(frame1, frame2, flow.astype(np.float32), np.ones(size, bool), name="analytic", index=3)


def noisy(size: tuple[int, int], seed: int, known: float = 0.6) -> Sample:
    """A pair of random values with every mask; flow is zero where it is unknown."""
    rng = np.random.default_rng(seed)
    valid = rng.random(size) < known
    occlusion = rng.random(size) < 0.3
    return Sample(
        rng.integers(0, 256, (*size, 3), np.uint8),
        rng.integers(0, 256, (*size, 3), np.uint8),
        np.where(valid[..., None], rng.normal(0, 5, (*size, 2)), 0).astype(np.float32),
        valid,
        occlusion=occlusion,
        noc=valid & ~occlusion,
        objects=rng.integers(0, 3, size, np.uint8),
        invalid=rng.random(size) < 0.1,
        subpixels=np.zeros((4, *size, 2), np.float32),
        name="noisy",
        sequence="s",
        index=7,
    )


def same(first: Sample, second: Sample, names: tuple[str, ...] = MAPS) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


def warp_error(sample: Sample, margin: int = 3) -> float:
    """Largest difference, in gray levels, of frame 1 and frame 2 along the flow, away from edges."""
    height, width = sample.valid.shape
    x, y = grid(height, width)
    to = np.stack([x, y], -1) + sample.flow
    warped = cv2.remap(
        sample.frame2.astype(np.float32), to[..., 0].astype(np.float32), to[..., 1].astype(np.float32),
        cv2.INTER_CUBIC,
    )  # fmt: skip
    inside = (
        sample.valid & (to.min(-1) >= margin) & (to[..., 0] < width - margin) & (to[..., 1] < height - margin)
    )
    inside &= (np.minimum(x, y) >= margin) & (x < width - margin) & (y < height - margin)
    difference = np.abs(sample.frame1 - warped)[inside]
    return float(difference.max()) if difference.size else 0.0


def landing(valid: np.ndarray, new: tuple[int, int]) -> dict[tuple[int, int], tuple[int, int]]:
    """For each pixel of the new size in which known ones fall, the one nearest to its center."""
    best: dict[tuple[int, int], tuple[float, int, int]] = {}
    size = valid.shape
    for y, x in np.argwhere(valid).tolist():
        row, column = (2 * y + 1) * new[0] // (2 * size[0]), (2 * x + 1) * new[1] // (2 * size[1])
        far = ((y + 0.5) * new[0] / size[0] - row - 0.5) ** 2 + (
            (x + 0.5) * new[1] / size[1] - column - 0.5
        ) ** 2
        best[row, column] = min(best.get((row, column), (9.0, 0, 0)), (round(far, 9), y, x))
    return {place: (y, x) for place, (_, y, x) in best.items()}


class TestResizing:
    @given(size=SIZES, new=SIZES, seed=SEEDS)
    def test_dense_flow_is_what_the_formula_says(
        self, size: tuple[int, int], new: tuple[int, int], seed: int
    ) -> None:
        result = resized(analytic(size, seed), *new, sparse=False)
        ratio = np.array([new[1] / size[1], new[0] / size[0]])
        x, y = grid(*new)
        x, y = (x + 0.5) / ratio[0] - 0.5, (y + 0.5) / ratio[1] - 0.5
        inside = (x >= 0) & (x <= size[1] - 1) & (y >= 0) & (y <= size[0] - 1)
        expected = moved(*affine(seed), x, y) * ratio
        assert result.valid.all()
        assert result.flow.dtype == np.float32
        np.testing.assert_allclose(result.flow[inside], expected[inside], atol=2e-4)
        if min(ratio) > 0.75:  # further down, waves alias
            difference = np.abs(result.frame2 - texture(x, y))[inside]
            assert difference.max() < 8

    @given(size=SIZES, new=SIZES, seed=SEEDS, known=st.sampled_from([0.05, 0.5, 0.9]))
    def test_flow_is_interpolated_where_it_can_be_and_scattered_elsewhere(
        self, size: tuple[int, int], new: tuple[int, int], seed: int, known: float
    ) -> None:
        assume(new != size)  # else nothing is resized at all
        whole = analytic(size, seed)
        valid = np.random.default_rng(seed).random(size) < known
        holes = replace(whole, flow=np.where(valid[..., None], whole.flow, np.float32(np.nan)), valid=valid)
        result, full = resized(holes, *new, sparse=False), resized(whole, *new, sparse=False)
        x, y = grid(*new)
        corners = np.ones(new, bool)
        for shift_x, shift_y in product((-1e-4, 1e-4), repeat=2):  # OpenCV's places are not exact
            source_x = np.clip((x + 0.5) * size[1] / new[1] - 0.5 + shift_x, 0, size[1] - 1)
            source_y = np.clip((y + 0.5) * size[0] / new[0] - 0.5 + shift_y, 0, size[0] - 1)
            for fx, fy in product((np.floor, np.ceil), repeat=2):
                corners &= valid[fy(source_y).astype(int), fx(source_x).astype(int)]
        interpolated = result.valid & (result.flow == full.flow).all(-1)
        assert interpolated[corners].all()
        assert not result.flow[~result.valid].any()
        scattered, ratio = landing(valid, new), np.array([new[1] / size[1], new[0] / size[0]], np.float32)
        for place, source in scattered.items():
            vector = whole.flow[source] * ratio
            assert result.valid[place]
            assert interpolated[place] or np.array_equal(result.flow[place], vector)
        for row, column in np.argwhere(result.valid & ~interpolated).tolist():
            assert (row, column) in scattered

    @pytest.mark.parametrize("known", [0.01, 0.05])
    def test_training_on_own_footage_keeps_sparse_flow(self, known: float) -> None:
        augmentation = replace(augmentation_in("custom", "custom"), crop=(64, 96), eraser_probability=0)
        for seed in range(50):
            sample = noisy((96, 128), seed, known)
            result = augmentation(sample, np.random.default_rng(seed))
            largest = 2 ** (2 * (0.6 + 0.2))  # of the area
            assert result.valid.mean() > 0.3 * known / largest

    @given(size=SIZES, new=SIZES, seed=SEEDS, known=st.sampled_from([0.02, 0.3, 1.0]))
    def test_sparse_flow_lands_where_brute_force_puts_it(
        self, size: tuple[int, int], new: tuple[int, int], seed: int, known: float
    ) -> None:
        sample = noisy(size, seed, known)
        result = resized(sample, *new, sparse=True)
        ratio = np.array([new[1] / size[1], new[0] / size[0]], np.float32)
        best = landing(sample.valid, new)
        assert {tuple(place) for place in np.argwhere(result.valid).tolist()} == set(best)
        for place, source in best.items():
            assert np.array_equal(result.flow[place], sample.flow[source] * ratio)
            for name in ("occlusion", "noc", "objects", "invalid"):
                assert getattr(result, name)[place] == getattr(sample, name)[source]
        assert not result.flow[~result.valid].any()
        assert not result.noc[~result.valid].any()

    @given(size=SIZES, factor=st.integers(1, 4), seed=SEEDS)
    def test_sparse_up_and_down_again_changes_nothing(
        self, size: tuple[int, int], factor: int, seed: int
    ) -> None:
        sample = noisy(size, seed)
        up = resized(sample, factor * size[0], factor * size[1], sparse=True)
        assert up.valid.sum() == sample.valid.sum()
        back = resized(up, *size, sparse=True)
        names = ("valid", "occlusion", "noc", "objects", "invalid")
        assert same(back, sample, names)
        np.testing.assert_allclose(back.flow, sample.flow, rtol=1e-6)

    @pytest.mark.parametrize("sparse", [False, True])
    def test_the_same_size_is_the_same_sample(self, sparse: bool) -> None:
        sample = noisy((30, 40), 0)
        assert resized(sample, 30, 40, sparse=sparse) is sample

    def test_masks_take_the_nearest_pixel(self) -> None:
        sample = noisy((8, 12), 1, known=1.0)
        result = resized(sample, 16, 36, sparse=False)
        for name in ("occlusion", "noc", "objects", "invalid"):
            expected = np.repeat(np.repeat(getattr(sample, name), 2, 0), 3, 1)
            assert np.array_equal(getattr(result, name), expected)
        assert result.subpixels is None


class TestFlips:
    @given(size=SIZES, seed=SEEDS, horizontal=st.booleans(), vertical=st.booleans())
    def test_twice_is_nothing(
        self, size: tuple[int, int], seed: int, horizontal: bool, vertical: bool
    ) -> None:
        sample = noisy(size, seed)
        once = flipped(sample, horizontal=horizontal, vertical=vertical)
        assert same(flipped(once, horizontal=horizontal, vertical=vertical), sample)
        assert same(once, sample) == (not horizontal and not vertical)

    def test_a_known_case(self) -> None:
        sample = noisy((3, 4), 0, known=1.0)
        result = flipped(sample, horizontal=True)
        assert np.array_equal(result.flow[1, 0], sample.flow[1, 3] * (-1, 1))
        result = flipped(sample, vertical=True)
        assert np.array_equal(result.flow[0, 1], sample.flow[2, 1] * (1, -1))
        assert np.array_equal(result.objects, sample.objects[::-1])


class TestCrops:
    @given(size=SIZES, seed=SEEDS, data=st.data())
    def test_are_windows_and_padding(self, size: tuple[int, int], seed: int, data: st.DataObject) -> None:
        sample = noisy(size, seed)
        top, left = (data.draw(st.integers(-20, side - 1)) for side in size)
        height, width = data.draw(
            st.tuples(st.integers(max(1, 1 - top), 90), st.integers(max(1, 1 - left), 90))
        )
        result = cropped(sample, top, left, height, width)
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        within = np.logical_and.outer((rows >= 0) & (rows < size[0]), (columns >= 0) & (columns < size[1]))
        nearest = np.ix_(rows.clip(0, size[0] - 1), columns.clip(0, size[1] - 1))
        assert np.array_equal(result.frame1, sample.frame1[nearest])
        assert np.array_equal(result.frame2, sample.frame2[nearest])
        assert np.array_equal(result.valid, sample.valid[nearest] & within)
        assert np.array_equal(result.flow, sample.flow[nearest] * within[..., None])
        for name in ("objects", "invalid"):
            assert np.array_equal(getattr(result, name), getattr(sample, name)[nearest] * within)
        x, y = grid(height, width)
        target = np.rint(np.stack([x, y], -1).astype(np.float32) + result.flow).astype(int)
        gone = np.ones((height, width), bool)
        for row, column in np.argwhere(within):
            to_x, to_y = target[row, column]
            gone[row, column] = not (0 <= to_x < width and 0 <= to_y < height and within[to_y, to_x])
        assert np.array_equal(result.occlusion, sample.occlusion[nearest] & within | gone & result.valid)
        assert np.array_equal(result.noc, sample.noc[nearest] & within & ~gone)

    def test_covered_targets_are_hidden(self) -> None:
        size = (20, 30)
        flow = np.full((*size, 2), (4, 2), np.float32)
        clear = np.zeros(size, bool)
        sample = Sample(*[np.zeros((*size, 3), np.uint8)] * 2, flow, ~clear, occlusion=clear)
        covered = clear.copy()
        covered[5:8, 10:14] = True
        result = hidden(sample, covered)
        expected = np.zeros(size, bool)
        expected[3:6, 6:10] = expected[18:] = expected[:, 26:] = True
        assert np.array_equal(result.occlusion, expected)
        assert result.noc is None


class TestColors:
    IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)

    def test_factors_of_one_change_nothing(self) -> None:
        for change in (brightened, contrasted, saturated):
            assert np.array_equal(change(self.IMAGE, 1.0), self.IMAGE)

    def test_what_each_of_them_does(self) -> None:
        image = np.array([[[10, 100, 200]]], np.uint8)
        assert brightened(image, 1.4).tolist() == [[[14, 140, 255]]]
        assert brightened(image, 0).tolist() == [[[0, 0, 0]]]
        gray = 0.299 * 10 + 0.587 * 100 + 0.114 * 200
        assert contrasted(image, 0).tolist() == [[[round(gray)] * 3]]
        assert np.abs(saturated(image, 0) - gray).max() < 1
        assert contrasted(image, 1.4).tolist() == [[[0, round(1.4 * 100 - 0.4 * gray), 246]]]
        for turns, expected in ((1 / 3, (1, 2, 0)), (-1 / 3, (2, 0, 1))):
            primary = hue_turned(np.eye(3, dtype=np.uint8)[None] * 255, turns)
            assert np.abs(primary[0] - 255.0 * np.eye(3)[list(expected)]).max() <= 6  # 1/256 of a turn
        grays = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
        assert np.array_equal(hue_turned(grays, 0.2), grays)

    @given(seed=SEEDS)
    def test_flow_is_left_alone(self, seed: int) -> None:
        sample = noisy((40, 50), seed)
        plain = replace(PLAIN, crop=(40, 50))
        colored = replace(
            plain, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.16, noise=9, noise_probability=1
        )
        left = tuple(name for name in MAPS if "frame" not in name)
        result = colored(sample, np.random.default_rng(seed))
        assert same(result, plain(sample, np.random.default_rng(seed)), left)
        assert not same(result, sample, ("frame1",))

    def test_both_frames_alike_or_each_alone(self) -> None:
        sample = noisy((40, 50), 0)
        sample = replace(sample, frame2=sample.frame1)
        colored = replace(PLAIN, crop=(40, 50), brightness=0.4, hue=0.1)
        for probability in (0, 1):
            result = replace(colored, asymmetric_probability=probability)(sample, np.random.default_rng(0))
            assert np.array_equal(result.frame1, result.frame2) == (probability == 0)


class TestEraser:
    @given(seed=SEEDS)
    def test_paints_frame_2_and_occludes(self, seed: int) -> None:
        sample = replace(noisy((60, 70), seed, known=1.0), flow=np.zeros((60, 70, 2), np.float32))
        eraser = replace(PLAIN, crop=(60, 70), eraser_probability=1, eraser_count=(1, 3), eraser_side=(5, 20))
        result = eraser(sample, np.random.default_rng(seed))
        assert same(result, sample, ("frame1", "flow", "valid", "objects", "invalid"))
        covered = result.occlusion & ~sample.occlusion
        changed = (result.frame2 != sample.frame2).any(-1)
        assert changed.any()
        assert not (changed & ~result.occlusion).any()
        assert np.array_equal(result.noc, sample.noc & ~covered)
        assert np.array_equal(result.noc, result.valid & ~result.occlusion)
        assert np.abs(result.frame2[changed] - sample.frame2.mean((0, 1))).max() <= 0.5

    def test_count_and_sides(self) -> None:
        sample = analytic((60, 70), 0)
        eraser = replace(PLAIN, crop=(60, 70), eraser_probability=1, eraser_count=(1, 1), eraser_side=(5, 7))
        sizes = set()
        for seed in range(200):
            result = eraser(sample, np.random.default_rng(seed))
            rows, columns = np.nonzero((result.frame2 != sample.frame2).any(-1))
            sizes.add((int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1))
        assert {(5, 5), (6, 6), (7, 7), (5, 7)} <= sizes
        assert max(max(sizes)) == 7


class TestAugmentation:
    @given(seed=SEEDS, sparse=st.booleans())
    def test_a_pair_still_warps(self, seed: int, sparse: bool) -> None:
        sample = analytic((96, 128), seed)
        before = warp_error(sample)
        assert before < 4  # rounding of the pictures, and interpolation
        geometry = replace(
            PLAIN,
            crop=(64, 80),
            sparse=sparse,
            scale=(-0.3, 0.8),
            scale_probability=1,
            stretch_probability=1,
            flip_horizontal=0.5,
            flip_vertical=0.5,
        )
        result = geometry(sample, np.random.default_rng(seed))
        assert result.valid.shape == (64, 80)
        # Sparse vectors sit up to half a pixel off their place; the flow changes by at most 0.16 per pixel
        # (twice 0.08), the picture by at most 30 levels.
        assert warp_error(result) < before + (5 if sparse else 2)

    @pytest.mark.parametrize("name", AUGMENTATIONS)
    def test_presets_give_their_size_and_the_same_again(self, name: str) -> None:
        augmentation = AUGMENTATIONS[name]
        sizes = [(375, 1242), (370, 1224)] if augmentation.sparse else [(384, 512), (540, 960)]
        for seed, size in enumerate(sizes):
            sample = noisy(size, 0)
            first, again = (augmentation(sample, np.random.default_rng([seed, 9])) for _ in range(2))
            assert same(first, again)
            for field in MAPS:
                values = getattr(first, field)
                assert values.shape[:2] == augmentation.crop
                assert values.dtype == getattr(sample, field).dtype
                assert values.flags.c_contiguous
            assert (first.name, first.sequence, first.index) == ("noisy", "s", 7)
            assert first.subpixels is None
            assert not (first.noc & ~first.valid).any()
            assert not first.flow[~first.valid].any()
            assert not same(first, augmentation(sample, np.random.default_rng([seed, 10])))

    def test_every_data_set_of_a_mixture_has_its_own_ranges(self) -> None:
        found = {name: augmentation_in("sintel", name) for name in ("sintel", "kitti-2015", "hd1k", "things")}
        scales = {name: (ranges.scale, ranges.sparse) for name, ranges in found.items()}
        assert scales == {
            "sintel": ((-0.2, 0.6), False),
            "kitti-2015": ((-0.3, 0.5), True),
            "hd1k": ((-0.5, 0.2), True),
            "things": ((-0.4, 0.8), False),
        }
        assert {ranges.crop for ranges in found.values()} == {(368, 768)}
        assert augmentation_in("kitti", "kitti-2012").crop == (288, 960)
        # Others are changed as the stage's own data set, and own footage as Sintel.
        assert augmentation_in("things", "sintel") == augmentation_in("things", "things")
        assert augmentation_in("custom", "custom") == augmentation_in("sintel", "sintel")

    def test_the_given_sample_stays_as_it_was(self) -> None:
        sample, copy = noisy((60, 70), 0), noisy((60, 70), 0)
        for seed in range(20):
            replace(augmentation_in("kitti", "kitti-2015"), crop=(32, 32), noise=5.0)(
                sample, np.random.default_rng(seed)
            )
        assert same(sample, copy)

    def test_samples_without_masks(self) -> None:
        result = replace(augmentation_in("things", "things"), crop=(32, 32))(
            analytic((60, 70), 0), np.random.default_rng(0)
        )
        assert all(getattr(result, name) is None for name in ("occlusion", "noc", "objects", "invalid"))

    @pytest.mark.parametrize("size", [(24, 70), (70, 24), (24, 24)])
    def test_frames_smaller_than_the_crop_are_padded_not_shrunk(self, size: tuple[int, int]) -> None:
        sample = analytic(size, 0)
        augmentation = replace(PLAIN, crop=(40, 40), scale=(-1, -1), scale_probability=1, stretch=0)
        for seed in range(10):
            result = augmentation(sample, np.random.default_rng(seed))
            assert result.valid.shape == (40, 40)
            assert result.valid.sum() == min(40, size[0]) * min(40, size[1])

    def test_a_frame_is_not_shrunk_below_the_crop(self) -> None:
        augmentation = replace(PLAIN, crop=(40, 40), scale=(-2, -2), scale_probability=1)
        for seed in range(10):
            assert augmentation(analytic((60, 70), 0), np.random.default_rng(seed)).valid.all()

    def test_what_is_drawn_covers_its_range(self) -> None:
        # Flow of one pixel tells the scales, the place in a ramp tells the corner.
        size = (64, 96)
        ramp = np.stack([*np.indices(size), np.zeros(size)], -1).astype(np.uint8)
        sample = Sample(ramp, ramp, np.ones((*size, 2), np.float32), np.ones(size, bool))
        wide = replace(PLAIN, scale=(-0.2, 0.6), scale_probability=0.8)
        flows = np.array([wide(sample, np.random.default_rng(seed)).flow[0, 0] for seed in range(300)])
        assert (flows == 1).all(1).mean() == pytest.approx(0.2, abs=0.08)
        assert np.log2(flows).min() == pytest.approx(-0.4, abs=0.1)
        assert np.log2(flows).max() == pytest.approx(0.8, abs=0.1)
        stretches = np.log2(flows[:, 0] / flows[:, 1])
        assert stretches.min() == pytest.approx(-0.4, abs=0.1)
        assert stretches.max() == pytest.approx(0.4, abs=0.1)
        corners = {
            tuple(PLAIN(sample, np.random.default_rng(seed)).frame1[0, 0, :2].tolist())
            for seed in range(1500)
        }
        assert {row for row, _ in corners} == set(range(33))
        assert {column for _, column in corners} == set(range(57))
        edges = replace(PLAIN, crop_margin=(33, 57))
        drawn = np.array([edges(sample, np.random.default_rng(seed)).frame1[0, 0, :2] for seed in range(300)])
        assert (drawn[:, 0] == 32).mean() == pytest.approx(34 / 66, abs=0.1)
        assert (drawn[:, 1] == 0).mean() == pytest.approx(58 / 171, abs=0.1)
        assert (drawn[:, 1] == 56).mean() == pytest.approx(58 / 171, abs=0.1)

    def test_flips_come_as_often_as_said(self) -> None:
        sample = analytic((40, 40), 0)
        flips = replace(PLAIN, crop=(40, 40), flip_horizontal=0.5, flip_vertical=0.1)
        signs = []
        for seed in range(300):
            u, v = flips(sample, np.random.default_rng(seed)).flow.mean((0, 1)) / sample.flow.mean((0, 1))
            signs.append((u < 0, v < 0))
        assert np.mean(signs, 0) == pytest.approx([0.5, 0.1], abs=0.08)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("crop", (8, 100)),
            ("scale", (0.5, 0.1)),
            ("scale", (float("nan"), 0.1)),
            ("scale_probability", 1.5),
            ("stretch", -0.1),
            ("flip_vertical", -1),
            ("crop_margin", (-1, 0)),
            ("contrast", 1.5),
            ("hue", 0.6),
            ("noise", -1),
            ("eraser_count", (0, 1)),
            ("eraser_side", (9, 5)),
        ],
    )
    def test_impossible_ranges_are_named(self, field: str, value: object) -> None:
        assert field in {known.name for known in fields(Augmentation)}
        with pytest.raises(ConfigError, match=f"augmentation: {field} must be"):
            replace(PLAIN, **{field: value})  # type: ignore[arg-type]
