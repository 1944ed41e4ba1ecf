"""Metrics against cases computed by hand, and totals against all pixels at once."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqflow.data.sample import Sample
from deqflow.errors import DataError
from deqflow.evaluation.metrics import REGIONS, ErrorSums, end_point_error, measure_sample
from deqflow.evaluation.results import SampleResult
from deqflow.evaluation.summary import Total

HEIGHT, WIDTH = 24, 32


def constant_flow(u: float, v: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.tile(np.array([u, v], np.float32), (height, width, 1))


def measure(flow: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> ErrorSums:
    """Errors over all valid pixels."""
    return measure_sample(flow, sample_of(truth, **({} if valid is None else {"valid": valid})))["all"]


def row_of(*motions: float) -> np.ndarray:
    """A frame of one row of pixels that move to the right."""
    return np.array([[[u, 0.0] for u in motions]], np.float32)


def sample_of(flow: np.ndarray, **masks: object) -> Sample:
    frame = np.zeros((*flow.shape[:2], 3), np.uint8)
    masks.setdefault("valid", np.ones(flow.shape[:2], bool))
    return Sample(frame, frame, flow, name="a pair", **masks)  # type: ignore[arg-type]


def total_of(*pairs: dict[str, ErrorSums]) -> Total:
    """A method's errors on pairs of a data set that averages over images."""
    kind = {"method": "m", "dataset": "d", "group": "g", "width": 1, "height": 1}
    return Total.of([SampleResult(name=str(n), regions=regions, **kind) for n, regions in enumerate(pairs)])


class TestOnePair:
    def test_end_point_error_is_the_euclidean_distance(self):
        assert end_point_error(constant_flow(4, 5), constant_flow(1, 1)) == pytest.approx(5.0)

    def test_invalid_pixels_never_count_whatever_they_hold(self):
        truth = constant_flow(0, 0)
        truth[:3] = np.nan
        flow = constant_flow(2, 0)
        flow[:3] = np.inf
        valid = np.ones((HEIGHT, WIDTH), bool)
        valid[:3] = False
        errors = measure(flow, truth, valid)
        assert errors.pixels == (HEIGHT - 3) * WIDTH
        assert errors.nonfinite == 0
        assert errors.epe_image == 2.0
        assert [errors.metrics("all")[name] for name in ("1px", "3px", "5px")] == [100.0, 0.0, 0.0]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_estimates_that_are_not_finite_are_counted_and_not_averaged_away(self, value):
        flow = constant_flow(0, 0)
        flow[0, 0, 1] = value
        errors = measure(flow, constant_flow(0, 0))
        assert errors.nonfinite == 1
        assert math.isnan(errors.epe_image)
        assert (errors.over_1px, errors.over_3px, errors.over_5px) == (1, 1, 1)
        assert errors.fl == 1
        assert errors.wauc == 5050 * (HEIGHT * WIDTH - 1)

    def test_outliers_are_strictly_beyond_the_threshold(self):
        errors = measure(row_of(0, 1, 1.5, 3, 4, 5, 6), row_of(*[0] * 7))
        assert (errors.over_1px, errors.over_3px, errors.over_5px) == (5, 3, 1)
        assert errors.metrics("all")["3px"] == pytest.approx(300 / 7)

    def test_fl_needs_three_pixels_and_five_percent(self):
        # Errors 4, 4, 2.5, 5 px on motions of 100, 79, 10, 100 px: only the second is beyond both limits.
        truth = np.array([[[100, 0], [79, 0], [10, 0], [100, 0]]], np.float32)
        flow = truth + np.array([[[4, 0], [0, 4], [2.5, 0], [-5, 0]]], np.float32)
        errors = measure(flow, truth)
        assert errors.fl == 1
        assert errors.metrics("all")["fl_all"] == 25.0

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (0.0, 100.0),
            (0.05, 100.0),  # within the first threshold: all of them
            (0.0625, 100 * 4950 / 5050),  # beyond the first, whose weight is 1 of 50.5
            (2.5, 100 * 51 * 52 / (100 * 101)),  # thresholds 50..100 with weights 0.51, 0.50, ..., 0.01
            (5.0, 100 * 1 / 5050),  # within the last one only, whose weight is 0.01
            (5.01, 0.0),
        ],
    )
    def test_wauc_of_a_single_error(self, error, expected):
        # Thresholds are multiples of 0.05, which float32 estimates do not hold exactly.
        flow = np.array([[[error, 0.0]]])
        assert measure(flow, np.zeros_like(flow)).metrics("all")["wauc"] == pytest.approx(expected, abs=1e-9)

    @given(st.lists(st.floats(0, 8), min_size=1, max_size=30))
    def test_wauc_is_the_weighted_mean_of_inlier_rates(self, errors):
        flow = np.array([[[error, 0.0] for error in errors]])
        thresholds = np.arange(1, 101) / 20
        weights = 1 - np.arange(100) / 100
        inliers = [(np.array(errors) <= threshold).mean() for threshold in thresholds]
        expected = 100 * np.average(inliers, weights=weights)
        assert measure(flow, np.zeros_like(flow)).metrics("all")["wauc"] == pytest.approx(expected, abs=1e-9)

    def test_shapes_that_differ_are_named(self):
        with pytest.raises(DataError, match=r"\(24, 32, 2\).*\(24, 31, 2\)"):
            measure(constant_flow(0, 0), constant_flow(0, 0, width=31))
        with pytest.raises(DataError, match="valid mask of a pair has shape"):
            measure(constant_flow(0, 0), constant_flow(0, 0), np.ones((3, 3), bool))
        with pytest.raises(DataError, match=r"noc mask of a pair has shape \(1, 2\)"):
            measure_sample(row_of(0), sample_of(row_of(0), noc=np.ones((1, 2), bool)))


