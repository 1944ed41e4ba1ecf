"""The plots of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from deqflow.evaluation.results import SampleResult
from deqflow.evaluation.study import Study, sparsification
from deqflow.evaluation.summary import Summary
from deqflow.evaluation.totals import RegionTotal
from deqflow.plots import (
    Curve,
    bar_figure,
    convergence_figure,
    figure_svg,
    line_figure,
    scatter_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CURVES = 8
"""Samples that a plot of curves can tell apart."""

MOST_GROUPS = 2
"""Data sets that have bars of their own; the pixels of more are pooled."""

_DISPLACEMENT = {"s0-10": "below 10 px", "s10-40": "10 to 40 px", "s40+": "40 px and more"}
_VISIBILITY = {"matched": "visible in both", "unmatched": "occluded"}


@dataclass(frozen=True)
class Chart:
    """A plot, its name as a file, and what it shows in a sentence."""

    name: str
    description: str
    figure: "Figure"

    @property
    def svg(self) -> Markup:
        """The plot as an element of a page."""
        return Markup(figure_svg(self.figure, self.description))


def charts(
    summary: Summary, results: Sequence[SampleResult], studies: Sequence[Study], *, tolerance: float
) -> list[Chart]:
    """Every plot that there are numbers for.

    Args:
        summary: totals of all methods.
        results: those of the method of interest.
        studies: the samples looked at closely.
        tolerance: of the run, in pixels per step.
    """
    drawn = [
        _by_region(summary, "displacement", "length of the true motion", _DISPLACEMENT),
        _by_region(summary, "occlusion", "visibility", _VISIBILITY),
    ]
    if studies:
        drawn += [*_solver(studies, tolerance), *_starts(studies)]
    if any(result.residual is not None for result in results):
        drawn.append(_residual(results))
    return [chart for chart in drawn if chart is not None]


def _by_region(summary: Summary, name: str, by: str, regions: dict[str, str]) -> Chart | None:
    """Errors of every method in parts of the frame, over the data sets that have them."""
    titles = [
        title
        for title, totals in summary.totals.items()
        if any(region in totals[summary.methods[0]].regions for region in regions)
    ]
    together = len(titles) > MOST_GROUPS
    series: dict[str, dict[str, float | None]] = {}
    for method in summary.methods:
        sums: dict[str, RegionTotal] = {}
        for region, words in regions.items():
            for title in titles:
                if (total := summary.totals[title][method].regions.get(region)) is not None:
                    label = words if together else f"{words}\n{title}"
                    sums.setdefault(label, RegionTotal()).merge(total)
        series[method] = {label: total.epe_pixel for label, total in sums.items() if total.pixels}
    if not any(series.values()):
        return None
    whose = " in all data sets together" if together else ""
    return Chart(name, f"End-point error of each method by {by}{whose}", bar_figure(series, "EPE, px"))


def _solver(studies: Sequence[Study], tolerance: float) -> list[Chart]:
    some = spread_out(studies)
    counts = sorted(some[0].curve)
    curves = {
        look.name: Curve(np.array(list(look.curve)), np.array(list(look.curve.values()))) for look in some
    }
    traces = {look.name: look.trace for look in some}
    return [
        Chart(
            "steps",
            "End-point error against the number of solver steps, a line per sample",
            line_figure(curves, "solver steps", "EPE, px", log="xy", mark=counts[-2]),
        ),
        Chart(
            "residuals",
            "Movement of the flow in each solver step, a line per sample",
            convergence_figure(traces, tolerance),
        ),
    ]


def _starts(studies: Sequence[Study]) -> list[Chart]:
    groups: dict[str, list[Study]] = {}
    for look in studies:
        groups.setdefault(look.item.dataset.title, []).append(look)
    clouds = {
        title: Curve([look.mean_disagreement for look in looks], [look.epe for look in looks])
        for title, looks in groups.items()
    }
    shares = np.linspace(0, 0.95, 20)
    known = [look for look in studies if look.known.any()]

    def left(rankings: Sequence[NDArray[np.floating]]) -> Curve:
        curves = [
            sparsification(look.error[look.known], ranking[look.known], shares)
            for look, ranking in zip(known, rankings, strict=True)
        ]
        return Curve(100 * shares, np.mean(curves, axis=0))

    lines = {"most disagreement first": left([look.disagreement for look in known])}
    told = [look.uncertainty for look in known if look.uncertainty is not None]
    if len(told) == len(known):
        lines["most error expected by the model first"] = left(told)
    lines["largest error first (the best possible)"] = left([look.error for look in known])
    lines["at random"] = Curve(100 * shares, np.ones_like(shares))
    return [
        Chart(
            "disagreement",
            "End-point error of each sample against the disagreement between starts",
            scatter_figure(clouds, "disagreement between starts, px", "EPE, px"),
        ),
        Chart(
            "sparsification",
            "Error that is left when the pixels that are least trusted are taken away",
            line_figure(lines, "pixels taken away, %", "EPE of the rest, share of all"),
        ),
    ]


def _residual(results: Sequence[SampleResult]) -> Chart:
    groups: dict[str, list[SampleResult]] = {}
    for result in results:
        groups.setdefault(result.dataset, []).append(result)
    clouds = {
        title: Curve(
            np.array([np.nan if r.residual is None else r.residual for r in found]),
            np.array([r.epe for r in found]),
        )
        for title, found in groups.items()
    }
    return Chart(
        "residual",
        "End-point error of each pair against how far its flow still moved in the last step",
        scatter_figure(clouds, "movement in the last step, px", "EPE, px"),
    )


def spread_out(studies: Sequence[Study], count: int = MOST_CURVES) -> list[Study]:
    """At most ``count`` of the samples, evenly from the least to the largest error."""
    ordered = sorted(studies, key=lambda look: look.epe)
    if len(ordered) <= count:
        return ordered
    return [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, count)]
