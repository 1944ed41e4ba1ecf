"""``deqflow evaluate``: a model beside baselines on data sets with ground truth."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deqflow.commands.common import ModelOptions, check_folder_names, prepare_outputs, solve_record
from deqflow.errors import ConfigError
from deqflow.extras import requires

if TYPE_CHECKING:
    from deqflow.data.datasets import PairDataset
    from deqflow.estimator import DEQFlow
    from deqflow.evaluation.plan import Plan
    from deqflow.evaluation.predictors import Predictor
    from deqflow.evaluation.summary import Summary


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """Errors of a model on data sets with ground truth, by each benchmark's own definitions.

    Data sets are read in their official layouts, complete or in part. Started by `torchrun`, several
    processes share the work.

    Attributes:
        data: Folder that holds data sets under their official names (MPI-Sintel, KITTI-2015, ...), or a data
            set's own.
        dataset: Names of data sets to use, see `deqflow datasets list`; without it, all that are there.
        split: Part of the data sets named; without it validation where there is such a split, else training.
        limit: Use the first so many pairs of each data set.
        reuse: Start each solve from the fixed point of the pair before, along each sequence.
        warm_start: Start each solve from the flow of the pair before alone, as RAFT does.
        batch: Pairs of one size that are computed together.
        workers: Threads that read ahead; 0 reads when needed.
        baselines: What to compare with: dis is OpenCV's DIS (medium preset), zero is no motion.
        output: Folder to keep every pair's result in (samples.jsonl), with settings and summary. A run that
            ended early goes on from there.
        overwrite: Forget what the output folder holds of another run, and replace files that exist.
        json: Also write every figure to this file.
        report: Folder for a page with plots and samples (report.html); also that of the results, if no other
            is given.
        report_samples: How many samples the page shows; each is solved several times more.
    """

    data: Path
    dataset: tuple[str, ...] = ()
    split: str | None = None
    limit: int | None = None
    reuse: bool = False
    warm_start: bool = False
    batch: int = 1
    workers: int = 1
    baselines: tuple[Literal["dis", "zero"], ...] = ("dis", "zero")
    output: Path | None = None
    overwrite: bool = False
    json: Path | None = None
    report: Path | None = None
    report_samples: int = 12

    def __post_init__(self) -> None:
        """Reject what does not go together, naming the options."""
        super().__post_init__()
        if self.split and not self.dataset:
            raise ConfigError("--split goes with --dataset NAME ...")
        for name, value, least in (
            ("--batch", self.batch, 1),
            ("--workers", self.workers, 0),
            ("--limit", self.limit, 1),
            ("--report-samples", self.report_samples, 1),
        ):
            if value is not None and not value >= least:
                raise ConfigError(f"{name} must be {least} or more, got {value:g}")
        if self.reuse and self.warm_start:
            raise ConfigError("--reuse and --warm-start are two ways to start a solve: expected one of them")
        if self.sequential and self.batch > 1:
            raise ConfigError(
                f"--batch {self.batch} does not go with --reuse or --warm-start: "
                "every pair waits for the one before"
            )
        check_folder_names(output=self.output, report=self.report)
        if self.overwrite and self.results is None and self.json is None:
            raise ConfigError("--overwrite goes with --output, --report or --json")

    @property
    def results(self) -> Path | None:
        """The folder that keeps every pair's result."""
        return self.report if self.output is None else self.output

    @property
    def sequential(self) -> bool:
        """Whether solves start from the pair before."""
        return self.reuse or self.warm_start

    def datasets(self) -> "list[PairDataset]":
        """Return the data sets asked for.

        Raises:
            DataError: one is not there.
            ConfigError: one has no ground truth.
        """
        from deqflow.data.datasets import find_benchmarks, open_dataset
        from deqflow.data.datasets.catalog import family_named

        if not self.dataset:
            return find_benchmarks(self.data)
        found: list[PairDataset] = []
        for name in dict.fromkeys(self.dataset):
            splits = family_named(name).splits
            split = self.split or ("validation" if "validation" in splits else "training")
            found += open_dataset(name, self.data, split=split)
            if found[-1].files[0].flow is None:
                raise ConfigError(f"the {split} split of {name} has no public ground truth to compare with")
        return found

    def predictor(self, model: "DEQFlow") -> "Predictor":
        """Return the model as a method."""
        from deqflow.evaluation.predictors import PairPredictor, SequencePredictor

        if not self.sequential:
            return PairPredictor(model)
        return SequencePredictor(model, flow_only=self.warm_start)

    def settings(self, model: "DEQFlow", plan: "Plan") -> dict[str, Any]:
        """Return everything that the results depend on."""
        return {
            "model": self.model,
            "weights": fingerprint(model),
            **solve_record(model),
            "start": "reuse" if self.reuse else "warm start" if self.warm_start else "anew",
            "baselines": list(self.baselines),
            "pairs": plan.pairs,
        }


def run(options: EvaluateOptions) -> int:
    """Evaluate and print; the exit code.

    Raises:
        DeqflowError, OSError: an option does not hold; said in one sentence.
    """
    from deqflow.evaluation.plan import Plan
    from deqflow.evaluation.predictors import BaselinePredictor, Predictor
    from deqflow.evaluation.results import REPORT, ResultsFolder
    from deqflow.evaluation.runner import run_benchmark
    from deqflow.io.files import replace_bytes
    from deqflow.processes import start_processes

    plan = Plan.of(options.datasets(), sequential=options.sequential, limit=options.limit)
    if options.json is not None:
        # Before the work rather than after it: an unwritable place must not cost a whole run.
        prepare_outputs([options.json], overwrite=options.overwrite)
    if options.report is not None:
        with requires("report", "--report"):
            import deqflow.evaluation.report  # noqa: F401  (now, not after the work)
    if options.report not in (None, options.results):
        prepare_outputs([options.report / REPORT], overwrite=options.overwrite)
    with start_processes(options.device) as processes:
        model = options.load(str(processes.device))
        methods: dict[str, Predictor] = {options.model: options.predictor(model)}
        methods |= {name: BaselinePredictor(name) for name in options.baselines}
        settings = options.settings(model, plan)
        summary = run_benchmark(
            methods,
            plan,
            processes,
            batch=options.batch,
            workers=options.workers,
            folder=None if options.results is None else ResultsFolder(options.results),
            settings=settings,
            overwrite=options.overwrite,
        )
        if processes.first:
            print(summary.table())
            if options.json is not None:
                report = json.dumps({"settings": settings, **summary.as_dict()}, indent=2, allow_nan=False)
                replace_bytes(options.json, report.encode() + b"\n")
            summary.check_known()
            if options.report is not None:
                _report(options, model, summary, plan, settings)
    return 0


def _report(
    options: EvaluateOptions, model: "DEQFlow", summary: "Summary", plan: "Plan", settings: dict[str, Any]
) -> None:
    from deqflow.evaluation.report import write_report

    assert options.report is not None
    page = write_report(
        options.report,
        model,
        summary,
        plan.datasets,
        settings,
        samples=options.report_samples,
    )
    print(f"Report: {page}")


def fingerprint(model: "DEQFlow") -> str:
    """Return what tells weights from others: the first 16 digits of a hash over their names and values."""
    import torch

    digest = sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
