"""``deqflow models``: the presets, where their weights are, and what published checkpoints of them reach."""

from dataclasses import dataclass

from deqflow.errors import CheckpointError
from deqflow.tables import markdown


@dataclass(frozen=True)
class ModelsOptions:
    """List the models."""


def run(options: ModelsOptions) -> int:
    """Print two tables and return the exit code."""
    from deqflow import zoo

    header = ["model", "parameters", "steps", "tolerance", "scales", "license of weights", "weights"]
    rows = []
    for name, preset in zoo.PRESETS.items():
        defaults = preset.defaults
        rows.append(
            [
                name,
                f"{parameter_count(name):,}",
                str(defaults.steps),
                f"{defaults.tolerance:g}",
                " ".join(map(str, defaults.scales)),
                preset.license,
                _weights(name),
            ]
        )
    print("\n".join(markdown(header, rows)))
    print("\nPublished results after FlyingChairs and FlyingThings (EPE in pixels on training sequences):\n")
    header = ["model", "checkpoint", "Sintel clean", "Sintel final", "KITTI 2015", "Fl-all %"]
    rows = [
        [
            name,
            result.checkpoint,
            f"{result.sintel_clean:.2f}",
            f"{result.sintel_final:.2f}",
            f"{result.kitti_epe:.2f}",
            f"{result.kitti_fl:.2f}",
        ]
        for name, preset in zoo.PRESETS.items()
        for result in preset.published
    ]
    print("\n".join(markdown(header, rows)))
    print("\nPublished checkpoints are not part of this package: --checkpoint reads them as they are.")
    return 0


def parameter_count(name: str) -> int:
    """Parameters of a preset, without making them."""
    from deqflow import zoo

    return sum(parameter.numel() for parameter in zoo.skeleton(zoo.PRESETS[name].config).parameters())


def _weights(name: str) -> str:
    from deqflow import zoo

    try:
        zoo.shipped_weights(name)
    except CheckpointError:
        return "--checkpoint"
    return "shipped"
