"""The loop of an evaluation, its summaries, and baselines against published errors."""

import json
import math
import re
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from evaluation_data import (
    ALONE,
    ConstantPredictor,
    constant_flow,
    results,
    tiny_model,
    write_kitti,
    write_pair,
    write_sintel,
)
from hypothesis import given
from hypothesis import strategies as st

from deqflow.data.datasets import PairDataset, PairFiles, find_benchmarks, open_dataset
from deqflow.data.datasets.pairs import Averaging, Convention
from deqflow.errors import DataError
from deqflow.evaluation.baselines import dis_flow
from deqflow.evaluation.metrics import ErrorSums, end_point_error, measure_sample
from deqflow.evaluation.plan import Plan
from deqflow.evaluation.predictors import (
    BaselinePredictor,
    Item,
    PairPredictor,
    SequencePredictor,
)
from deqflow.evaluation.report import Findings
from deqflow.evaluation.report import render as render_page
from deqflow.evaluation.results import SampleResult
from deqflow.evaluation.runner import batches, read_ahead, run_benchmark
from deqflow.evaluation.summary import Summary
from deqflow.reuse import carry
from deqflow.step import FlowState
from deqflow.stream import FlowStream


class TestPlan:
    def test_pairs_that_follow_each_other_are_a_chain(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [3, 4], "cave_2": [5, 6, 11, 12, 13]})
        datasets = open_dataset("sintel", root)
        plan = Plan.of(datasets, sequential=True)
        assert [[place.pair for place in chain] for chain in plan.chains] == [[0, 1], [2, 3], [4, 5, 6]]
        assert [len(chain) for chain in Plan.of(datasets).chains] == [1] * 7
        assert [len(chain) for chain in Plan.of(datasets, sequential=True, limit=3).chains] == [2, 1]
        assert plan.pairs == {"MPI-Sintel final": 7}

    def test_shares_are_everything_once(self, benchmarks):
        plan = Plan.of(find_benchmarks(benchmarks), sequential=True)
        for count in (1, 2, 3, 20):
            shares = [plan.share(rank, count).chains for rank in range(count)]
            assert sorted(chain for share in shares for chain in share) == sorted(plan.chains)

    def test_pairs_of_one_name_are_refused(self, benchmarks):
        (dataset,) = open_dataset("sintel", benchmarks)
        dataset.files[1] = replace(dataset.files[1], name=dataset.files[0].name)
        with pytest.raises(DataError, match="2 pairs of MPI-Sintel final are called 'cave_2 1'"):
            Plan.of([dataset])


