"""Options and checks that the commands share."""

import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deqflow.errors import ConfigError
from deqflow.io.flow_files import FLOW_FORMATS, check_flow_format
from deqflow.io.images import IMAGE_SUFFIXES, SMALLEST_SIDE
from deqflow.io.outputs import check_output, identities

if TYPE_CHECKING:
    from deqflow.estimator import DEQFlow

Scales = tuple[int, ...] | Literal["all", "fast", "fine"]
"""As ``deqflow.config.Scales``, whose module imports PyTorch, which help need not."""

SolverName = Literal["plain", "relaxed", "damped", "anderson", "broyden"]
"""The names of ``deqflow.equilibrium.SOLVERS``, spelled out so that help need not import it."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is solved.

    Attributes:
        model: Name of a preset; `deqflow models` lists them.
        checkpoint: File of weights; without it, the weights that ship with the model.
        device: auto, cpu, cuda, cuda:1, mps, ...
        precision: Number format of the network; auto takes bfloat16 where the device is fast at it, else
            float32.
        steps: Most evaluations of the update operator at each scale; without it, the model's own.
        fine_steps: And at scales finer than 1/8, where each costs four times as much or more.
        tolerance: Stop when the flow moves less than this many pixels per step; 0 runs all steps.
        solver: Where to evaluate next; without it, the model's own.
        scales: Strides to solve at, coarse to fine, each started from the flow of the one before (`16 8`
            solves half the size first, `8` starts from no motion), or by name: all of the model's strides,
            fast without those finer than 1/8, fine with half the finest too; without it, the model's own,
            which for deqflow-s are fine between single frames of up to 640x480 pixels, and else all.
        second_start: Begin coarse scales from no motion too, and go on from what explains the frames better:
            finds more of what is small and fast, in about a tenth more time.
        threads: Of the CPU to compute with; without it, one a core.
        deterministic: Give the same bits in every run on this machine, which may be slower.
    """

    model: str = "deqflow-s"
    checkpoint: Path | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    steps: int | None = None
    fine_steps: int | None = None
    tolerance: float | None = None
    solver: SolverName | None = None
    scales: Scales | None = None
    second_start: bool | None = None
    threads: int | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"--threads must be at least 1, got {self.threads}")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--steps must be at least 1, got {self.steps}")
        if self.fine_steps is not None and self.fine_steps < 1:
            raise ConfigError(f"--fine-steps must be at least 1, got {self.fine_steps}")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ConfigError(f"--tolerance must be 0 or more, got {self.tolerance:g}")

    def load(self, device: str | None = None) -> "DEQFlow":
        """Return the model, ready to estimate as the options say; on another device if one is given."""
        from deqflow import zoo
        from deqflow.devices import keep_freed_memory, make_deterministic, set_threads
        from deqflow.equilibrium import SOLVERS

        keep_freed_memory(2**25)
        set_threads(self.threads)
        if self.deterministic:
            make_deterministic()
        return zoo.load(
            self.model,
            checkpoint=self.checkpoint,
            device=device or self.device,
            precision=self.precision,
            steps=self.steps,
            fine_steps=self.fine_steps,
            tolerance=self.tolerance,
            solver=None if self.solver is None else SOLVERS[self.solver],
            scales=self.scales,
            second_start=self.second_start,
        )


@dataclass(frozen=True, kw_only=True)
class EstimatorOptions(ModelOptions):
    """Which model, how it is solved, and how its flow is drawn.

    Attributes:
        max_side: Scale frames down to this many pixels on the longer side; the flow is that of these.
        max_flow: Length in pixels drawn at full saturation; without it, it follows the motion.
        legend: Draw the color wheel and the length at full saturation into the pictures.
        overwrite: Replace results that are already there.
        quiet: Print nothing but warnings and errors.
    """

    max_side: int | None = None
    max_flow: float | None = None
    legend: bool = False
    overwrite: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        if self.max_side is not None and self.max_side < SMALLEST_SIDE:
            raise ConfigError(f"--max-side must be at least {SMALLEST_SIDE}, got {self.max_side}")
        if self.max_flow is not None and not self.max_flow > 0:
            raise ConfigError(f"--max-flow must be positive, got {self.max_flow:g}")


_MEDIA = re.compile(
    r"\.(avi|mov|mkv|webm|mp4|m4v|mpe?g|wmv|flv|ogv|3gp|m?2?ts|mxf|y4m|mp3|wav|gif|a?png|jxl|hei[cf]|svg|pdf|eps|"
    r"hdr|tga|psd|ico|mat|h5|hdf5|csv|json|txt|html|zip)"
)
"""Suffixes that tell a file from a folder: nobody calls a folder ``out.avi``."""


