"""``deqflow export``: a model as an ONNX file."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from deqflow.commands.common import Scales, check_suffix, prepare_outputs
from deqflow.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a model as an ONNX file that other runtimes take, for frames of any size from some size on.

    Inputs are `image1` and `image2` (1, 3, H, W), RGB of 0..255; the output is `flow` (1, 2, H, W), u right
    and v down in pixels. All steps are run, however still the flow stands.

    Attributes:
        output: The .onnx file to write.
        model: Name of a preset; `deqflow models` lists them.
        checkpoint: File of weights; without it, the weights that ship with the model.
        steps: Evaluations of the update operator at each scale. The file grows with them, and so do the
            minutes that it takes to write.
        scales: Strides to solve at, coarse to fine, or all or fast; without it, the model's own without
            those that only large frames have: every frame goes through all of them.
        overwrite: Replace a file that is already there.
    """

    output: tyro.conf.Positional[Path]
    model: str = "deqflow-s"
    checkpoint: Path | None = None
    steps: int = 8
    scales: Scales | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be written, naming the option."""
        check_suffix(self.output, ".onnx")
        if self.steps < 1:
            raise ConfigError(f"--steps must be at least 1, got {self.steps}")


def run(options: ExportOptions) -> int:
    """Export and return the exit code.

    Raises:
        DeqflowError, OSError: a file or an option does not hold; said in one sentence.
    """
    from deqflow import zoo
    from deqflow.export import export_onnx, usual_settings

    sources = [] if options.checkpoint is None else [options.checkpoint]
    prepare_outputs([options.output], overwrite=options.overwrite, sources=sources)
    model = zoo.load(options.model, checkpoint=options.checkpoint, device="cpu", precision="float32")
    settings = model.settings(steps=options.steps, scales=options.scales)
    if options.scales is None:
        settings = usual_settings(model, settings)
    exported = export_onnx(model, options.output, settings)
    steps = ", ".join(f"{settings.steps_at(scale)} at 1/{scale}" for scale in settings.scales)
    print(
        f"{options.output}: {model.name}, steps: {steps}, for frames of at least "
        f"{exported.smallest_side}x{exported.smallest_side} pixels"
    )
    return 0
