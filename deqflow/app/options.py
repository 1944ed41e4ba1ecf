"""Options of ``deqflow app``."""

from dataclasses import dataclass

from deqflow.commands.common import ModelOptions
from deqflow.errors import ConfigError

LEAST = {"max_side": 64, "max_frames": 2}
"""Of what a visitor may choose up to the app's own limits."""


@dataclass(frozen=True, kw_only=True)
class AppOptions(ModelOptions):
    """A page for this machine's browser: drop a clip or two frames, see and download their flow.

    It is reached from this machine alone (127.0.0.1). What is dropped is kept in a temporary folder, which
    is deleted when the app ends (Ctrl-C).

    Attributes:
        port: Of the page's address; 0 takes a free one.
        browser: Open the page in the browser.
        max_side: Most pixels on the longer side of frames; larger ones are scaled down.
        max_frames: Most frames of a clip that are read.
        max_megabytes: Size of the largest file that is taken.
    """

    port: int = 7860
    browser: bool = True
    max_side: int = 960
    max_frames: int = 300
    max_megabytes: int = 500

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        for name, least in {**LEAST, "port": 0, "max_megabytes": 1}.items():
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} must be at least {least}, got {getattr(self, name)}")
        if self.port > 65535:
            raise ConfigError(f"--port must be at most 65535, got {self.port}")
