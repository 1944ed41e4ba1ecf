"""``deqflow flow``: flow between two images, or through a folder of frames."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from deqflow.commands.common import EstimatorOptions, is_file_name, prepare_outputs, require_memory
from deqflow.commands.pairs import Pair, push
from deqflow.errors import ConfigError, ImageError
from deqflow.io import FLOW_FORMATS, VideoFrame, read_image, shrink, write_flow, write_image
from deqflow.io.files import list_files, replace_bytes
from deqflow.io.flow_files import SUFFIXES
from deqflow.io.formats.arrays import npy_bytes
from deqflow.io.images import IMAGE_SUFFIXES
from deqflow.visualize import PICTURES, ColorScale

ARRAYS = {f"{kind}-npy": kind for kind in ("uncertainty", "occlusion")}
"""Numbers other than flow, by what --formats takes."""

ENDINGS = {
    **{name: "_flow.png" if name == "color" else f"_{name}.png" for name in PICTURES},
    **{name: f"_{name}.png" if suffix == ".png" else suffix for name, suffix in SUFFIXES.items()},
    **{name: f"_{kind}.npy" for name, kind in ARRAYS.items()},
}
"""How the names of files end, by what --formats takes."""

if TYPE_CHECKING:
    from deqflow.stream import Direction

    Kind = str
    Results = dict[tuple[Direction, Kind], Path]
else:
    Kind = tyro.extras.literal_type_from_choices(ENDINGS)

DEFAULT_FORMATS: tuple[Kind, ...] = ("color", "flo")


@dataclass(frozen=True, kw_only=True)
class FlowOptions(EstimatorOptions):
    """Flow between two images, or between all neighbors in a folder of frames or a list of them.

    Results are named after the first frame of their pair.

    Attributes:
        frames: Two images, or more in order, or one folder of images (taken in natural order).
        output: Folder for the results; or, of two images, one file, whose suffix says what it is: .flo,
            .flo5, .pfm, .npy, .npz, .exr, or .png for the colors (for KITTI's, add --formats kitti).
        formats: What to write in the folder: color is a PNG in the usual color wheel, flo Middlebury's
            format, kitti KITTI's 16-bit PNG, flo5 Spring's HDF5, pfm FlyingThings3D's, npy and npz NumPy's,
            exr OpenEXR motion vectors. Further PNGs: arrows and overlay on the frame, side-by-side with it,
            warped (frame 2 carried back, which should be frame 1), occlusion (where forward and backward
            flow disagree), uncertainty (the error that the model expects of itself) and movement (how far one
            more step would move the flow). uncertainty-npy and occlusion-npy are their numbers; of occlusion,
            where flow forward and back do not return to within sqrt(0.01 (|f|^2 + |b|^2) + 0.5) pixels
            (Sundaram 2010) or leave the frame.
        direction: forward is the flow from a frame to the next, backward that from the next back to it, its
            files named with _backward.
    """

    frames: tyro.conf.Positional[tuple[Path, ...]]
    output: str = "output"
    formats: tuple[Kind, ...] = DEFAULT_FORMATS
    direction: Literal["forward", "backward", "both"] = "forward"

    @property
    def directions(self) -> "tuple[Direction, ...]":
        """The directions to write."""
        return ("forward", "backward") if self.direction == "both" else (self.direction,)


def run(options: FlowOptions) -> int:
    """Estimate and write; return the exit code.

    Raises:
        DeqflowError, OSError: an input or an option does not hold; said in one sentence.
    """
    from deqflow.stream import FlowStream

    frames = _frames(options.frames)
    results = _results(options, frames)
    outputs = [path for paths in results for path in paths.values()]
    prepare_outputs(outputs, overwrite=options.overwrite, sources=frames)
    images = _images(frames, options.max_side)
    first = next(images)
    model = options.load()
    require_memory(model, first.shape[:2], stills=True)
    for kind in {"uncertainty", "uncertainty-npy"}.intersection(options.formats):
        if model.uncertainty is None:
            raise ConfigError(f"--formats {kind}: {options.model} does not tell how far its flow may be off")
    stream = FlowStream(model, stills=True)
    stream.push(first)
    scale = ColorScale(fixed=options.max_flow)
    last = VideoFrame(first, Fraction(0), 1, frames[0].name, frames[0])
    wanted = {ARRAYS.get(kind, kind) for kind in options.formats}
    progress = tqdm(results, unit="pair", disable=options.quiet or len(results) == 1)
    for number, (image, paths) in enumerate(zip(images, progress, strict=True), 2):
        solved = push(stream, image, options.directions, wanted)
        pair = Pair(last, image, solved, stream.cut, stream.duplicate)
        _write(pair, paths, scale, legend=options.legend)
        last = VideoFrame(image, Fraction(number - 1), number, frames[number - 1].name, frames[number - 1])
        if not options.quiet:
            said = f"{frames[number - 2].name} -> {last.name}: {_told(pair)}"
            tqdm.write(f"{said}: {', '.join(map(str, paths.values()))}")
    return 0


def _images(frames: list[Path], max_side: int | None) -> Iterator[NDArray[np.uint8]]:
    """Read frames of one size, scaled down to ``max_side``."""
    whole = None
    for path in frames:
        image = read_image(path)
        if whole is not None and image.shape != whole:
            raise ImageError(
                f"{path} is {image.shape[1]}x{image.shape[0]} pixels, "
                f"{frames[0]} is {whole[1]}x{whole[0]}; expected frames of one size"
            )
        whole = image.shape
        yield shrink(image, max_side)


def _write(pair: Pair, paths: "Results", scale: ColorScale, *, legend: bool) -> None:
    """Write the results of a pair."""
    length = scale.update(next(iter(pair.solved.values())).estimate.flow, cut=pair.cut)
    for (direction, kind), path in paths.items():
        solved = pair.solved[direction]
        if kind in PICTURES:
            write_image(path, PICTURES[kind](pair.shown(direction, length, legend=legend)))
        elif kind in ARRAYS:
            replace_bytes(path, npy_bytes(solved.numbers()[ARRAYS[kind]]))
        else:
            write_flow(path, solved.estimate.flow)


def _told(pair: Pair) -> str:
    """Say in a few words what came of a pair."""
    solved = next(iter(pair.solved.values()))
    record = solved.record()
    ended = {
        "converged": "converged",
        "out of steps": f"moving {record.residual:.2g} px per step",
        "diverged": "diverged, this is the last finite flow",
    }[record.outcome]
    cut = "; the frames show different scenes" if pair.cut else ""
    steps = f"{solved.estimate.steps} steps ({ended})"
    return f"mean |flow| {record.mean_motion:.2f} px, {steps}, {record.milliseconds:.0f} ms{cut}"


def _frames(given: tuple[Path, ...]) -> list[Path]:
    if len(given) == 1 and given[0].is_dir():
        found = _without_results(list_files(given[0], IMAGE_SUFFIXES))
        if len(found) < 2:
            raise ImageError(f"the folder {given[0]} holds {len(found)} images, flow needs at least two")
        return found
    if len(given) == 1 and not given[0].exists():
        raise ImageError(f"{given[0]} does not exist")
    if len(given) < 2:
        raise ConfigError(
            f"expected two images or a folder of frames, got {' '.join(map(str, given)) or 'none'}"
        )
    return list(given)


def _without_results(images: list[Path]) -> list[Path]:
    """Images without those that this command has written beside the frames they were estimated from."""
    endings = "|".join(re.escape(ending) for ending in ENDINGS.values() if ending.endswith(".png"))
    result = re.compile(rf"(?:\d{{6}}_)?(.+?)(?:_backward)?(?:{endings})")
    stems = {image.stem for image in images}

    def written(image: Path) -> bool:
        found = result.fullmatch(image.name)
        return found is not None and found[1] in stems

    return [image for image in images if not written(image)]


def _results(options: FlowOptions, frames: list[Path]) -> "list[Results]":
    """Return what to write for each pair."""
    output = Path(options.output)
    if not is_file_name(options.output, FLOW_FORMATS):
        stems = {"forward": "", "backward": "_backward"}
        return [
            {
                (direction, kind): output / (name + stems[direction] + ENDINGS[kind])
                for direction in options.directions
                for kind in options.formats
            }
            for name in _result_names(frames[:-1])
        ]
    if len(frames) > 2:
        raise ConfigError(f"--output {output} is one file, expected a folder for {len(frames) - 1} pairs")
    if len(options.directions) > 1:
        raise ConfigError(f"--output {output} is one file, expected a folder for both directions")
    fitting = [kind for kind in ENDINGS if ENDINGS[kind].endswith(output.suffix.lower())]
    kinds = fitting[:1] if options.formats == DEFAULT_FORMATS else list(options.formats)
    if len(kinds) != 1 or kinds[0] not in fitting:
        raise ConfigError(f"--output {output} takes --formats {' or '.join(fitting)}, got {' '.join(kinds)}")
    return [{(options.directions[0], kinds[0]): output}]


def _result_names(frames: list[Path]) -> list[str]:
    """Return stems where they are unique, numbered otherwise (a/left.png b/left.png)."""
    stems = [frame.stem for frame in frames]
    if max(Counter(stems).values()) == 1:
        return stems
    return [f"{number:06d}_{stem}" for number, stem in enumerate(stems, 1)]
