"""``deqflow average``: the mean of several weights of one model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from deqflow.commands.common import check_suffix, prepare_outputs


@dataclass(frozen=True, kw_only=True)
class AverageOptions:
    """Write the mean of weights that were trained on from a common start, often better than each of them.

    Attributes:
        sources: At least two files of weights of one model.
        output: The .safetensors file to write.
        shares: Of each source in the mean, with the sum 1; without them, equal ones.
        dtype: Number format of the file. float16 halves its size.
        overwrite: Replace a file that is already there.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]]
    output: Path
    shares: tuple[float, ...] = ()
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Reject what could not be loaded again."""
        check_suffix(self.output, ".safetensors")


def run(options: AverageOptions) -> int:
    """Average and return the exit code.

    Raises:
        DeqflowError, OSError: a file or an option does not hold; said in one sentence.
    """
    from deqflow import zoo
    from deqflow.devices import PRECISIONS

    prepare_outputs([options.output], overwrite=options.overwrite, sources=options.sources)
    model = zoo.average(
        options.sources, options.output, shares=options.shares, dtype=PRECISIONS[options.dtype]
    )
    print(f"{options.output}: {model.name}, the mean of {len(options.sources)} files")
    return 0
