"""How a process is asked to end: by Ctrl-C, by SIGTERM, by a terminal that is closed."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
ENDINGS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""The signals that ask for it; Windows has no SIGHUP."""


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let what asks to end wait for the end of a block; processes that start within it go on to hold it back.

    On Windows, where a process is ended by other means, nothing changes.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Take what asks to end again, in a process that was started while it was held back."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)


@contextlib.contextmanager
def on_ending(handle: Callable[[], None]) -> Iterator[None]:
    """Call a function where the process is asked to end; what it ignores (`nohup`) it goes on to ignore.

    Outside the main thread, which alone may say how signals are taken, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def take(number: int, frame: object) -> None:
        if signal.Signals(number).name == "SIGHUP":  # writing to a terminal that is gone would be an error
            nothing = os.open(os.devnull, os.O_WRONLY)
            for stream in terminals:
                os.dup2(nothing, stream)
            os.close(nothing)
        handle()

    ignored = (signal.SIG_IGN, None)
    before = {number: signal.getsignal(number) for number in ENDINGS}
    before = {number: handler for number, handler in before.items() if handler not in ignored}
    for number in before:
        signal.signal(number, take)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
