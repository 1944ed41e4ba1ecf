"""The ``deqflow`` command: which commands there are, and how they end.

A command is a dataclass of options, from which tyro builds its command line, and a function ``run(options)``.
Their modules are imported when called: ``deqflow --help`` need not wait for torch.
"""

import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module, metadata
from io import TextIOWrapper
from typing import Any

from deqflow.errors import DeqflowError, DeqflowWarning, one_sentence, out_of_memory
from deqflow.extras import requires
from deqflow.signals import ENDINGS, on_ending

EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130

HASTE = 5.0
"""Seconds for which a second Ctrl-C is heard as the first one still."""


@dataclass(frozen=True)
class Command:
    """Where a command's options and its ``run`` live, as ``module:name``, and what it does in a line.

    ``parse`` makes the options of the command line, where they are more than tyro's dataclass; ``extra`` is
    the optional dependency without which the command cannot run.
    """

    summary: str
    options: str
    run: str
    parse: str = "tyro:cli"
    extra: str | None = None


COMMANDS = {
    "flow": Command(
        "flow between two images, or through a folder of frames",
        "deqflow.commands.flow:FlowOptions",
        "deqflow.commands.flow:run",
    ),
    "video": Command(
        "flow of a video, an image sequence or a webcam, as a video",
        "deqflow.commands.video_options:VideoOptions",
        "deqflow.commands.video:run",
    ),
    "demo": Command(
        "the same on the clips that come with the package",
        "deqflow.commands.demo:DemoOptions",
        "deqflow.commands.demo:run",
    ),
    "corpus": Command(
        "flow of many clips, by the processes of one machine or of a cluster",
        "deqflow.commands.corpus:CorpusOptions",
        "deqflow.commands.corpus:run",
    ),
    "app": Command(
        "a page in the browser: drop a clip or two frames, see and download their flow",
        "deqflow.app.options:AppOptions",
        "deqflow.app.server:run",
        extra="app",
    ),
    "show": Command(
        "a flow file as a picture", "deqflow.commands.show:ShowOptions", "deqflow.commands.show:run"
    ),
    "compare": Command(
        "end-point differences of two flow files",
        "deqflow.commands.compare:CompareOptions",
        "deqflow.commands.compare:run",
    ),
    "models": Command(
        "the models there are", "deqflow.commands.models:ModelsOptions", "deqflow.commands.models:run"
    ),
    "datasets": Command(
        "the data sets there are, and whether one on disk is whole",
        "deqflow.commands.datasets:DatasetsOptions",
        "deqflow.commands.datasets:run",
    ),
    "convert": Command(
        "a published checkpoint as a safetensors file",
        "deqflow.commands.convert:ConvertOptions",
        "deqflow.commands.convert:run",
    ),
    "average": Command(
        "the mean of several weights of one model",
        "deqflow.commands.average:AverageOptions",
        "deqflow.commands.average:run",
    ),
    "calibrate": Command(
        "weights that expect the errors that they really make",
        "deqflow.commands.calibrate:CalibrateOptions",
        "deqflow.commands.calibrate:run",
    ),
    "export": Command(
        "a model as an ONNX file for other runtimes",
        "deqflow.commands.export:ExportOptions",
        "deqflow.commands.export:run",
    ),
    "evaluate": Command(
        "errors on data sets with ground truth",
        "deqflow.commands.evaluate:EvaluateOptions",
        "deqflow.commands.evaluate:run",
    ),
    "evaluate submit": Command(
        "flow of a test split as the benchmark's server takes it",
        "deqflow.commands.submit:SubmitOptions",
        "deqflow.commands.submit:run",
    ),
    "bench": Command(
        "what a model costs in seconds, solver steps and memory",
        "deqflow.commands.bench:BenchOptions",
        "deqflow.commands.bench:run",
    ),
    "study": Command(
        "claims of the papers on equilibrium models, measured",
        "deqflow.commands.study:StudyCommandOptions",
        "deqflow.commands.study:run",
        extra="train",
    ),
    "scenes": Command(
        "statistics and pictures of the synthetic training scenes",
        "deqflow.data.synthetic.report:ScenesOptions",
        "deqflow.data.synthetic.report:run",
    ),
    "train": Command(
        "train a model",
        "deqflow.training.options:TrainOptions",
        "deqflow.training.trainer:run",
        parse="deqflow.training.stages:parse",
        extra="train",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (the process's own by default) and return the exit code.

    0 is success, 2 wrong input (said in one sentence on standard error), 130 ended by Ctrl-C, SIGTERM or
    a terminal that is closed.
    """
    own = arguments is None
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _open_closed_streams()
    # GCC's OpenMP, which PyTorch has on Linux, reads this when torch is imported. Its threads wait for each
    # other with their cores kept busy, by default 300 times as long, which makes everything up to ten times
    # slower where another process wants one of the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Not every console can show every file name; a question mark is better than no result.
            stream.reconfigure(errors="replace")
    try:
        with terminable(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _dispatch(arguments)
    except KeyboardInterrupt:
        if own:
            for number in ENDINGS:
                signal.signal(number, signal.SIG_IGN)  # all is done; haste would only break off Python's end
        print("deqflow: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print(
            "deqflow: error: out of memory: smaller frames (--max-side, in training --height and --width) "
            "or a smaller --batch need less",
            file=sys.stderr,
        )
        return EXIT_WRONG_INPUT
    except (DeqflowError, OSError) as error:
        print(f"deqflow: error: {one_sentence(error)}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except SystemExit as end:  # tyro ends so after --help and after options that do not parse
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def _open_closed_streams() -> None:
    """Connect what is closed of standard input, output and error (`2>&-`, some schedulers) with nothing.

    The next file to be opened would get its number, and what libraries print would land in that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one; processes started from here have it too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end what runs as Ctrl-C does: what was written so far is finished.

    To be asked again at once, by a second Ctrl-C or by a wrapper that passes it on, breaks none of that off.
    """
    asked = -math.inf

    def interrupt() -> None:
        nonlocal asked
        now = time.monotonic()
        if now - asked > HASTE:
            asked = now
            raise KeyboardInterrupt

    with on_ending(interrupt):
        yield


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else EXIT_WRONG_INPUT
    name, *rest = arguments
    if name == "--version":
        print(metadata.version("deqflow"))
        return 0
    if name not in COMMANDS:
        raise DeqflowError(f"there is no command {name!r}, expected one of {', '.join(COMMANDS)}")
    if rest and f"{name} {rest[0]}" in COMMANDS:
        name, rest = f"{name} {rest[0]}", rest[1:]
    command = COMMANDS[name]
    options = _resolve(command.parse)(_resolve(command.options), args=rest, prog=f"deqflow {name}")
    with nullcontext() if command.extra is None else requires(command.extra, f"deqflow {name}"):
        run = _resolve(command.run)
    return run(options) or 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    usage = "usage: deqflow [--version] COMMAND ...\n\nOptical flow as the fixed point of a learned operator."
    return "\n".join(
        [usage, "", "commands:", *lines, "", "deqflow COMMAND --help lists a command's options."]
    )


def _resolve(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(import_module(module), name)


_show_any_warning = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **also: Any) -> None:
    """Our own warnings are about the user's files, in one line; where in the code they arose says nothing."""
    if issubclass(category, DeqflowWarning):
        print(f"deqflow: warning: {message}", file=sys.stderr)
    else:
        _show_any_warning(message, category, *where, **also)