class TestLoop:
    @pytest.mark.parametrize("workers", [0, 1, 3])
    def test_samples_come_in_order(self, tmp_path, workers):
        root = write_sintel(tmp_path, {"alley_1": list(range(1, 12))})
        plan = Plan.of(open_dataset("sintel", root))
        assert [item.sample.index for item in read_ahead(plan, workers)] == list(range(1, 12))

    def test_a_file_that_cannot_be_read_ends_the_run_with_its_name(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2, 3, 4]})
        (root / "training/flow/alley_1/frame_0003.flo").write_bytes(b"PIEH")
        methods = {"ours": ConstantPredictor()}
        plan = Plan.of(open_dataset("sintel", root))
        with pytest.raises(ValueError, match=r"frame_0003\.flo"):
            results(methods, plan, workers=2)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]

    def test_batches_are_of_one_size_and_few_wait(self, tmp_path):
        for index in range(30):
            frames = [tmp_path / "data" / f"{index:05d}_img{n}.ppm" for n in (1, 2)]
            write_pair(tmp_path / "data" / f"{index:05d}_flow.flo", *frames, size=(16 + index % 9, 16))
        plan = Plan.of(open_dataset("chairs", tmp_path, split="all"))
        taken = 0

        def counted():
            nonlocal taken
            for item in read_ahead(plan, 0):
                taken += 1
                yield item

        given: list[Item] = []
        for group in batches(counted(), 2):
            given += group
            assert len({item.sample.frame1.shape for item in group}) == 1
            assert len(group) <= 2
            assert taken - len(given) <= 8
        assert sorted(item.sample.name for item in given) == [f"{index:05d}" for index in range(30)]

    def test_a_batch_gives_what_its_pairs_give_alone(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2, 3], "cave_2": [4, 5]})
        write_kitti(tmp_path, size=(30, 45))
        datasets = [*open_dataset("sintel", root), *open_dataset("kitti-2015", tmp_path)]
        methods = {"tiny": PairPredictor(tiny_model(tolerance=0.5)), "dis": BaselinePredictor("dis")}
        alone, together = (
            {
                result.key: replace(result, seconds=0.0)
                for result in results(methods, Plan.of(datasets), batch=size)
            }
            for size in (1, 4)
        )
        assert len(alone) == 12 and together.keys() == alone.keys()
        for key, found in together.items():
            # Convolutions of a batch may add up in another order on some machines, and nothing else.
            assert found.epe == (
                alone[key].epe if key.method == "dis" else pytest.approx(alone[key].epe, rel=1e-5)
            )
            assert found.steps == alone[key].steps
            assert found.regions.keys() == alone[key].regions.keys()

    def test_kitti_is_padded_at_the_bottom_and_the_rest_centered(self, tmp_path):
        write_kitti(tmp_path, size=(30, 45))
        root = write_sintel(tmp_path, {"alley_1": [1]})
        for dataset, odd in (
            (open_dataset("kitti-2015", tmp_path)[0], (0, 2)),
            (open_dataset("sintel", root)[0], (0, 0)),
        ):
            padding = Item(dataset, dataset[0]).padding
            assert (padding.top, padding.bottom) == odd
        seen = []
        model = tiny_model()
        model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        dataset = open_dataset("kitti-2015", tmp_path)[0]
        (prediction,) = PairPredictor(model)([Item(dataset, dataset[0])])
        frame = torch.from_numpy(dataset[0].frame1).permute(2, 0, 1).float()
        assert torch.equal(seen[0][0, :, :30, 1:46], frame)
        assert torch.equal(seen[0][0, :, 31], seen[0][0, :, 29])
        assert prediction.flow.shape == (30, 45, 2)


class TestSequences:
    def test_reuse_is_the_stream_and_starts_anew_at_gaps(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2, 3], "cave_2": [4, 7]})
        (dataset,) = open_dataset("sintel", root)
        model = tiny_model(steps=5)
        found = results({"tiny": SequencePredictor(model)}, Plan.of([dataset], sequential=True))
        assert [result.reused for result in found] == [False, True, True, False, False]
        stream = FlowStream(model, detect_cuts=False)
        stream.push(dataset[0].frame1)
        for sample, result in zip(dataset[:3], found[:3], strict=True):
            estimate = stream.push(sample.frame2)
            assert result.regions == measure_sample(estimate.flow, sample)
        cold = model.estimate(dataset[4].frame1, dataset[4].frame2)
        assert found[4].regions == measure_sample(cold.flow, dataset[4])
        assert found[1].regions != results({"tiny": PairPredictor(model)}, Plan.of([dataset]))[1].regions

    def test_warm_start_takes_the_flow_and_leaves_hidden(self, tmp_path):
        root = write_sintel(tmp_path, {"alley_1": [1, 2]})
        (dataset,) = open_dataset("sintel", root)
        model = tiny_model(steps=3)
        predictor = SequencePredictor(model, flow_only=True)
        found = results({"tiny": predictor}, Plan.of([dataset], sequential=True))
        first = model.estimate(dataset[0].frame1, dataset[0].frame2)
        start = FlowState(torch.zeros_like(first.state.hidden), carry(first.state).flow)
        second = model.estimate(dataset[1].frame1, dataset[1].frame2, state=start)
        assert found[1].reused
        expected = measure_sample(second.flow, dataset[1])["all"].epe_image
        assert found[1].epe == pytest.approx(expected, rel=1e-6)

    def test_rendering_passes_are_sequences_of_their_own(self, tmp_path):
        for render in ("clean", "final"):
            root = write_sintel(tmp_path, {"alley_1": [1, 2]}, render)
        plan = Plan.of(open_dataset("sintel", root), sequential=True)
        found = results({"tiny": SequencePredictor(tiny_model(steps=2))}, plan)
        assert [result.reused for result in found] == [False, True, False, True]


