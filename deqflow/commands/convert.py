"""``deqflow convert``: published checkpoints as weight files of ours."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from deqflow.commands.common import check_suffix, prepare_outputs
from deqflow.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Write a checkpoint of DEQ-Flow or RAFT as a safetensors file that says what it is.

    Attributes:
        source: The checkpoint: a published .pth file, or a safetensors file.
        output: The .safetensors file to write.
        model: Name of a preset; without it, the one that the checkpoint fits.
        metrics: JSON file to keep in the metadata, as `deqflow evaluate --json` writes it.
        dtype: Number format of the file. float16 halves its size.
        overwrite: Replace a file that is already there.
    """

    source: tyro.conf.Positional[Path]
    output: tyro.conf.Positional[Path]
    model: str | None = None
    metrics: Path | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Rejects what could not be loaded again."""
        check_suffix(self.output, ".safetensors")


def run(options: ConvertOptions) -> int:
    """Convert and return the exit code.

    Raises:
        DeqflowError, OSError: a file or an option does not hold; said in one sentence.
    """
    from deqflow import zoo
    from deqflow.devices import PRECISIONS

    prepare_outputs([options.output], overwrite=options.overwrite, sources=[options.source])
    model = zoo.convert(
        options.source,
        options.output,
        name=options.model,
        metrics=_read_metrics(options.metrics),
        dtype=PRECISIONS[options.dtype],
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.output}: {model.name}, {parameters:,} parameters, from {options.source}")
    print(f"Use it with --model {model.name} --checkpoint {options.output}")
    return 0


def _read_metrics(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"--metrics {path} is not JSON: {error}") from error
    if not isinstance(metrics, dict):
        raise ConfigError(f"--metrics {path} holds no JSON object")
    return metrics
