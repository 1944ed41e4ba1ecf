"""``deqflow models``: the presets and where their weights are."""

from dataclasses import dataclass

from deqflow import zoo
from deqflow.errors import CheckpointError


@dataclass(frozen=True)
class ModelsOptions:
    """List the models."""


def run(options: ModelsOptions) -> int:
    """Prints a paragraph per preset; the exit code."""
    for name, preset in zoo.PRESETS.items():
        parameters = sum(parameter.numel() for parameter in zoo.create(name).parameters())
        defaults = preset.defaults
        try:
            weights = str(zoo.shipped_weights(name))
        except CheckpointError:
            weights = "none shipped, --checkpoint needed"
        print(f"{name}: {preset.summary}")
        print(f"  {parameters / 1e6:.2f} M parameters; weights: {weights}")
        print(f"  by default at most {defaults.steps} steps, tolerance {defaults.tolerance:g} px per step")
    return 0
