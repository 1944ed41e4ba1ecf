"""``deqflow compare``: end-point differences of two flow files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from deqflow.commands.common import is_file_name, prepare_outputs
from deqflow.errors import ConfigError
from deqflow.io import read_flow, write_image
from deqflow.visualize import error_map


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare two flow files, of any formats, where both are known; ground truth is best the second.

    Attributes:
        first: A flow file.
        second: Another, of the same size.
        output: Picture (.png) of the differences, from dark (none) to bright; without it, there is none.
        max_error: Difference in pixels at its bright end.
        overwrite: Replace a picture that is already there.
    """

    first: tyro.conf.Positional[Path]
    second: tyro.conf.Positional[Path]
    output: Path | None = None
    max_error: float = 5.0
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be drawn, naming the option."""
        if not self.max_error > 0:
            raise ConfigError(f"--max-error must be positive, got {self.max_error:g}")


def run(options: CompareOptions) -> int:
    """Print the figures and write the picture; return the exit code.

    Raises:
        DeqflowError, OSError: an input or an option does not hold; said in one sentence.
    """
    from deqflow.evaluation.metrics import OUTLIERS, end_point_error

    (first, known), (second, also_known) = read_flow(options.first), read_flow(options.second)
    if first.shape != second.shape:
        raise ConfigError(
            f"{options.first} is {first.shape[1]}x{first.shape[0]}, "
            f"{options.second} is {second.shape[1]}x{second.shape[0]}; expected flows of one size"
        )
    both = known & also_known
    if not both.any():
        raise ConfigError(f"no pixel is known in both {options.first} and {options.second}")
    if options.output is not None:
        if not is_file_name(str(options.output), (".png",)):
            raise ConfigError(f"--output {options.output}: expected a name ending in .png")
        prepare_outputs(
            [options.output], overwrite=options.overwrite, sources=(options.first, options.second)
        )
    difference = end_point_error(first, second)
    found, length = difference[both], np.hypot(second[..., 0], second[..., 1])[both]
    y, x = np.unravel_index(np.argmax(np.where(both, difference, -1)), both.shape)
    percentiles = np.percentile(found, (50, 90, 99))
    over = " ".join(f"{100 * np.mean(found > limit):.2f}" for limit in OUTLIERS.values())
    limits = " ".join(f"{limit:g}" for limit in OUTLIERS.values())
    outliers = np.mean((found > 3) & (found > 0.05 * length))
    figures = {
        "pixels known in both": f"{found.size} of {both.size}",
        "mean end-point difference": f"{found.mean():.4f} px",
        "50 90 99 percent within": " ".join(f"{value:.4f}" for value in percentiles) + " px",
        "largest": f"{found.max():.4f} px at x {x}, y {y}",
        f"over {limits} px": f"{over} %",
        "Fl, over 3 px and 5 % of the second": f"{100 * outliers:.2f} %",
    }
    for name, figure in figures.items():
        print(f"{name + ':':37}{figure}")
    if options.output is not None:
        write_image(options.output, error_map(first, second, both, options.max_error))
        print(f"{'picture:':37}{options.output}")
    return 0