def pair_result(group: str, method: str, sums: ErrorSums, pair: str = "pair") -> SampleResult:
    return SampleResult(
        method=method, dataset=group, group=group, name=pair, width=5, height=2, regions={"all": sums}
    )


def plan_of(pairs: dict[str, list[str]], averaging: Averaging = "images") -> Plan:
    """Data sets of pairs by name, whose files are never read."""
    there = Path(__file__)
    return Plan.of(
        [
            PairDataset(
                title,
                title,
                [PairFiles(name, there, there, there) for name in names],
                there,
                Convention(averaging),
            )
            for title, names in pairs.items()
        ]
    )


def summary_of(epes: dict[str, dict[str, float]]) -> Summary:
    """A pair of each group, with the methods' errors."""
    found = [
        pair_result(
            group,
            method,
            ErrorSums.of_pair(10, 10 * epe) if math.isfinite(epe) else ErrorSums.of_pair(10, nonfinite=1),
        )
        for group, values in epes.items()
        for method, epe in values.items()
    ]
    return Summary(list(next(iter(epes.values()))), plan_of({group: ["pair"] for group in epes}), found)


class TestSummary:
    def test_relative_error_is_a_geometric_mean_over_the_pairs_that_count(self):
        summary = summary_of(
            {
                "Sintel final": {"ours": 1.0, "dis": 2.0},
                "KITTI": {"ours": 8.0, "dis": 1.0},
                "FlyingChairs": {"ours": 2.0, "dis": 1.0},
                "Middlebury": {"ours": 100.0, "dis": 1.0},
            }
        )
        assert summary.relative_error("ours") == pytest.approx(2.0)
        assert math.isnan(summary.relative_error("ours", groups=["Spring"]))

    def test_an_error_of_zero_is_no_crash(self):
        assert summary_of({"KITTI": {"ours": 0.0, "dis": 2.0}}).relative_error("ours") == 0.0
        assert summary_of({"KITTI": {"ours": 1.0, "dis": 0.0}}).relative_error("ours") == math.inf

    def test_it_holds_json_that_every_parser_reads(self):
        text = json.dumps(summary_of({"KITTI": {"ours": math.nan}}).as_dict(), allow_nan=False)
        assert json.loads(text)["groups"]["KITTI"]["ours"]["epe"] is None

    @pytest.mark.parametrize(("averaging", "epe"), [("images", "2.500"), ("pixels", "1.300")])
    def test_the_table_and_the_page_average_alike(self, averaging, epe):
        """One image of 90 pixels is off by 1 px, one of 10 by 4."""
        plan = plan_of({"MPI-Sintel final": ["a", "b"]}, averaging)
        sums = {"a": ErrorSums.of_pair(90, 90.0), "b": ErrorSums.of_pair(10, 40.0)}
        summary = Summary(["m"], plan, [pair_result("MPI-Sintel final", "m", sums[n], n) for n in "ba"])
        assert re.search(rf"\*\*MPI-Sintel final \(2\)\*\* +\| \*\*{epe}\*\*", summary.table())
        assert f'<td class="main">{epe}</td>' in render_page(Findings(summary, summary.results, []), [], [])
        figures = summary.as_dict()["datasets"]["MPI-Sintel final"]["m"]
        assert f"{figures['epe']:.3f}" == epe
        assert (figures["epe_image"], figures["epe_pixel"]) == (2.5, 1.3)

    @given(st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=40), st.randoms())
    def test_any_order_gives_the_same_to_the_last_digit(self, epes, order):
        names = [str(number) for number in range(len(epes))]
        found = [
            replace(pair_result("s", "m", ErrorSums.of_pair(7, 7 * epe), name), seconds=epe / 3, steps=4)
            for name, epe in zip(names, epes, strict=True)
        ]
        plan = plan_of({"s": names})
        first = Summary(["m"], plan, found)
        order.shuffle(found)
        assert Summary(["m"], plan, found).as_dict() == first.as_dict()

    def test_masks_that_are_missing_are_said(self, benchmarks):
        plan = Plan.of(find_benchmarks(benchmarks))
        table = run_benchmark({"ours": ConstantPredictor()}, plan, ALONE, progress=False).table()
        assert "MPI-Sintel final: matched, unmatched over the 1 of 3 pairs with an occlusion mask." in table
        assert re.search(
            r"Left out of KITTI-2015, .*FlyingChairs for want of an occlusion mask: matched", table
        )
        assert re.search(r"\| EPE matched \|.*\| EPE noc \|", table)
        assert "EPE fg" not in table

    def test_pairs_of_a_large_data_set_have_no_rows(self, benchmarks, monkeypatch):
        monkeypatch.setattr("deqflow.evaluation.summary.PAIRS_LISTED", 6)
        plan = Plan.of(find_benchmarks(benchmarks))
        summary = run_benchmark({"ours": ConstantPredictor()}, plan, ALONE, progress=False)
        assert summary.listed == {} and summary.as_dict()["pairs"] == []
        assert "cave_2 11" not in summary.table() and "**KITTI (2)**" in summary.table()


