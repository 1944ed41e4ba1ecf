"""Whether a saved state and the run that finds it belong together."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqflow.errors import ConfigError

DECIDING = ("stage", "model", "optimizer")
"""Another run altogether if they differ."""
INDIFFERENT = (
    *("output", "stages", "data", "textures", "device", "workers", "dry_run", "compile"),
    *("max_minutes", "save_minutes", "validate_minutes", "validation_pairs", "keep", "max_skipped"),
)
"""They change nothing that is learned, or (places of data) only where the ``identity`` tells."""


def check_resumable(
    path: Path, saved: Mapping[str, Any], recipe: str, identity: Mapping[str, str]
) -> list[str]:
    """What a run changes compared with the state it resumes, each as a few words.

    Args:
        path: of the state, for messages.
        saved: the state; one of format 1 does not know its data.
        recipe: this run's options as JSON.
        identity: of this run's data, as ``Sources.identity``.

    Raises:
        ConfigError: the state is of another stage, model or optimizer.
    """
    then, now = json.loads(saved.get("options", "{}")), json.loads(recipe)
    then.setdefault("optimizer", "adamw")  # the only one there was
    for name in DECIDING:
        if then.get(name, now[name]) != now[name]:
            raise ConfigError(
                f"{path} was saved by a run with {name} {then[name]!r}, not {now[name]!r}: --output must "
                "name another folder"
            )
    changed = [
        f"{name} {now[name]} instead of {then[name]}"
        for name in now
        if name not in (*DECIDING, *INDIFFERENT) and name in then and then[name] != now[name]
    ]
    known = json.loads(saved.get("identity", "{}"))
    changed += [
        f"other {name} than before" for name in identity if known.get(name, identity[name]) != identity[name]
    ]
    changed += [f"without {name}" for name in known if name not in identity]
    return changed