class TestRegions:
    def test_displacement_bins_include_their_lower_end(self):
        truth = row_of(0, 9.9, 10, 39.9, 40, 400)
        regions = measure_sample(truth + row_of(1, 1, 2, 2, 3, 3), sample_of(truth))
        assert list(regions) == ["all", "s0-10", "s10-40", "s40+"]
        for name, epe in (("s0-10", 1.0), ("s10-40", 2.0), ("s40+", 3.0), ("all", 2.0)):
            assert regions[name].epe_image == pytest.approx(epe, abs=1e-4)

    def test_occlusion_splits_pixels_into_matched_and_unmatched(self):
        occlusion = np.array([[False, True, True]])
        valid = np.array([[True, True, False]])
        sample = sample_of(row_of(0, 0, 0), occlusion=occlusion, valid=valid)
        regions = measure_sample(row_of(1, 7, 100), sample)
        assert (regions["matched"].pixels, regions["matched"].epe_image) == (1, 1.0)
        assert (regions["unmatched"].pixels, regions["unmatched"].epe_image) == (1, 7.0)

    def test_kitti_masks_make_foreground_and_background_of_all_and_of_noc(self):
        objects = np.array([[0, 0, 3, 1]], np.uint8)
        noc = np.array([[True, False, True, False]])
        sample = sample_of(row_of(0, 0, 0, 0), objects=objects, noc=noc)
        regions = measure_sample(row_of(1, 4, 5, 2), sample)
        assert {
            name: regions[name].metrics(name)[f"fl_{name}"]
            for name in ("all", "fg", "bg", "noc", "noc-fg", "noc-bg")
        } == {
            "all": 50.0,
            "fg": 50.0,
            "bg": 50.0,
            "noc": 50.0,
            "noc-fg": 100.0,
            "noc-bg": 0.0,
        }
        assert regions["noc"].epe_image == 3.0
        assert list(regions) == [name for name in REGIONS if name in regions]

    def test_of_four_values_of_ground_truth_in_a_pixel_the_nearest_counts(self):
        subpixels = np.stack([row_of(0, np.nan), row_of(3, 2), row_of(5, np.nan), row_of(9, 7)])
        regions = measure_sample(row_of(4.5, 3), sample_of(row_of(0, 2), subpixels=subpixels))
        assert regions["all"].error == 0.5 + 1.0

    def test_metrics_are_named_by_kind_and_region(self):
        sample = sample_of(row_of(0, 50), occlusion=np.array([[False, True]]))
        figures = total_of(measure_sample(row_of(1, 54), sample)).metrics
        assert figures["epe"] == 2.5
        assert figures["epe_unmatched"] == figures["epe_s40+"] == 4.0
        assert figures["3px"] == 50.0
        assert figures["fl_all"] == 50.0
        assert figures["1px_matched"] == 0.0
        assert math.isnan(figures["epe_s10-40"])
        assert "epe_noc" not in figures and "fl_fg" not in figures