class TestBaselines:
    def test_dis_follows_a_shift(self):
        random = np.random.default_rng(3)
        coarse = random.integers(0, 256, (20, 28, 3), dtype=np.uint8)
        texture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
        frame1, frame2 = texture[8:-8, 8:-8], texture[6:-10, 5:-11]  # the picture moves 3 right and 2 down
        error = end_point_error(dis_flow(frame1, frame2), constant_flow(3, 2, *frame1.shape[:2]))
        assert np.median(error) < 0.3

    @pytest.mark.skipif(cv2.__version__ < "5", reason="the table is of DIS in OpenCV 5")
    def test_dis_and_zero_flow_agree_with_the_published_table(self, shared_benchmark):
        expected = published_table(shared_benchmark / "README.md")
        methods = {name: BaselinePredictor(name) for name in ("dis", "zero")}
        plan = Plan.of(find_benchmarks(shared_benchmark))
        summary = run_benchmark(methods, plan, ALONE, workers=1, progress=False)
        measured = {f"{dataset} {name}": found for (dataset, name), found in summary.pairs.items()}
        assert measured.keys() == {name for name in expected if not name.startswith("**")}
        for name, found in measured.items():
            dis, zero = expected[name]
            # Half a unit of the table's last digit, and as much again for other processors' rounding in DIS.
            assert found["dis"].epe == pytest.approx(dis, abs=1e-3), name
            assert found["zero"].epe == pytest.approx(zero, abs=5.01e-3), name
        groups = {
            f"**{name} ({found['dis'].pairs})**": found for name, found in summary.group_totals().items()
        }
        assert groups.keys() == {name for name in expected if name.startswith("**")}
        for name, totals in groups.items():
            dis, zero = expected[name]
            assert totals["dis"].all.epe_image == pytest.approx(dis, abs=1e-3), name
            assert totals["zero"].all.epe_image == pytest.approx(zero, abs=1.01e-2), name
        sintel = summary.totals["MPI-Sintel final"]["dis"].all
        assert sintel.epe_pixel == pytest.approx(sintel.epe_image)  # every pixel of frames of one size


def published_table(readme: Path) -> dict[str, tuple[float, float]]:
    """Pair or group -> EPE of DIS and of zero flow."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in readme.read_text().splitlines()
    ]
    figures = [row for row in rows if len(row) == 4 and re.fullmatch(r"[*\d.]+", row[2])]
    return {row[0]: (float(row[2].strip("*")), float(row[3].strip("*"))) for row in figures}
