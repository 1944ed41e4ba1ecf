"""``deqflow calibrate``: weights that expect of themselves the errors that they really make."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deqflow.commands.bench.base import PairOptions
from deqflow.commands.common import check_suffix, prepare_outputs


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(PairOptions):
    """Measure the errors that weights expect of their flow against real ones, and write them calibrated.

    Attributes:
        output: The .safetensors file to write: the same weights, and the curve from told to real errors.
        dtype: Number format of the file. float16 halves its size.
        overwrite: Replace a file that is already there.
    """

    output: Path
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Reject what could not be loaded again."""
        super().__post_init__()
        check_suffix(self.output, ".safetensors")


def run(options: CalibrateOptions) -> int:
    """Calibrate and return the exit code.

    Raises:
        DeqflowError, OSError: a file or an option does not hold; said in one sentence.
    """
    from deqflow import zoo
    from deqflow.devices import PRECISIONS
    from deqflow.evaluation.calibration import calibrate
    from deqflow.zoo.checkpoints import read_checkpoint

    source = options.checkpoint or zoo.shipped_weights(options.model)
    prepare_outputs([options.output], overwrite=options.overwrite, sources=[source])
    model = options.load()
    curve = calibrate(model, options.samples())
    said = {**read_checkpoint(source).described, "calibrated_on": options.pairs_told()}
    zoo.save_weights(model, options.output, metadata=said, dtype=PRECISIONS[options.dtype])
    (least, really), *_, (most, most_really) = curve
    print(f"{options.output}: {least:g} to {most:g} px told are {really:g} to {most_really:g} px")
    return 0
