"""``deqflow flow``: flow between two images, or through a folder of frames."""

import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro
from tqdm import tqdm

from deqflow.commands.common import EstimatorOptions, is_file_name, prepare_outputs, require_memory
from deqflow.errors import ConfigError, ImageError
from deqflow.io import FLOW_FORMATS, read_image, shrink, write_flow, write_image
from deqflow.io.files import list_files
from deqflow.io.flow_files import SUFFIXES
from deqflow.io.images import IMAGE_SUFFIXES
from deqflow.visualize import PICTURES, ColorScale, ShownPair

ENDINGS = {
    **{name: "_flow.png" if name == "color" else f"_{name}.png" for name in PICTURES},
    **{name: f"_{name}.png" if suffix == ".png" else suffix for name, suffix in SUFFIXES.items()},
}
"""How the names of files end, by what --formats takes."""

if TYPE_CHECKING:
    Kind = str
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
            more step would move the flow).
    """

    frames: tyro.conf.Positional[tuple[Path, ...]]
    output: str = "output"
    formats: tuple[Kind, ...] = DEFAULT_FORMATS


def run(options: FlowOptions) -> int:
    """Estimate and write; the exit code.

    Raises:
        DeqflowError, OSError: an input or an option does not hold; said in one sentence.
    """
    from deqflow.equilibrium import Outcome
    from deqflow.geometry import occlusion
    from deqflow.stream import FlowStream

    frames = _frames(options.frames)
    results = _results(options, frames)
    outputs = [path for paths in results for path in paths.values()]
    prepare_outputs(outputs, overwrite=options.overwrite, sources=frames)
    whole = read_image(frames[0])
    first = shrink(whole, options.max_side)
    model = options.load()
    require_memory(model, first.shape[:2])
    if "uncertainty" in options.formats and model.uncertainty is None:
        raise ConfigError(f"--formats uncertainty: {options.model} does not tell how far its flow may be off")
    stream = FlowStream(model, reuse=False)
    stream.push(first)
    scale = ColorScale(fixed=options.max_flow)
    last = first
    for (before, after), paths in zip(
        tqdm(pairwise(frames), total=len(results), unit="pair", disable=len(results) == 1),
        results,
        strict=True,
    ):
        image = read_image(after)
        if image.shape != whole.shape:
            raise ImageError(
                f"{after} is {image.shape[1]}x{image.shape[0]} pixels, "
                f"{frames[0]} is {whole.shape[1]}x{whole.shape[0]}; expected frames of one size"
            )
        image = shrink(image, options.max_side)
        began = time.perf_counter()
        estimate = stream.push(image)
        assert estimate is not None
        seconds = time.perf_counter() - began
        pair = ShownPair(
            last,
            image,
            estimate.flow,
            scale.update(estimate.flow, cut=stream.cut),
            uncertainty=estimate.uncertainty,
        )
        if "occlusion" in paths:
            backward = stream.backward().flow
            pair = replace(pair, backward=backward, occlusion=occlusion(estimate.flow, backward))
        if "movement" in paths:
            pair = replace(pair, movement=stream.movement())
        for kind, path in paths.items():
            if kind in PICTURES:
                write_image(path, PICTURES[kind](pair))
            else:
                write_flow(path, estimate.flow)
        last = image
        length = float(np.hypot(estimate.flow[..., 0], estimate.flow[..., 1]).mean())
        ended = {
            Outcome.CONVERGED: "converged",
            Outcome.OUT_OF_STEPS: f"moving {estimate.residual:.2g} px per step",
            Outcome.DIVERGED: "diverged, this is the last finite flow",
        }[estimate.outcome]
        tqdm.write(
            f"{before.name} -> {after.name}: mean |flow| {length:.2f} px, {estimate.steps} steps ({ended}), "
            f"{1000 * seconds:.0f} ms: {', '.join(map(str, paths.values()))}"
        )
    return 0


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
    result = re.compile(rf"(?:\d{{6}}_)?(.+)(?:{endings})")
    stems = {image.stem for image in images}

    def written(image: Path) -> bool:
        found = result.fullmatch(image.name)
        return found is not None and found[1] in stems

    return [image for image in images if not written(image)]


def _results(options: FlowOptions, frames: list[Path]) -> list[dict[Kind, Path]]:
    """Return what to write for each pair."""
    output = Path(options.output)
    if not is_file_name(options.output, FLOW_FORMATS):
        names = _result_names(frames[:-1])
        return [{kind: output / (name + ENDINGS[kind]) for kind in options.formats} for name in names]
    if len(frames) > 2:
        raise ConfigError(f"--output {output} is one file, expected a folder for {len(frames) - 1} pairs")
    fitting = [kind for kind in ENDINGS if ENDINGS[kind].endswith(output.suffix.lower())]
    kinds = fitting[:1] if options.formats == DEFAULT_FORMATS else list(options.formats)
    if len(kinds) != 1 or kinds[0] not in fitting:
        raise ConfigError(f"--output {output} takes --formats {' or '.join(fitting)}, got {' '.join(kinds)}")
    return [{kinds[0]: output}]


def _result_names(frames: list[Path]) -> list[str]:
    """Return stems where they are unique, numbered otherwise (a/left.png b/left.png)."""
    stems = [frame.stem for frame in frames]
    if max(Counter(stems).values()) == 1:
        return stems
    return [f"{number:06d}_{stem}" for number, stem in enumerate(stems, 1)]
