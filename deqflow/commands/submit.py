"""``deqflow evaluate submit``: the files that a benchmark's server takes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from deqflow.commands.common import ModelOptions, check_folder_names, prepare_outputs, solve_record
from deqflow.data.datasets.catalog import SUBMISSIONS
from deqflow.errors import DataError

if TYPE_CHECKING:
    from deqflow.estimator import DEQFlow
    from deqflow.evaluation.predictors import Predictor
    from deqflow.evaluation.submission import Checked, Submission

    Benchmark = str
else:
    Benchmark = tyro.extras.literal_type_from_choices(SUBMISSIONS)

LISTED = 20
"""Most problems and notes that are printed, each."""


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(ModelOptions):
    """Flow of a benchmark's test split as its server takes it: written, packed and read again.

    A run that ended early goes on from there.

    Attributes:
        benchmark: Whose server.
        data: Folder of the data set, or one that holds it under its official name.
        output: Folder for the flow files.
        reuse: Start each solve from the fixed point of the pair before, along each sequence.
        check: Write nothing, only check what the output folder holds.
        partial: Take an incomplete test split, to try it out; no server takes the result.
        overwrite: Replace what another run has written.
    """

    benchmark: tyro.conf.Positional[Benchmark]
    data: Path
    output: Path
    reuse: bool = True
    check: bool = False
    partial: bool = False
    overwrite: bool = False

    def predictor(self, model: "DEQFlow") -> "Predictor":
        """Return the model along sequences, or pair by pair."""
        from deqflow.evaluation.predictors import PairPredictor, SequencePredictor

        if self.reuse:
            return SequencePredictor(model)
        return PairPredictor(model)

    def settings(self, model: "DEQFlow") -> dict[str, Any]:
        """Return everything that the flow depends on."""
        from deqflow.commands.evaluate import fingerprint

        return {
            "benchmark": self.benchmark,
            "model": self.model,
            "weights": fingerprint(model),
            **solve_record(model),
            "reuse": self.reuse,
        }


def run(options: SubmitOptions) -> int:
    """Write, pack and check; the exit code.

    Raises:
        DeqflowError, OSError: an option or a file does not hold; said in one sentence.
    """
    from deqflow.evaluation.submission import Submission

    check_folder_names(output=options.output)
    submission = Submission(options.benchmark, options.data, options.output, partial=options.partial)
    if not options.check:
        _write(options, submission)
    checked = submission.check()
    _print(checked, submission)
    if checked.problems:
        raise DataError(
            f"{options.output} is not fit to submit: {len(checked.problems)} problems, "
            f"the first: {checked.problems[0]}"
        )
    return 0


def _write(options: SubmitOptions, submission: "Submission") -> None:
    from deqflow.evaluation.results import SETTINGS

    prepare_outputs([options.output / SETTINGS], overwrite=True)  # whose it is, is asked in a moment
    model = options.load()
    try:
        steps = submission.write(
            options.predictor(model), options.settings(model), overwrite=options.overwrite
        )
    except KeyboardInterrupt:
        total = len(submission.places())
        print(
            f"{submission.written()} of {total} files are in {options.output}; the same command goes on",
            file=sys.stderr,
        )
        raise
    if steps == steps:  # not NaN: something was left to do
        print(f"{steps:.1f} steps per pair")
    submission.pack()


def _print(checked: "Checked", submission: "Submission") -> None:
    for kind, lines in (("note", checked.notes), ("problem", checked.problems)):
        for line in lines[:LISTED]:
            print(f"{kind}: {line}")
        if len(lines) > LISTED:
            print(f"{kind}: {len(lines) - LISTED} more")
    print(f"{checked.files} of {len(submission.places())} files are as they should be")
    if submission.partial:
        print("The test split is not complete: no server takes this.")
    elif not checked.problems:
        print(f"To submit: {submission.upload}.")