def is_file_name(output: str, supported: Collection[str], option: str = "--output") -> bool:
    """Return whether an output is meant as a file, rather than as a folder for several.

    A folder is what exists as one, ends in a slash or has no suffix of a medium (``runs/v1.2``).

    Args:
        output: as it was given.
        supported: the suffixes of files that can be written; none where only a folder will do.
        option: that it was given to.

    Raises:
        ConfigError: the suffix of an image, a video or another kind of file that is not ``supported``.
    """
    suffix = Path(output).suffix.lower()
    if output.endswith(("/", os.sep)) or Path(output).is_dir():
        return False
    medium = suffix in FLOW_FORMATS or suffix in IMAGE_SUFFIXES or _MEDIA.fullmatch(suffix)
    if medium and suffix not in supported:
        expected = f"{', '.join(supported)} or a folder" if supported else "a folder"
        raise ConfigError(f"{option} {output}: {suffix} cannot be written here, expected {expected}")
    return suffix in supported


def check_folder_names(**folders: Path | None) -> None:
    """Refuse folders that are called like files, by the options that name them; see `is_file_name`."""
    for name, folder in folders.items():
        is_file_name("" if folder is None else str(folder), (), "--" + name.replace("_", "-"))


BYTES_PER_PIXEL = {"shared": 350, "pyramid": 500, "separate": 550}
"""What an estimate was seen to take at most, correlated on demand, by encoder (docs/performance.md)."""


def require_memory(model: "DEQFlow", size: tuple[int, int], *, stills: bool = False) -> None:
    """Refuse frames for which the memory that is free is too short.

    Args:
        model: where it is, and its stride.
        size: height and width of the frames that it gets, pixels.
        stills: whether they do not follow each other.

    Raises:
        ConfigError: more than all memory is needed.
    """
    from deqflow.devices import free_memory
    from deqflow.network import GRUConfig

    height, width = size

    update = model.config.update
    attends = isinstance(update, GRUConfig) and update.attention

    def needed(scale: float) -> float:
        shrunk = scale * height, scale * width
        settings = model.defaults.on_stills(*shrunk) if stills else model.defaults
        # Below the finest of the model's strides it is larger frames that are solved.
        enlarged = max(1, model.config.stride / settings.scales[-1])
        pixels = math.prod(shrunk) * enlarged**2
        # Of attention between all positions, the float32 matrix before and after its softmax.
        attention = attends * 2 * 4 * (pixels / model.config.stride**2) ** 2
        return BYTES_PER_PIXEL[model.config.encoder.kind] * pixels + attention

    free, longest = free_memory(model.device), max(size)
    if needed(1) > free:
        fitting = next((side for side in range(longest, 0, -1) if needed((side + 1) / longest) <= free), 0)
        raise ConfigError(
            f"frames of {width}x{height} pixels need {needed(1) / 1e9:.1f} GB of memory, "
            f"of which {free / 1e9:.1f} are free: scale them down by --max-side {fitting} or less"
        )


def solve_record(model: "DEQFlow", *, video: bool = False) -> dict[str, Any]:
    """Return how a model solves single pairs, or frames that follow each other, for the record of a run."""
    settings = model.defaults.on_video() if video else model.defaults
    stills = {
        "still_pixels": settings.still_pixels,
        "refined_fine_steps": settings.refined_fine_steps,
    }
    return {
        "steps": settings.steps,
        **({} if settings.fine_steps is None else {"fine_steps": settings.fine_steps}),
        **({"carried_fine_steps": carried} if video and (carried := settings.carried_fine_steps) else {}),
        "tolerance": settings.tolerance,
        "scales": list(settings.scales),
        **(stills if settings.still_pixels else {}),
        **({"second_start": True} if settings.second_start else {}),
        "solver": str(settings.solver),
        "precision": str(model.precision).removeprefix("torch."),
        "device": model.device.type,
    }


def check_suffix(output: Path, suffix: str) -> None:
    """Raise ConfigError unless an output is named as the kind of file that it becomes."""
    if output.suffix != suffix:
        raise ConfigError(f"the output must be named {suffix}, not {output}")


def prepare_outputs(files: Iterable[Path], *, overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Before any work: make the folders of ``files``, check that they take files and hold none of these.

    Raises:
        ConfigError: a folder cannot be made or written to, or a file is named twice, is one of ``sources``,
            or exists and may not be replaced.
        FlowFileError: the library for a flow file is not installed.
    """
    files = list(files)
    repeated = [file for file, count in Counter(files).items() if count > 1]
    if repeated:
        raise ConfigError(f"two results would both be {repeated[0]}: name another place for one")
    for file in files:
        if file.suffix.lower() in FLOW_FORMATS:
            check_flow_format(file)
    read = identities(sources)
    for folder in dict.fromkeys(file.parent for file in files):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Permissions do not tell everything (read-only file systems, quotas): try.
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ConfigError(
                f"cannot write to the output folder {folder}: {error.strerror or error}"
            ) from error
    for file in files:
        check_output(file, overwrite=overwrite, sources=read)
