"""The report of an evaluation: one page that needs nothing but itself, and its pictures as PNG beside it."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from tqdm import tqdm

from deqflow import zoo
from deqflow.data.datasets import PairDataset
from deqflow.data.datasets.catalog import official_pairs
from deqflow.estimator import DEQFlow
from deqflow.evaluation.charts import Chart, charts
from deqflow.evaluation.pair_study import PairStudy, spearman, study_pair
from deqflow.evaluation.predictors import Item
from deqflow.evaluation.results import REPORT, SampleResult
from deqflow.evaluation.summary import FIGURES, Summary
from deqflow.io.files import replace_bytes
from deqflow.io.images import write_image
from deqflow.visualize import color_bar, flow_to_image, scalar_map, side_by_side, wheel

MOST_SAMPLES = 20
"""Samples that a page takes: it must stay light enough to be mailed."""

FEWEST = 8
"""Samples below which a correlation between them is not put into words."""

_WIDTH = 560  # pixels of a picture on the page
_PUBLISHED = {"MPI-Sintel clean": ("epe",), "MPI-Sintel final": ("epe",), "KITTI-2015": ("epe", "fl_all")}


@dataclass(frozen=True)
class Choice:
    """A sample that is shown, and why: "best", "median" or "worst" of its data set."""

    rank: str
    result: SampleResult
    item: Item


@dataclass(frozen=True)
class Picture:
    """One picture of a sample.

    Attributes:
        title: what it shows.
        image: uint8 RGB.
        scale: the value of the brightest color, for pictures of numbers.
    """

    title: str
    image: NDArray[np.uint8]
    scale: str = ""


@dataclass
class Findings:
    """What the page is about.

    Attributes:
        summary: totals of all methods.
        results: those of the model, one per pair.
        studies: the samples looked at closely.
        settings: what was run.
    """

    summary: Summary
    results: list[SampleResult]
    studies: list[tuple[Choice, PairStudy]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method of interest."""
        return self.summary.methods[0]


