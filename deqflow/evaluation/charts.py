"""The charts of a report: lines, clouds and bars by matplotlib, as pixels on white."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from deqflow.evaluation.metrics import ErrorSums
from deqflow.evaluation.pair_study import PairStudy, sparsification
from deqflow.evaluation.results import SampleResult
from deqflow.evaluation.summary import Summary

MOST_CURVES = 8
"""Samples that a plot of curves can tell apart."""

MOST_TICKS = 12
"""Places on a logarithmic axis up to which each has a number of its own."""

LINE = 76
"""Letters of a legend that fit into one line."""

MOST_GROUPS = 2
"""Data sets that have bars of their own; the pixels of more are pooled."""

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""Points x (N,) and y (N,) of lines or clouds by label; those that are not finite are left out."""

_BY_REGION = {
    "displacement": (
        "length of the true motion",
        {"s0-10": "below 10 px", "s10-40": "10 to 40 px", "s40+": "40 px and more"},
    ),
    "occlusion": ("visibility", {"matched": "visible in both", "unmatched": "occluded"}),
}
_INK = "#1b1e23"
_COLORS = ("#2f86d6", "#e08a00", "#12a07a", "#d9534a", "#9b6fd0", "#c65a9e", "#5f9ea0", "#8a8f1f")
"""Told apart by most color-blind readers with the markers beside them."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "font.size": 9,
}


@dataclass(frozen=True)
class Chart:
    """A plot, its name as a file, and what it shows in a sentence."""

    name: str
    description: str
    figure: Figure

    @property
    def image(self) -> NDArray[np.uint8]:
        """The plot on white, uint8 RGB."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def charts(
    summary: Summary, results: Sequence[SampleResult], studies: Sequence[PairStudy], *, tolerance: float
) -> list[Chart]:
    """Draw every chart that there are numbers for.

    Args:
        summary: totals of all methods.
        results: those of the method of interest.
        studies: the samples looked at closely.
        tolerance: of the run, in pixels per step.
    """
    drawn = [_by_region(summary, name, *how) for name, how in _BY_REGION.items()]
    if studies:
        drawn += [*_solver(studies, tolerance), *_starts(studies)]
    if any(result.residual is not None for result in results):
        points = ((r.dataset, np.nan if r.residual is None else r.residual, r.epe) for r in results)
        drawn.append(
            Chart(
                "residual",
                "End-point error of each pair against how far its flow still moved in the last step",
                scatter_figure(_clouds(points), "movement in the last step, px", "EPE, px"),
            )
        )
    return [chart for chart in drawn if chart is not None]


def _by_region(summary: Summary, name: str, by: str, regions: dict[str, str]) -> Chart | None:
    """Draw errors of every method in parts of the frame, over the data sets that have them."""
    totals = {
        title: totals
        for title, totals in summary.totals.items()
        if not totals[summary.methods[0]].regions.keys().isdisjoint(regions)
    }
    together = len(totals) > MOST_GROUPS
    series: dict[str, dict[str, float]] = {}
    for method in summary.methods:
        sums: dict[str, ErrorSums] = {}
        for region, words in regions.items():
            for title in totals:
                label = words if together else f"{words}\n{title}"
                sums[label] = sums.get(label, ErrorSums()) + totals[title][method].regions.get(
                    region, ErrorSums()
                )
        series[method] = {label: total.epe_pixel for label, total in sums.items() if total.pixels}
    if not any(series.values()):
        return None
    whose = " in all data sets together" if together else ""
    return Chart(name, f"End-point error of each method by {by}{whose}", bar_figure(series, "EPE, px"))


def _solver(studies: Sequence[PairStudy], tolerance: float) -> list[Chart]:
    some = spread_out(studies)
    curves = {look.name: (list(look.curve), list(look.curve.values())) for look in some}
    usual = sorted(some[0].curve)[-2]
    return [
        Chart(
            "steps",
            "End-point error against the number of solver steps, a line per sample",
            line_figure(curves, "solver steps", "EPE, px", log="xy", mark=usual),
        ),
        Chart(
            "residuals",
            "Movement of the flow in each solver step, a line per sample",
            convergence_figure({look.name: look.trace for look in some}, tolerance),
        ),
    ]


def _starts(studies: Sequence[PairStudy]) -> list[Chart]:
    clouds = _clouds((look.item.dataset.title, look.mean_disagreement, look.epe) for look in studies)
    shares = np.linspace(0, 0.95, 20)
    known = [look for look in studies if look.known.any()]

    def left(rankings: Sequence[NDArray[np.floating]]) -> tuple[ArrayLike, ArrayLike]:
        curves = [
            sparsification(look.error[look.known], ranking[look.known], shares)
            for look, ranking in zip(known, rankings, strict=True)
        ]
        return 100 * shares, np.mean(curves, axis=0)

    lines = {"most disagreement first": left([look.disagreement for look in known])}
    told = [look.uncertainty for look in known if look.uncertainty is not None]
    if len(told) == len(known):
        lines["most error expected by the model first"] = left(told)
    lines["largest error first (the best possible)"] = left([look.error for look in known])
    lines["at random"] = 100 * shares, np.ones_like(shares)
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


def _clouds(points: Iterable[tuple[str, float, float]]) -> Curves:
    clouds: dict[str, tuple[list[float], list[float]]] = {}
    for title, x, y in points:
        for values, value in zip(clouds.setdefault(title, ([], [])), (x, y), strict=True):
            values.append(value)
    return clouds


def spread_out(studies: Sequence[PairStudy], count: int = MOST_CURVES) -> list[PairStudy]:
    """Return at most ``count`` of the samples, evenly from the least to the largest error."""
    ordered = sorted(studies, key=lambda look: look.epe)
    if len(ordered) <= count:
        return ordered
    return [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, count)]