class TestTotals:
    def test_a_pair_without_valid_pixels_changes_no_mean(self):
        total = measure(constant_flow(3, 4), constant_flow(0, 0))
        total += measure(constant_flow(3, 4), constant_flow(0, 0), np.zeros((HEIGHT, WIDTH), bool))
        assert (total.pairs, total.images, total.pixels) == (2, 1, HEIGHT * WIDTH)
        assert total.epe_image == total.epe_pixel == 5.0

    def test_an_empty_set_has_no_error(self):
        assert all(map(math.isnan, ErrorSums().metrics("all").values()))
        assert math.isnan(total_of().geometric_epe) and total_of().steps is None

    def test_epe_has_a_mean_over_images_and_one_over_pixels_and_rates_are_over_pixels(self):
        total = measure(constant_flow(10, 0, 10, 10), constant_flow(0, 0, 10, 10))
        total += measure(constant_flow(0, 0, 10, 30), constant_flow(0, 0, 10, 30))
        assert total.metrics("all", "images")["epe"] == 5.0
        assert total.metrics("all", "pixels") == {
            "epe": 2.5, "1px": 25.0, "3px": 25.0, "5px": 25.0, "fl_all": 25.0, "wauc": 75.0,
        }  # fmt: skip

    def test_one_estimate_that_is_not_finite_shows_in_the_mean(self):
        total = measure(row_of(0, 1), row_of(0, 0)) + measure(row_of(np.nan, 1), row_of(0, 0))
        assert total.nonfinite == 1
        assert math.isnan(total.epe_image) and math.isnan(total.epe_pixel)
        assert total.metrics("all")["5px"] == 25.0

    def test_regions_pool_pixels_except_those_that_kitti_averages_by_image(self):
        masks = {"noc": np.array([[True, True, True]]), "occlusion": np.array([[True, False, False]])}
        first = measure_sample(row_of(4, 1, 1), sample_of(row_of(0, 0, 0), **masks))
        masks = {"noc": np.array([[False, False, True]]), "occlusion": np.array([[True, True, False]])}
        figures = total_of(
            first, measure_sample(row_of(0, 0, 6), sample_of(row_of(0, 0, 0), **masks))
        ).metrics
        assert figures["epe"] == 2.0
        assert figures["epe_noc"] == 4.0  # (2 + 6) / 2, and not 12 / 4
        assert figures["epe_matched"] == pytest.approx(8 / 3)
        assert figures["epe_unmatched"] == pytest.approx(4 / 3)

    def test_the_geometric_mean_is_over_pairs(self):
        pairs = [{"all": ErrorSums.of_pair(10, 10 * epe)} for epe in (1.0, 8.0, 27.0)]
        assert total_of(*pairs).geometric_epe == pytest.approx(6.0)
        pairs.append({"all": ErrorSums.of_pair(10, 0.0)})
        assert total_of(*pairs).geometric_epe == 0.0
        pairs.append({"all": ErrorSums.of_pair(10, nonfinite=1)})
        assert math.isnan(total_of(*pairs).geometric_epe)

    @given(
        st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5), st.integers(0, 999)
    )
    def test_sums_equal_everything_at_once(self, sizes, seed):
        generator = np.random.default_rng(seed)
        total = ErrorSums()
        errors, epes, magnitudes = [], [], []
        for height, width in sizes:
            truth = generator.normal(0, 60, (height, width, 2))
            flow = truth + generator.normal(0, 4, (height, width, 2))
            valid = generator.random((height, width)) < 0.7
            total += measure(flow, truth, valid)
            error = np.linalg.norm(flow - truth, axis=2)[valid]
            errors.append(error)
            magnitudes.append(np.linalg.norm(truth, axis=2)[valid])
            epes.extend([error.mean()] if error.size else [])
        pooled, magnitude = np.concatenate(errors), np.concatenate(magnitudes)
        assert total.pixels == pooled.size
        if pooled.size:
            assert total.epe_image == pytest.approx(np.mean(epes))
            assert total.epe_pixel == pytest.approx(pooled.mean())
            figures = total.metrics("all")
            assert figures["3px"] == pytest.approx(100 * np.mean(pooled > 3))
            assert figures["fl_all"] == pytest.approx(
                100 * np.mean((pooled > 3) & (pooled > 0.05 * magnitude))
            )