def write_report(
    folder: Path,
    model: DEQFlow,
    summary: Summary,
    datasets: Sequence[PairDataset],
    settings: Mapping[str, Any],
    *,
    samples: int = 12,
) -> Path:
    """Look closely at some samples and write the page and its pictures.

    Args:
        folder: where to; made if it is not there.
        model: the method of interest, the first of the summary.
        summary: totals of all methods on all pairs.
        datasets: what the pairs are in.
        settings: what was run, shown at the top.
        samples: how many are looked at and shown, at most ``MOST_SAMPLES``.

    Returns:
        The page.

    Raises:
        DeqflowError, OSError: a pair cannot be read, or the folder not be written.
    """
    method = summary.methods[0]
    own = [result for result in summary.results if result.method == method]
    studies = [
        (choice, study_pair(model, choice.item))
        for choice in tqdm(choose(own, datasets, min(samples, MOST_SAMPLES)), unit="sample", desc="report")
    ]
    findings = Findings(summary, own, studies, settings)
    drawn = charts(summary, own, [look for _, look in studies], tolerance=model.defaults.tolerance)
    for name in ("plots", "samples"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for chart in drawn:
        write_image(folder / "plots" / f"{chart.name}.png", chart.image)
    shown = []
    for number, (choice, look) in enumerate(studies, 1):
        pictures = sample_pictures(look)
        write_image(folder / "samples" / f"{number:02d}_{file_name(look.name)}.png", panel(pictures))
        shown.append({"choice": choice, "study": look, "pictures": pictures})
    replace_bytes(folder / REPORT, render(findings, drawn, shown).encode())
    return folder / REPORT


def choose(results: Sequence[SampleResult], datasets: Sequence[PairDataset], limit: int) -> list[Choice]:
    """Choose the worst, median and best sample of each data set, in their order; no more than ``limit``.

    If that is too many, best ones are left out first, then median ones. Without a finite EPE it is the worst.
    """
    chosen: list[tuple[str, int, SampleResult]] = []
    for number, dataset in enumerate(datasets):
        mine = sorted(
            (r for r in results if r.dataset == dataset.title and r.regions["all"].pixels),
            key=lambda result: (not math.isfinite(result.epe), result.epe),
        )
        if mine:
            ranks = {len(mine) - 1: "worst", (len(mine) - 1) // 2: "median", 0: "best"}
            if len(mine) < 3:
                ranks = {len(mine) - 1: "worst", 0: "best"} if len(mine) == 2 else {0: "only"}
            chosen += [(rank, number, mine[place]) for place, rank in ranks.items()]
    order = ("only", "worst", "median", "best")
    chosen = sorted(chosen, key=lambda choice: order.index(choice[0]))[:limit]
    places = {dataset.title: {f.name: i for i, f in enumerate(dataset.files)} for dataset in datasets}
    found = []
    for rank, number, result in sorted(chosen, key=lambda choice: (choice[1], -order.index(choice[0]))):
        dataset = datasets[number]
        found.append(Choice(rank, result, Item(dataset, dataset[places[dataset.title][result.name]])))
    return found


def sample_pictures(look: PairStudy) -> list[Picture]:
    """Draw what is shown of a sample: frames, truth, estimate, errors real and expected; all of one size."""
    sample, known = look.item.sample, look.known
    everywhere = np.ones(known.shape, bool)
    lengths = np.hypot(sample.flow[..., 0], sample.flow[..., 1])[sample.valid]
    longest = round_up(float(np.percentile(lengths, 99)) if lengths.size else 1.0)
    largest = round_up(float(np.percentile(look.error[known], 98)) if known.any() else 1.0)
    apart = round_up(float(np.percentile(look.disagreement, 99)))

    def frame(title: str, image: NDArray[np.uint8]) -> Picture:
        return Picture(title, np.clip(np.rint(shrink_known(image, everywhere)), 0, 255).astype(np.uint8))

    def motion(title: str, flow: NDArray[np.float32], where: NDArray[np.bool_]) -> Picture:
        small = shrink_known(flow, where)
        return Picture(title, flow_to_image(small, longest, clip=True), f"{longest:g} px")

    def numbers(title: str, values: NDArray[np.floating], most: float, where: NDArray[np.bool_]) -> Picture:
        small = shrink_known(values[..., None], where)[..., 0]
        return Picture(title, scalar_map(small, most), f"{most:g} px")

    pictures = [
        frame("Frame 1", sample.frame1),
        motion("Ground truth", sample.flow, sample.valid),
        motion("Estimate", look.flow, np.asarray(np.isfinite(look.flow).all(axis=-1))),
        frame("Frame 2", sample.frame2),
        numbers("Error", look.error, largest, known),
        numbers("Disagreement between starts", look.disagreement, apart, everywhere),
    ]
    if look.uncertainty is not None:
        pictures.append(numbers("Error expected by the model", look.uncertainty, largest, everywhere))
    return pictures


def shrink_known(values: NDArray[Any], known: NDArray[np.bool_], width: int = _WIDTH) -> NDArray[np.float32]:
    """Scale (H, W, C) down to a width by averaging what is known; NaN where nothing is.

    Sparse ground truth stays visible, which plain scaling would fade to nothing.
    """
    height = max(1, round(values.shape[0] * min(1.0, width / values.shape[1])))
    size = (min(width, values.shape[1]), height)
    weight = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    filled = np.where(known[..., None], values, 0).astype(np.float32)
    total = cv2.resize(filled, size, interpolation=cv2.INTER_AREA).reshape(height, size[0], -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight[..., None] > 1e-3, total / weight[..., None], np.nan).astype(np.float32)


def panel(pictures: Sequence[Picture]) -> NDArray[np.uint8]:
    """Join pictures of one size in rows of three, titled."""
    blank = np.full_like(pictures[0].image, 32)
    images = [picture.image for picture in pictures] + [blank] * (-len(pictures) % 3)
    titles = [f"{p.title}, {p.scale}" if p.scale else p.title for p in pictures]
    rows = [side_by_side(images[i : i + 3], titles[i : i + 3]) for i in range(0, len(images), 3)]
    return np.concatenate(rows)


def round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, ... times a power of ten, at least 0.1: a scale that can be said."""
    value = max(value, 0.1)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))


def file_name(name: str) -> str:
    """Return a name as part of a file's name, whatever it holds."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)[:80]


def render(findings: Findings, drawn: Sequence[Chart], shown: Sequence[Mapping[str, Any]]) -> str:
    """Return the page as HTML."""
    environment = Environment(
        autoescape=True,
        loader=PackageLoader("deqflow.evaluation"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = shown_number
    environment.filters["embed"] = embed
    return environment.get_template(REPORT).render(
        findings=findings,
        charts={chart.name: chart for chart in drawn},
        samples=shown,
        errors=error_table(findings.summary),
        published=published_table(findings.summary),
        confidence=confidence(findings),
        bar=color_bar(160, 10),
        wheel=wheel(),
    )


def shown_number(value: float | None, digits: int = 2) -> str:
    """Return a number for people; a dash where there is none."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def embed(image: NDArray[np.uint8]) -> Markup:
    """Return a picture, uint8 RGB, as an address that holds it."""
    quality = [cv2.IMWRITE_WEBP_QUALITY, 88]
    done, data = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    assert done
    return Markup("data:image/webp;base64,") + base64.b64encode(data.tobytes()).decode()


def error_table(summary: Summary) -> dict[str, Any]:
    """Return the cells of the table of all data sets."""
    rows = [
        {
            "title": title,
            "own": totals[summary.methods[0]],
            "epe": [totals[method].epe for method in summary.methods],
            "figures": [totals[summary.methods[0]].metrics.get(name) for name in FIGURES],
        }
        for title, totals in summary.totals.items()
    ]
    return {"methods": summary.methods, "columns": list(FIGURES.values()), "rows": rows}


def published_table(summary: Summary) -> list[dict[str, Any]]:
    """Return rows of this run's methods and of published models, of runs on Sintel or KITTI 2015."""
    if summary.totals.keys().isdisjoint(_PUBLISHED):
        return []
    rows: list[dict[str, Any]] = []
    for method in summary.methods:
        figures = {title: totals[method].metrics for title, totals in summary.totals.items()}
        cells = [figures.get(title, {}).get(name) for title, names in _PUBLISHED.items() for name in names]
        rows.append({"name": f"{method}, this run", "ours": method == summary.methods[0], "cells": cells})
    results = {result.checkpoint: (name, result) for name, p in zoo.PRESETS.items() for result in p.published}
    for checkpoint, (name, result) in results.items():
        cells = [result.sintel_clean, result.sintel_final, result.kitti_epe, result.kitti_fl]
        label = f"RAFT {checkpoint}" if name.startswith("raft") else f"DEQ-Flow {checkpoint}"
        rows.append({"name": label, "ours": False, "cells": cells})
    return rows


def coverage(summary: Summary) -> list[str]:
    """Say which published data sets were evaluated only in part, in words."""
    return [
        f"{summary.totals[title][summary.methods[0]].pairs} of {count} pairs of {title}"
        for title, count in ((title, official_pairs(title)) for title in _PUBLISHED)
        if title in summary.totals and summary.totals[title][summary.methods[0]].pairs < count
    ]


def confidence(findings: Findings) -> dict[str, Any]:
    """Tell how well residual and disagreement tell the error, as rank correlations and in words."""
    results = [r for r in findings.results if r.residual is not None and math.isfinite(r.epe)]
    residual = spearman(
        np.array([r.residual for r in results], float), np.array([r.epe for r in results], float)
    )
    looks = [look for _, look in findings.studies]
    spread = spearman(
        np.array([look.mean_disagreement for look in looks]), np.array([look.epe for look in looks])
    )
    within, told = (
        float(np.median(found))
        if (found := [value for value in values if math.isfinite(value)])
        else math.nan
        for values in ([look.correlation for look in looks], [look.told for look in looks])
    )
    return {
        "residual": residual,
        "residual_pairs": len(results),
        "residual_words": in_words(residual, len(results)),
        "spread": spread,
        "spread_pairs": len(looks),
        "spread_words": in_words(spread, len(looks)),
        "within": within,
        "within_words": in_words(within),
        "told": told,
        "told_words": in_words(told),
        "starts": looks[0].starts if looks else 0,
        "coverage": coverage(findings.summary),
    }


def in_words(correlation: float, points: int = FEWEST) -> str:
    """Say what a rank correlation of so many points means."""
    if math.isnan(correlation) or points < FEWEST:
        return "too few samples to say"
    for least, words in ((0.7, "tells well"), (0.4, "tells in part"), (0.2, "tells a little")):
        if correlation >= least:
            return words
    return "does not tell"
