"""Models as folders, in the form of the Hugging Face Hub: weights, configuration and a model card.

`save_pretrained` and `from_pretrained` do what the methods of these names do in the hub's library: a folder
that the one writes is what the other reads, from the disk or from the hub, whose files are kept in the
library's cache. Weights are safetensors and nothing else: no code comes from a hub.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from deqflow.errors import CheckpointError
from deqflow.estimator import DEQFlow
from deqflow.extras import requires
from deqflow.io.files import replace_bytes
from deqflow.tables import markdown
from deqflow.zoo.loading import save_weights
from deqflow.zoo.presets import PRESETS
from deqflow.zoo.weights import Weights

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
"""Names of the files, the hub's own."""

LICENSES = {"AGPL-3.0": "agpl-3.0", "Apache-2.0": "apache-2.0", "BSD-3-Clause": "bsd-3-clause"}
"""Licenses of weights by their names on the hub; others are called ``other`` there."""

METRICS = {"epe": "end-point error, pixels", "fl_all": "Fl-all, %"}
"""Those of a data set that a card lists, by their names in the results of ``deqflow evaluate --json``."""

NOT_LISTED = ("config", "license", "metrics", "model", "recipe")
"""What the weights say of themselves and the card says elsewhere, or leaves to ``Weights``."""

_HOW_TO_USE = """
Optical flow by a deep-equilibrium model (Bai et al., *Deep Equilibrium Optical Flow Estimation*, CVPR 2022):

```python
import deqflow

model = deqflow.from_pretrained("FOLDER OR NAME ON THE HUB")
flow = model.estimate("frame1.png", "frame2.png").flow
```
"""


def save_pretrained(
    model: DEQFlow,
    folder: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    description: str = "",
) -> Path:
    """Write a model as a folder of the hub: ``model.safetensors``, ``config.json`` and ``README.md``.

    Files of these names in the folder are replaced. ``huggingface_hub.upload_folder`` publishes it.

    Args:
        model: one of a preset's architecture.
        folder: made if it is not there.
        metrics: results to list in the card, as ``deqflow evaluate --json`` writes them; without them those
            of ``metadata``.
        metadata: what else to keep in the weights and tell in the card: data, steps, license, ...; that of
            the file which the model is from is ``Weights.of(file).metadata``.
        description: paragraphs of the card.

    Returns:
        The folder.

    Raises:
        MissingExtraError: the library ``huggingface_hub`` is not installed.
    """
    folder = Path(folder)
    about = dict(metadata or {})
    if metrics is not None:
        about["metrics"] = json.dumps({"measured": dict(metrics)})
    measured = json.loads(about.get("metrics", "{}")).get("measured", {})
    card = _card(model, about, measured, description)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS, metadata=about)
    config = {"library_name": "deqflow", "model": model.name, "config": model.config.to_dict()}
    replace_bytes(folder / CONFIG, json.dumps(config, indent=2).encode() + b"\n")
    replace_bytes(folder / CARD, card.encode())
    return folder


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
    **options: Any,
) -> DEQFlow:
    """Load a model that `save_pretrained` wrote, ready to estimate.

    Args:
        source: a folder, or a repository on the hub (``user/name``).
        revision: a branch, tag or commit there.
        cache_dir: where the hub's files are kept.
        force_download: fetch them again.
        local_files_only: take what is in the cache and open no connection.
        token: for private repositories.
        **options: those of `load` except its ``name`` and ``checkpoint``: ``device``, ``precision``, ...

    Raises:
        CheckpointError: there are no such weights, or they are of no architecture of ours.
        MissingExtraError: of a repository, the library ``huggingface_hub`` is not installed.
    """
    path = Path(source) / WEIGHTS
    if not Path(source).is_dir():
        path = _download(
            str(source),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
    return Weights.of(path).load(**options)


def _download(repository: str, **options: Any) -> Path:
    with requires("hub", "a model of the Hugging Face Hub"):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    try:
        return Path(hf_hub_download(repository, WEIGHTS, library_name="deqflow", **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{repository!r} is no folder and not to be had from the hub: {reason}"
        ) from error


def _card(model: DEQFlow, about: Mapping[str, str], metrics: Mapping[str, Any], description: str) -> str:
    """Return the model card: the hub's metadata, then a page for people."""
    with requires("hub", "a model card"):
        from huggingface_hub import ModelCardData
    license = about.get("license", PRESETS[model.name].license if model.name in PRESETS else "other")
    results = list(_results(model.name, metrics))
    data = ModelCardData(
        license=LICENSES.get(license, "other"),
        library_name="deqflow",
        tags=["optical-flow", "deep-equilibrium", "video", "pytorch"],
        model_name=model.name if results else None,  # needed by results and only by them
        eval_results=results or None,
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [f"# {model.name}", _HOW_TO_USE, f"{parameters:,} parameters. License of the weights: {license}."]
    lines += ["", description] if description else []
    told = {name: value for name, value in about.items() if name not in NOT_LISTED}
    if told:
        lines += ["", *(f"- {name.replace('_', ' ')}: {value}" for name, value in told.items())]
    if results:
        rows = [
            [f"{name} ({totals['pairs']} pairs)", *(_two_places(totals.get(metric)) for metric in METRICS)]
            for name, totals in _totals(model.name, metrics)
        ]
        lines += ["", *markdown(["data set", *METRICS.values()], rows)]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n"


def _results(name: str, metrics: Mapping[str, Any]) -> Iterator["EvalResult"]:
    from huggingface_hub import EvalResult

    for data_set, totals in _totals(name, metrics):
        for metric, told in METRICS.items():
            if _is_number(totals.get(metric)):
                yield EvalResult(
                    task_type="optical-flow",
                    task_name="Optical flow estimation",
                    dataset_type=data_set.lower().replace(" ", "-"),
                    dataset_name=data_set,
                    metric_type=metric,
                    metric_name=told,
                    metric_value=totals[metric],
                )


def _totals(name: str, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the data sets of an evaluation, and the totals of the model in each."""
    for data_set, methods in metrics.get("datasets", {}).items():
        if name in methods:
            yield data_set, methods[name]


def _two_places(value: object) -> str:
    return f"{value:.2f}" if _is_number(value) else ""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float)
