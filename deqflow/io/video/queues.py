"""Work beside each other: reading ahead of the one who takes, and writing behind the one who gives."""

import threading
from collections.abc import Callable, Generator, Iterable
from queue import Queue
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds to wait for a reader at the end. One that waits for a stalled pipe is left alone."""


def ahead(items: Iterable[T], depth: int = 2) -> Generator[T]:
    """Yield ``items``, of which up to ``depth`` are made ahead in a thread; its errors are raised here."""
    ready: Queue[tuple[str, Any]] = Queue(max(2, depth))
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, stopped), daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        while not ready.empty():  # makes room for whom may be waiting to put
            ready.get_nowait()
        thread.join(_PATIENCE)


def _fill(items: Iterable[T], ready: "Queue[tuple[str, Any]]", stopped: threading.Event) -> None:
    iterator = iter(items)
    try:
        for item in iterator:
            ready.put(("item", item))
            if stopped.is_set():
                break
        ready.put(("end", None))
    except BaseException as error:  # whatever it is, the one who takes shall have it
        ready.put(("error", error))
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


class Behind:
    """Calls functions in order in a thread, with at most ``depth`` waiting.

    A context manager: leaving it, however, waits until all are done. What one raises is raised by the next
    `call`, or on leaving; none is called after it.
    """

    def __init__(self, depth: int = 2) -> None:
        self._waiting: Queue[Callable[[], None] | None] = Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def call(self, function: Callable[[], None]) -> None:
        """Let a function be called, after those before."""
        self._raise()
        self._waiting.put(function)

    def _work(self) -> None:
        while (function := self._waiting.get()) is not None:
            if self._error is None:
                try:
                    function()
                except BaseException as error:  # whatever it is, the one who gives shall have it
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if kind is None:
            self._raise()
