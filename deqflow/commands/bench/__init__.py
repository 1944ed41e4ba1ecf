"""``deqflow bench``: seconds, solver steps, starts, memory, errors, and how well a model knows its errors.

Candidates take turns in one run, so that a machine whose speed drifts slows all of them alike.
"""

import os
from typing import Annotated

import tyro

from deqflow.commands.bench.base import FrameOptions
from deqflow.commands.bench.errors import ErrorsOptions, SolversOptions, StartsOptions, UncertaintyOptions
from deqflow.commands.bench.speed import (
    MemoryOptions,
    PlainOptions,
    ProcessesOptions,
    RooflineOptions,
    SpeedOptions,
    TrainingOptions,
    VideoOptions,
)
from deqflow.errors import ConfigError

BenchOptions = (
    Annotated[SpeedOptions, tyro.conf.subcommand("speed")]
    | Annotated[RooflineOptions, tyro.conf.subcommand("roofline")]
    | Annotated[PlainOptions, tyro.conf.subcommand("plain")]
    | Annotated[SolversOptions, tyro.conf.subcommand("solvers")]
    | Annotated[ErrorsOptions, tyro.conf.subcommand("errors")]
    | Annotated[StartsOptions, tyro.conf.subcommand("starts")]
    | Annotated[VideoOptions, tyro.conf.subcommand("video")]
    | Annotated[UncertaintyOptions, tyro.conf.subcommand("uncertainty")]
    | Annotated[ProcessesOptions, tyro.conf.subcommand("processes")]
    | Annotated[MemoryOptions, tyro.conf.subcommand("memory")]
    | Annotated[TrainingOptions, tyro.conf.subcommand("training")]
)


def run(options: FrameOptions) -> int:
    """Measure and print; the exit code.

    Raises:
        DeqflowError, OSError: an option does not hold; said in one sentence.
    """
    # The profiler announces itself on standard error unless told otherwise before torch is imported.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from deqflow.devices import keep_freed_memory, set_threads

    if options.threads is not None and options.threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {options.threads}")
    keep_freed_memory()
    set_threads(options.threads)
    options.measure()
    return 0
