"""``deqflow evaluate``: a model beside baselines on the data sets under one folder."""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from deqflow import zoo
from deqflow.data.benchmarks import PairDataset, find_benchmarks
from deqflow.estimator import DEQFlow
from deqflow.evaluation.baselines import BASELINES
from deqflow.evaluation.metrics import OUTLIER_THRESHOLDS, RegionErrors, measure
from deqflow.evaluation.tables import markdown
from deqflow.evaluation.totals import RegionTotal

RELATIVE_GROUPS = ("Sintel final", "KITTI", "FlyingChairs")
"""Groups whose pairs enter the geometric mean of the error relative to DIS: large motion, blur, cameras."""


class Prediction(NamedTuple):
    """What a method answers for a pair; ``steps`` and ``residual`` are None for methods that do not solve."""

    flow: NDArray[np.float32]
    steps: int | None = None
    residual: float | None = None


Method = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Prediction]


@dataclass(frozen=True)
class PairResult:
    """Every method's errors on one pair, by the method's name."""

    dataset: str
    group: str
    name: str
    metrics: dict[str, RegionErrors]
    seconds: dict[str, float]
    steps: dict[str, int | None]
    residual: dict[str, float | None]


@dataclass(frozen=True)
class Report:
    """Errors of several methods on the same pairs.

    Attributes:
        methods: names, the one of interest first.
        results: one per pair.
    """

    methods: tuple[str, ...]
    results: list[PairResult] = field(default_factory=list)

    def groups(self) -> dict[str, dict[str, RegionTotal]]:
        """Errors per group and method, in the order in which the groups came."""
        groups: dict[str, dict[str, RegionTotal]] = {}
        for result in self.results:
            group = groups.setdefault(result.group, {method: RegionTotal() for method in self.methods})
            for method, accumulator in group.items():
                accumulator.add(result.metrics[method])
        return groups

    def relative_error(
        self, method: str, baseline: str = "dis", groups: Sequence[str] = RELATIVE_GROUPS
    ) -> float:
        """Geometric mean of a method's EPE / the baseline's over the pairs of ``groups``; NaN if none."""
        pairs = [result.metrics for result in self.results if result.group in groups]
        if not pairs:
            return math.nan
        with np.errstate(divide="ignore", invalid="ignore"):  # an error of exactly zero is an answer too
            ratios = np.divide([pair[method].epe for pair in pairs], [pair[baseline].epe for pair in pairs])
            return float(np.exp(np.log(ratios).mean()))

    def table(self) -> str:
        """Errors per pair and per group as a Markdown table, and the mean relative to DIS if it took part."""
        rates = [*(f"{threshold:g}px %" for threshold in OUTLIER_THRESHOLDS), "Fl %"]
        header = ["pair", *self.methods, *rates, "steps", "seconds"]
        first = self.methods[0]
        rows = [
            [
                f"{result.dataset} {result.name}",
                *(f"{result.metrics[method].epe:.3f}" for method in self.methods),
                *_rates(result.metrics[first]),
                "" if result.steps[first] is None else str(result.steps[first]),
                f"{result.seconds[first]:.2f}",
            ]
            for result in self.results
        ]
        for name, group in self.groups().items():
            epes = [f"**{group[method].epe_image:.3f}**" for method in self.methods]
            rows.append([f"**{name} ({group[first].pairs})**", *epes, *_rates(group[first]), "", ""])
        lines = [
            f"EPE in pixels; wrong pixels, steps and seconds are those of {first}.",
            "",
            *markdown(header, rows),
            "",
        ]
        for method in self.methods:
            count = sum(result.metrics[method].nonfinite for result in self.results)
            if count:
                lines.append(
                    f"{method}: {count} valid pixels without a finite estimate; EPE of their pairs is nan."
                )
        if "dis" in self.methods and first != "dis":
            lines.append(
                f"Geometric mean of EPE / DIS's EPE over the pairs of {', '.join(RELATIVE_GROUPS)}: "
                f"{self.relative_error(first):.3f}"
            )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same for a machine; numbers that are not finite become null, which JSON can hold."""
        return {
            "methods": list(self.methods),
            "pairs": [
                {
                    "dataset": result.dataset,
                    "pair": result.name,
                    "group": result.group,
                    "methods": {
                        method: {
                            "pixels": result.metrics[method].pixels,
                            "nonfinite": result.metrics[method].nonfinite,
                            **_errors(result.metrics[method]),
                            "steps": result.steps[method],
                            "residual": _finite(result.residual[method]),
                            "seconds": round(result.seconds[method], 4),
                        }
                        for method in self.methods
                    },
                }
                for result in self.results
            ],
            "groups": {
                name: {method: {"pairs": total.pairs, **_errors(total)} for method, total in group.items()}
                for name, group in self.groups().items()
            },
            "relative_to_dis": {
                method: _finite(self.relative_error(method))
                for method in self.methods
                if "dis" in self.methods
            },
        }


def evaluate(methods: dict[str, Method], datasets: Iterable[PairDataset], *, progress: bool = True) -> Report:
    """Run every method on every pair.

    Args:
        methods: by name, the one of interest first.
        datasets: read one pair at a time, so that memory does not grow with them.
        progress: show a bar on standard error.
    """
    report = Report(tuple(methods))
    datasets = list(datasets)
    with tqdm(total=sum(map(len, datasets)), unit="pair", disable=not progress) as bar:
        for dataset in datasets:
            for sample in dataset:
                bar.set_description(f"{dataset.title} {sample.name}")
                result = PairResult(dataset.title, dataset.group, sample.name, {}, {}, {}, {})
                for name, method in methods.items():
                    start = time.perf_counter()
                    prediction = method(sample.frame1, sample.frame2)
                    result.seconds[name] = time.perf_counter() - start
                    result.metrics[name] = measure(prediction.flow, sample.flow, sample.valid)
                    result.steps[name] = prediction.steps
                    result.residual[name] = prediction.residual
                report.results.append(result)
                bar.update()
    return report


def model_method(model: DEQFlow, *, steps: int | None = None, tolerance: float | None = None) -> Method:
    """A model as a method; None leaves its own defaults."""

    def predict(frame1: NDArray[np.uint8], frame2: NDArray[np.uint8]) -> Prediction:
        estimate = model.estimate(frame1, frame2, steps=steps, tolerance=tolerance)
        return Prediction(np.asarray(estimate.flow), int(estimate.steps), float(estimate.residual))

    return predict


def baseline_method(name: str) -> Method:
    """One of ``BASELINES`` as a method."""
    baseline = BASELINES[name]
    return lambda frame1, frame2: Prediction(baseline(frame1, frame2))


@dataclass(frozen=True)
class EvaluateOptions:
    """Errors of a model on data sets with ground truth, beside baselines.

    Attributes:
        benchmark: Folder that holds the data sets in their official layouts: MPI-Sintel, KITTI-2015,
            KITTI-2012, Middlebury, FlyingChairs_release; those that are there are used.
        model: Name of a preset; `deqflow models` lists them.
        checkpoint: File of weights; without it, the weights that ship with the model.
        steps: Most evaluations of the update operator per pair; without it, the model's own.
        tolerance: Stop when the flow moves less than this many pixels per step; 0 runs all steps.
        precision: Number format of the network; auto takes bfloat16 where the device computes in it, else
            float32.
        device: auto, cpu, cuda, cuda:1, mps, ...
        baselines: What to compare with: dis is OpenCV's DIS (medium preset), zero is no motion.
        json: Also write every figure to this file.
    """

    benchmark: Path
    model: str = "deqflow-s"
    checkpoint: Path | None = None
    steps: int | None = None
    tolerance: float | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    baselines: tuple[Literal["dis", "zero"], ...] = ("dis", "zero")
    json: Path | None = None


def run(options: EvaluateOptions) -> int:
    """Evaluate and print; the exit code.

    Raises:
        DeqflowError, OSError: an option does not hold; said in one sentence.
    """
    datasets = find_benchmarks(options.benchmark)
    if options.json is not None:
        # Before the work rather than after it: an unwritable place must not cost a whole run.
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.touch()
    model = zoo.load(
        options.model, checkpoint=options.checkpoint, device=options.device, precision=options.precision
    )
    methods = {options.model: model_method(model, steps=options.steps, tolerance=options.tolerance)}
    methods.update({name: baseline_method(name) for name in options.baselines})
    report = evaluate(methods, datasets)
    print(report.table())
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    return 0


def _rates(errors: RegionErrors | RegionTotal) -> list[str]:
    fl = errors.fl_rate if isinstance(errors, RegionErrors) else errors.fl
    rates = [*(errors.outlier_rate(threshold) for threshold in OUTLIER_THRESHOLDS), fl]
    return [f"{rate:.2f}" for rate in rates]


def _errors(errors: RegionErrors | RegionTotal) -> dict[str, float | None]:
    rates = {f"{threshold:g}px": _finite(errors.outlier_rate(threshold)) for threshold in OUTLIER_THRESHOLDS}
    if isinstance(errors, RegionErrors):
        epe, fl = errors.epe, errors.fl_rate
    else:
        epe, fl = errors.epe_image, errors.fl
    return {"epe": _finite(epe), **rates, "fl_all": _finite(fl)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
