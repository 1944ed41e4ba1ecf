"""``deqflow show``: a flow file as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from deqflow.commands.common import is_file_name, prepare_outputs
from deqflow.errors import ConfigError
from deqflow.io import read_flow, read_image, write_image
from deqflow.visualize import RENDERINGS, ShownPair
from deqflow.visualize.wheel import UNKNOWN

PICTURE_SUFFIX = ".png"


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Show a flow file of any format as a picture; black is where the flow is not known.

    Attributes:
        flow: The file: .flo, .png of KITTI, .flo5, .pfm, .npy, .npz or .exr.
        output: The picture, .png, or a folder for it.
        layout: color is the usual color wheel; arrows, overlay and side-by-side need --frame.
        frame: The image that the flow starts from.
        max_flow: Length in pixels drawn at full saturation; without it, the 99th percentile.
        legend: Draw the color wheel and the length at full saturation into the picture.
        overwrite: Replace a picture that is already there.
    """

    flow: tyro.conf.Positional[Path]
    output: Path = Path("output")
    layout: Literal["color", "arrows", "overlay", "side-by-side"] = "color"
    frame: Path | None = None
    max_flow: float | None = None
    legend: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be shown, naming the option."""
        if self.max_flow is not None and not self.max_flow > 0:
            raise ConfigError(f"--max-flow must be positive, got {self.max_flow:g}")
        if self.layout != "color" and self.frame is None:
            raise ConfigError(f"--layout {self.layout} shows the flow with the frame it starts from: --frame")


def run(options: ShowOptions) -> int:
    """Write the picture; return the exit code.

    Raises:
        DeqflowError, OSError: an input or an option does not hold; said in one sentence.
    """
    flow, valid = read_flow(options.flow)
    sources = [path for path in (options.flow, options.frame) if path is not None]
    frame = np.zeros((*flow.shape[:2], 3), np.uint8) if options.frame is None else read_image(options.frame)
    if frame.shape[:2] != flow.shape[:2]:
        raise ConfigError(
            f"{options.frame} is {frame.shape[1]}x{frame.shape[0]} pixels, "
            f"the flow {flow.shape[1]}x{flow.shape[0]}"
        )
    output = options.output
    if not is_file_name(str(output), (PICTURE_SUFFIX,)):
        output = output / f"{options.flow.stem}_flow{PICTURE_SUFFIX}"
    prepare_outputs([output], overwrite=options.overwrite, sources=sources)
    valid = valid & (np.abs(flow) < UNKNOWN).all(axis=-1)
    length = np.hypot(*flow[valid].T)
    longest = float(np.percentile(length, 99)) if length.size else 0.0
    scale = options.max_flow or longest or 1.0
    known = np.where(valid[..., None], flow, np.float32(np.nan))
    write_image(
        output, RENDERINGS[options.layout](ShownPair(frame, frame, known, scale, legend=options.legend))
    )
    moving = f"mean {length.mean():.2f} px, longest {length.max():.2f} px" if length.size else "nothing known"
    print(
        f"{options.flow}: {flow.shape[1]}x{flow.shape[0]}, known in {100 * valid.mean():.1f} %, {moving}; "
        f"full color is {scale:.3g} px: {output}"
    )
    return 0
