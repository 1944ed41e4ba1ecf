"""Runs of ``deqflow`` that are broken off at a chosen moment, each in a process of its own.

``python broken_runs.py`` reads a job per line (JSON) from standard input and answers with a line each. What
takes long to import is imported once; every job is a fork of that process.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parent.parent

_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


class BrokenRuns:
    """The process that runs jobs; a context manager."""

    def __enter__(self) -> Self:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        environment["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"  # macOS would end the forks
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def run(
        self, folder: Path, arguments: Sequence[object], breaks: Mapping[str, Any] | None = None
    ) -> tuple[int, int, str]:
        """Run ``deqflow`` in a folder.

        Args:
            folder: the working directory.
            arguments: of the command.
            breaks: ``{"signal": number, "event": n}`` sends itself a signal before the n-th change of files
                that Python makes, ``{"signal": number, "seconds": t}`` after a time; ``{"bytes": n}`` lets no
                file grow beyond that, which is as near to a full disk as one gets without one.

        Returns:
            The exit code, negative for a signal; how many changes there were (0 if it was killed), and what
            was said.
        """
        job = {"folder": str(folder), "arguments": list(map(str, arguments)), "breaks": dict(breaks or {})}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code, events = json.loads(self._process.stdout.readline())
        return code, events, (folder.parent / f"{folder.name}.err").read_text()


def _child(job: dict[str, Any], pipe: int) -> None:
    from deqflow.cli import main

    folder, breaks = Path(job["folder"]), job["breaks"]
    os.chdir(folder)
    count = 0

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, mode, _ = arguments
            if not isinstance(path, str | os.PathLike) or not set(mode or "r") & set("wax+"):
                return
        elif event not in _EVENTS:
            return
        count += 1
        if count == breaks.get("event"):
            os.kill(os.getpid(), breaks["signal"])

    with (
        (folder.parent / f"{folder.name}.err").open("w") as said,
        redirect_stderr(said),
        redirect_stdout(said),
    ):
        sys.addaudithook(audit)
        if "bytes" in breaks:
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (breaks["bytes"], most))
        try:
            code = main(job["arguments"])
        except BaseException:
            traceback.print_exc(file=said)
            code = 99
    os.write(pipe, json.dumps(count).encode())
    os._exit(code)


def _serve() -> None:
    import deqflow.commands.video
    import deqflow.io.clip_file
    import deqflow.stream
    import deqflow.zoo  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            try:
                _child(job, write)
            finally:
                os._exit(99)
        os.close(write)
        if "seconds" in job["breaks"]:
            time.sleep(job["breaks"]["seconds"])
            os.kill(child, job["breaks"]["signal"])
        with os.fdopen(read) as answer:
            counted = answer.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, int(counted or 0)]), flush=True)


def moments(seed: int, count: int, last: int) -> list[int]:
    """Different numbers from 1 to ``last``, spread over all of them."""
    numbers = random.Random(seed)
    return [round(last * (index + numbers.random()) / count) or 1 for index in range(count)]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _serve()
