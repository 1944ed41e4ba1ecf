"""Plots: lines, convergence, scatter and bars, as pixels or as SVG for a web page."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray


class Curve(NamedTuple):
    """Points of one line or cloud of a plot, (N,) each; those that are not finite are left out."""

    x: ArrayLike
    y: ArrayLike


_INK = "#1b1e23"
_COLORS = ("#2f86d6", "#e08a00", "#12a07a", "#d9534a", "#9b6fd0", "#c65a9e", "#5f9ea0", "#8a8f1f")
"""Told apart on white and on black, and by most colour-blind readers with the markers beside them."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
_SIZE = (5.6, 3.7)  # inches


def convergence_figure(traces: Mapping[str, NDArray[np.floating]], tolerance: float | None = None) -> Figure:
    """Residuals (steps,) of one or more solves, in pixels per step, on a logarithmic axis.

    Args:
        traces: by what to call each solve; NaN after it stopped.
        tolerance: drawn as a horizontal line.
    """
    curves = {
        name: Curve(np.arange(1, len(trace) + 1), np.maximum(trace, 1e-6)) for name, trace in traces.items()
    }
    with _axes("step", "movement of the flow, px per step", log="y") as axes:
        _draw_lines(axes, curves, markers=False)
        if tolerance:
            axes.axhline(tolerance, color=_INK, linestyle=":", linewidth=1.2)
            axes.annotate(
                f"tolerance {tolerance:g}",
                (0.99, tolerance),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                fontsize=8,
            )
        return _figure_of(axes)


def line_figure(
    curves: Mapping[str, Curve], xlabel: str, ylabel: str, *, log: str = "", mark: float | None = None
) -> Figure:
    """Lines through points.

    Args:
        curves: by label.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        log: the logarithmic axes, "x", "y" or "xy".
        mark: an x to draw a vertical line at.
    """
    with _axes(xlabel, ylabel, log=log) as axes:
        if "x" in log and curves:
            ticks = sorted({float(x) for curve in curves.values() for x in np.ravel(np.asarray(curve.x))})
            axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            axes.xaxis.minorticks_off()
        _draw_lines(axes, curves, markers=True)
        if mark is not None:
            axes.axvline(mark, color=_INK, linestyle=":", linewidth=1.2)
        return _figure_of(axes)


def scatter_figure(clouds: Mapping[str, Curve], xlabel: str, ylabel: str, *, log: str = "xy") -> Figure:
    """Points of several groups; see `line_figure` for the arguments. Logarithmic axes leave out zeros."""
    with _axes(xlabel, ylabel, log=log) as axes:
        handles = []
        for number, cloud in enumerate(clouds.values()):
            x, y = np.asarray(cloud.x, float), np.asarray(cloud.y, float)
            drawn = (
                np.isfinite(x) & np.isfinite(y) & (("x" not in log) | (x > 0)) & (("y" not in log) | (y > 0))
            )
            points = axes.scatter(
                x[drawn],
                y[drawn],
                s=28 if len(x) < 200 else 8,
                color=_COLORS[number % len(_COLORS)],
                marker=_MARKERS[number % len(_MARKERS)],
                alpha=0.8,
                linewidths=0,
                rasterized=len(x) > 2000,  # as shapes they would make the page heavy
            )
            handles.append(points)
        _legend(axes, handles, clouds)
        return _figure_of(axes)


def bar_figure(series: Mapping[str, Mapping[str, float | None]], ylabel: str) -> Figure:
    """Bars side by side: one group per category, one colour per series; None and NaN leave a gap."""
    categories = list(dict.fromkeys(name for values in series.values() for name in values))
    width = 0.8 / max(1, len(series))
    with _axes("", ylabel) as axes:
        handles = []
        for number, values in enumerate(series.values()):
            heights = [values.get(category) for category in categories]
            places = np.arange(len(categories)) + (number - (len(series) - 1) / 2) * width
            bars = axes.bar(
                places,
                [np.nan if height is None else height for height in heights],
                0.9 * width,
                color=_COLORS[number % len(_COLORS)],
            )
            handles.append(bars)
            if len(series) * len(categories) <= 18:
                numbers = ["" if h is None or not np.isfinite(h) else f"{h:.3g}" for h in heights]
                axes.bar_label(bars, numbers, fontsize=7, padding=1)
        axes.set_xticks(range(len(categories)), labels=categories)
        axes.grid(axis="x", visible=False)
        _legend(axes, handles, series)
        return _figure_of(axes)


def figure_image(figure: Figure) -> NDArray[np.uint8]:
    """A figure as pixels on white, uint8 RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def figure_svg(figure: Figure, description: str) -> str:
    """A figure as an ``<svg>`` element to put into a page: transparent, ink in the colour of its text.

    Args:
        figure: as the functions of this module make them.
        description: what screen readers say.
    """
    stream = io.StringIO()
    # Text stays text. The salt makes the names inside, which a page's pictures share, those of this picture.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", svg))
    names = {name for pair in used for name in pair if name}
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in names else "", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    opening = (
        f'<svg role="img" aria-label="{escape(description)}" {box[0]} xmlns="http://www.w3.org/2000/svg"'
    )
    opening += ' xmlns:xlink="http://www.w3.org/1999/xlink">'
    return opening + svg[svg.index(">") + 1 :]


@contextmanager
def _axes(xlabel: str, ylabel: str, *, log: str = "") -> Iterator[Axes]:
    """Axes in our style, without touching matplotlib's own settings or pyplot's list of figures."""
    with matplotlib.rc_context(
        {
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "axes.edgecolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 9,
        }
    ):
        axes = Figure(figsize=_SIZE, dpi=150, layout="constrained").add_subplot(xlabel=xlabel, ylabel=ylabel)
        if "x" in log:
            axes.set_xscale("log")
            _plain_numbers(axes.xaxis)
        if "y" in log:
            axes.set_yscale("log")
            _plain_numbers(axes.yaxis)
        axes.grid(alpha=0.25, color=_INK, linewidth=0.6)
        axes.set_axisbelow(True)
        yield axes


def _plain_numbers(axis: Axis) -> None:
    """0.1, 1, 10 on a logarithmic axis, and 2 and 5 between them where there is room."""

    def label(value: float, _: float) -> str:
        low, high = axis.get_view_interval()
        steps = round(value / 10 ** np.floor(np.log10(value) + 1e-9))
        return f"{value:g}" if steps == 1 or (steps in (2, 5) and high < 200 * low) else ""

    axis.set_major_formatter(label)
    axis.set_minor_formatter(label)


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


def _draw_lines(axes: Axes, curves: Mapping[str, Curve], *, markers: bool) -> None:
    handles: list[Any] = []
    for number, curve in enumerate(curves.values()):
        handles += axes.plot(
            np.asarray(curve.x, float),
            np.asarray(curve.y, float),
            color=_COLORS[number % len(_COLORS)],
            linestyle=_DASHES[number // len(_COLORS) % len(_DASHES)],
            marker=_MARKERS[number % len(_MARKERS)] if markers else None,
            markersize=4,
            linewidth=1.5,
        )
    _legend(axes, handles, curves)


def _legend(axes: Axes, handles: list[Any], names: Iterable[str]) -> None:
    """Below the plot, if there is more than one thing to tell apart."""
    if len(handles) > 1:
        legend = _figure_of(axes).legend(
            handles, list(names), loc="outside lower center", ncols=2, fontsize=7.5, frameon=False
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # "$" in a name is a dollar
