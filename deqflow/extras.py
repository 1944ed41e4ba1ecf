"""Libraries that only some tasks need: what to install where one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from deqflow.errors import MissingExtraError


@contextmanager
def requires(extra: str, task: str) -> Iterator[None]:
    """Say which extra of this package brings the libraries that are imported in the body.

    Args:
        extra: a name of pyproject.toml's optional dependencies.
        task: what needs them, the subject of the sentence.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "deqflow").partition(".")[0] == "deqflow":
            raise  # a fault of ours, not an installation without extras
        raise MissingExtraError(
            f"{task} needs the package {error.name}, which `pip install 'deqflow[{extra}]'` brings"
        ) from error