def convergence_figure(traces: Mapping[str, NDArray[np.floating]], tolerance: float = 0.0) -> Figure:
    """Draw residuals (steps,) of solves, in pixels per step, on a logarithmic axis.

    Args:
        traces: by what to call each solve; NaN after it stopped.
        tolerance: drawn as a horizontal line unless 0.
    """
    with _axes("step", "movement of the flow, px per step", log="y") as (figure, axes):
        _lines(
            figure,
            axes,
            {name: (np.arange(1, len(t) + 1), np.maximum(t, 1e-6)) for name, t in traces.items()},
        )
        if tolerance:
            axes.axhline(tolerance, color=_INK, linestyle=":", linewidth=1.2)
            axes.text(
                *(1, tolerance),
                f"tolerance {tolerance:g}",
                transform=axes.get_yaxis_transform(),
                horizontalalignment="right",
                verticalalignment="bottom",
            )
        return figure


def line_figure(
    curves: Curves, xlabel: str, ylabel: str, *, log: str = "", mark: float | None = None
) -> Figure:
    """Draw lines through points.

    Args:
        curves: by label.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        log: the logarithmic axes, "x", "y" or "xy".
        mark: an x to draw a vertical line at.
    """
    with _axes(xlabel, ylabel, log=log) as (figure, axes):
        if "x" in log and curves:
            ticks = np.unique(np.concatenate([np.asarray(x, float) for x, _ in curves.values()]))
            if len(ticks) <= MOST_TICKS:
                axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
                axes.xaxis.minorticks_off()
        _lines(figure, axes, curves, markers=_MARKERS)
        if mark is not None:
            axes.axvline(mark, color=_INK, linestyle=":", linewidth=1.2)
        return figure


def scatter_figure(clouds: Curves, xlabel: str, ylabel: str) -> Figure:
    """Draw points of several groups on logarithmic axes, which leave out zeros; see ``line_figure``."""
    with _axes(xlabel, ylabel, log="xy") as (figure, axes):
        handles = []
        for number, points in enumerate(clouds.values()):
            x, y = (np.asarray(values, float) for values in points)
            drawn = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
            dots = axes.scatter(
                x[drawn],
                y[drawn],
                s=28 if len(x) < 200 else 8,
                color=_COLORS[number % len(_COLORS)],
                marker=_MARKERS[number % len(_MARKERS)],
                alpha=0.8,
                linewidths=0,
            )
            handles.append(dots)
        _legend(figure, handles, clouds)
        return figure


def bar_figure(series: Mapping[str, Mapping[str, float]], ylabel: str) -> Figure:
    """Draw bars side by side: a group per category, a color per series; what is missing or NaN is a gap."""
    categories = list(dict.fromkeys(name for values in series.values() for name in values))
    width = 0.8 / max(1, len(series))
    with _axes("", ylabel) as (figure, axes):
        handles = []
        for number, values in enumerate(series.values()):
            heights = np.array([values.get(category, np.nan) for category in categories])
            places = np.arange(len(categories)) + (number - (len(series) - 1) / 2) * width
            bars = axes.bar(places, heights, 0.9 * width, color=_COLORS[number % len(_COLORS)])
            handles.append(bars)
            if len(series) * len(categories) <= 18:
                numbers = [f"{height:.3g}" if np.isfinite(height) else "" for height in heights]
                axes.bar_label(bars, numbers, fontsize=7, padding=1)
        axes.set_xticks(range(len(categories)), labels=categories)
        axes.grid(axis="x", visible=False)
        _legend(figure, handles, series)
        return figure


@contextmanager
def _axes(xlabel: str, ylabel: str, *, log: str = "") -> Iterator[tuple[Figure, Axes]]:
    """Give axes in our style, without touching matplotlib's own settings or pyplot's list of figures."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.7), dpi=150, layout="constrained")
        axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            if name in log:
                axes.set(**{f"{name}scale": "log"})
                _plain_numbers(axis)
        axes.grid(alpha=0.25, color=_INK, linewidth=0.6)
        yield figure, axes


def _plain_numbers(axis: Axis) -> None:
    """Write 0.1, 1, 10 on a logarithmic axis, 2 and 5 too where there is room, and all of a short one."""

    def label(value: float, _: float) -> str:
        low, high = axis.get_view_interval()
        steps = value / 10 ** np.floor(np.log10(value) + 1e-9)
        shown = (1,) if high > 200 * low else (1, 2, 5)
        return f"{value:.3g}" if high < 4 * low or np.isclose(steps, shown).any() else ""

    axis.set_major_formatter(label)
    axis.set_minor_formatter(label)


def _lines(figure: Figure, axes: Axes, curves: Curves, *, markers: Sequence[str] = ("",)) -> None:
    handles: list[Any] = []
    for number, (x, y) in enumerate(curves.values()):
        handles += axes.plot(
            np.asarray(x, float),
            np.asarray(y, float),
            color=_COLORS[number % len(_COLORS)],
            linestyle="-" if number < len(_COLORS) else "--",
            marker=markers[number % len(markers)],
            markersize=4,
            linewidth=1.5,
        )
    _legend(figure, handles, curves)


def _legend(figure: Figure, handles: list[Any], names: Iterable[str]) -> None:
    """Name what is to be told apart below the plot, if it is more than one thing."""
    if len(handles) > 1:
        # Names are paths now and then: the end of one tells most, and the figure has room for so much.
        shown = [name if len(name) <= LINE else f"…{name[1 - LINE :]}" for name in names]
        columns = 2 if max(map(len, shown)) <= LINE // 2 - 6 else 1
        legend = figure.legend(
            handles, shown, loc="outside lower center", ncols=columns, fontsize=7.5, frameon=False
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # "$" in a name is a dollar
