"""Pictures of flow: colour wheel, arrows, error maps, convergence and scatter plots.

Arrays in, uint8 RGB arrays out; plots also as SVG for a web page.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:  # slow to import, and video needs none of it
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Image = NDArray[np.uint8]
Flow = NDArray[np.float32]

_SECTORS = (15, 6, 4, 11, 13, 6)
"""Steps from red to yellow, green, cyan, blue, magenta and back: equal steps look about equally different."""


def _colour_wheel() -> NDArray[np.float32]:
    """The 55 hues of the wheel and the first again, (56, 3) in 0..1."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], float)
    positions = np.cumsum((0, *_SECTORS))
    hues = np.arange(positions[-1] + 1)
    return np.stack([np.interp(hues, positions, channel) for channel in corners.T], axis=1).astype(np.float32)


_WHEEL = _colour_wheel()
_UNKNOWN = 1e9  # as in .flo files
_SCALAR_COLORS = cv2.COLORMAP_INFERNO


def flow_to_color(flow: Flow, max_magnitude: float | None = None, *, clip: bool = False) -> Image:
    """Colours flow by the wheel of Baker et al. (IJCV 2011): hue is direction, saturation is length.

    No motion is white. Right is red, down is yellow, left is cyan, up is violet-blue.

    Args:
        flow: (H, W, 2), u right and v down in pixels. NaN and values from 1e9 on are unknown: black.
        max_magnitude: length in pixels at full saturation; the longest of this flow by default.
        clip: draw longer flow like the longest. By default it is darkened, as in the paper.

    Returns:
        uint8 RGB (H, W, 3).
    """
    u, v = (np.asarray(flow[..., axis], np.float32) for axis in (0, 1))
    known = (np.abs(u) < _UNKNOWN) & (np.abs(v) < _UNKNOWN)  # false for NaN as well
    u, v = np.where(known, u, 0), np.where(known, v, 0)
    length = np.hypot(u, v)
    if max_magnitude is None:
        max_magnitude = float(length.max(initial=0.0))
    if max_magnitude > 0:
        length /= max_magnitude
    # The paper's hue runs over 54 of the 55 steps, starting at the left end of the horizontal axis.
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(_WHEEL) - 2)
    lower = position.astype(np.intp)
    share = (position - lower)[..., None]
    hue = _WHEEL[lower] * (1 - share) + _WHEEL[lower + 1] * share
    saturation = np.minimum(length, 1)[..., None]
    color = 1 - saturation * (1 - hue)
    if not clip:
        color = np.where(length[..., None] > 1, 0.75 * hue, color)
    return np.where(known[..., None], np.floor(255 * color), 0).astype(np.uint8)


@dataclass
class ColorScale:
    """One length for full saturation over a whole video, so that colours do not flicker.

    Follows the 99th percentile of |flow|: up within a few frames, down slowly, never below ``floor`` (so that
    noise of a still scene stays pale).

    Attributes:
        fixed: use this length in pixels for every frame instead.
        floor: smallest length.
        rise: share of the way up taken per frame.
        fall: share of the way down taken per frame.
    """

    fixed: float | None = None
    floor: float = 2.0
    rise: float = 0.3
    fall: float = 0.03
    _current: float | None = field(default=None, init=False, repr=False)

    def update(self, flow: Flow) -> float:
        """Takes the next frame's flow and returns the length to draw it with."""
        if self.fixed is not None:
            return self.fixed
        length = np.hypot(flow[::4, ::4, 0], flow[::4, ::4, 1])
        length = length[np.isfinite(length)]
        target = max(self.floor, float(np.percentile(length, 99)) if length.size else 0.0)
        if self._current is None:
            self._current = target
        self._current += (target - self._current) * (self.rise if target > self._current else self.fall)
        return self._current


def draw_arrows(image: Image, flow: Flow, spacing: int = 24, scale: float = 1.0) -> Image:
    """Draws an arrow of ``scale`` times the flow every ``spacing`` pixels over a copy of the image."""
    canvas = np.ascontiguousarray(image).copy()
    height, width = flow.shape[:2]
    for y in range(spacing // 2, height, spacing):
        for x in range(spacing // 2, width, spacing):
            u, v = (float(component) * scale for component in flow[y, x])
            if np.hypot(u, v) < 0.5:  # false for NaN
                continue
            if not max(abs(u), abs(v)) < 1e4:  # beyond OpenCV's integer coordinates, or NaN
                continue
            tip = (round(x + u), round(y + v))
            cv2.arrowedLine(canvas, (x, y), tip, (0, 0, 0), 3, cv2.LINE_AA, tipLength=0.3)
            cv2.arrowedLine(canvas, (x, y), tip, (255, 255, 255), 1, cv2.LINE_AA, tipLength=0.3)
    return canvas


def error_map(
    flow: Flow, truth: Flow, valid: NDArray[np.bool_] | None = None, max_error: float = 5.0
) -> Image:
    """Colours the end-point error from dark (none) to bright yellow (``max_error`` pixels and more).

    Black where ``valid``, bool (H, W), is false or either flow is not finite.
    """
    error = np.hypot(*np.moveaxis(np.asarray(flow, np.float32) - truth, -1, 0))
    return scalar_map(error, max_error, valid)


def scalar_map(
    values: NDArray[np.floating], max_value: float, valid: NDArray[np.bool_] | None = None
) -> Image:
    """Colours (H, W) numbers from dark violet (0) to bright yellow (``max_value`` and more).

    Black where ``valid``, bool (H, W), is false or the number is not finite; `color_bar` shows the colours.
    """
    known = np.isfinite(values) if valid is None else np.isfinite(values) & valid
    share = np.where(known, values, 0) / max(max_value, np.finfo(np.float32).tiny)
    level = (np.clip(share, 0, 1) * 255).astype(np.uint8)
    colored = cv2.cvtColor(cv2.applyColorMap(level, _SCALAR_COLORS), cv2.COLOR_BGR2RGB)
    return np.where(known[..., None], colored, 0).astype(np.uint8)


def color_bar(width: int, height: int) -> Image:
    """The colours of `scalar_map` from 0 at the left to its largest value at the right."""
    ramp = np.broadcast_to(np.linspace(0, 1, width), (height, width))
    return scalar_map(ramp, 1.0)


def side_by_side(images: Sequence[Image], labels: Sequence[str] = ()) -> Image:
    """Joins images of one height from left to right and writes a label into each one's upper left corner."""
    panels = [np.ascontiguousarray(image).copy() for image in images]
    for panel, label in zip(panels, labels, strict=False):
        size = max(0.5, panel.shape[0] / 900)
        origin = (round(16 * size), round(34 * size))
        for color, thickness in (((0, 0, 0), 2), ((255, 255, 255), 1)):
            cv2.putText(panel, label, origin, cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)
    return np.concatenate(panels, axis=1)


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


def plot_convergence(residuals: NDArray[np.floating], tolerance: float | None = None) -> Image:
    """Plots residuals (steps,) or (steps, runs), in pixels per step, on a logarithmic axis."""
    runs = np.asarray(residuals, float).reshape(len(residuals), -1).T
    return figure_image(
        convergence_figure({f"run {number}": run for number, run in enumerate(runs, 1)}, tolerance)
    )


def convergence_figure(
    traces: Mapping[str, NDArray[np.floating]], tolerance: float | None = None
) -> "Figure":
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
        _legend(axes, curves)
        return _figure_of(axes)


def line_figure(
    curves: Mapping[str, Curve], xlabel: str, ylabel: str, *, log: str = "", mark: float | None = None
) -> "Figure":
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
            axes.minorticks_off()
        _draw_lines(axes, curves, markers=True)
        if mark is not None:
            axes.axvline(mark, color=_INK, linestyle=":", linewidth=1.2)
        _legend(axes, curves)
        return _figure_of(axes)


def scatter_figure(clouds: Mapping[str, Curve], xlabel: str, ylabel: str, *, log: str = "xy") -> "Figure":
    """Points of several groups; see `line_figure` for the arguments. Logarithmic axes leave out zeros."""
    with _axes(xlabel, ylabel, log=log) as axes:
        for number, (name, cloud) in enumerate(clouds.items()):
            x, y = np.asarray(cloud.x, float), np.asarray(cloud.y, float)
            drawn = (
                np.isfinite(x) & np.isfinite(y) & (("x" not in log) | (x > 0)) & (("y" not in log) | (y > 0))
            )
            axes.scatter(
                x[drawn],
                y[drawn],
                s=28 if len(x) < 200 else 8,
                label=name,
                color=_COLORS[number % len(_COLORS)],
                marker=_MARKERS[number % len(_MARKERS)],
                alpha=0.8,
                linewidths=0,
                rasterized=len(x) > 2000,  # as shapes they would make the page heavy
            )
        _legend(axes, clouds)
        return _figure_of(axes)


def bar_figure(series: Mapping[str, Mapping[str, float | None]], ylabel: str) -> "Figure":
    """Bars side by side: one group per category, one colour per series; None and NaN leave a gap."""
    categories = list(dict.fromkeys(name for values in series.values() for name in values))
    width = 0.8 / max(1, len(series))
    with _axes("", ylabel) as axes:
        for number, (name, values) in enumerate(series.items()):
            heights = [values.get(category) for category in categories]
            places = np.arange(len(categories)) + (number - (len(series) - 1) / 2) * width
            bars = axes.bar(
                places,
                [np.nan if height is None else height for height in heights],
                0.9 * width,
                label=name,
                color=_COLORS[number % len(_COLORS)],
            )
            if len(series) * len(categories) <= 18:
                numbers = ["" if h is None or not np.isfinite(h) else f"{h:.3g}" for h in heights]
                axes.bar_label(bars, numbers, fontsize=7, padding=1)
        axes.set_xticks(range(len(categories)), labels=categories)
        axes.grid(axis="x", visible=False)
        _legend(axes, series)
        return _figure_of(axes)


def figure_image(figure: "Figure") -> Image:
    """A figure as pixels on white, uint8 RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def figure_svg(figure: "Figure", description: str) -> str:
    """A figure as an ``<svg>`` element to put into a page: transparent, ink in the colour of its text.

    Args:
        figure: as the functions of this module make them.
        description: what screen readers say.
    """
    from html import escape

    import matplotlib

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
def _axes(xlabel: str, ylabel: str, *, log: str = "") -> Iterator["Axes"]:
    """Axes in our style, without touching matplotlib's own settings or pyplot's list of figures."""
    import matplotlib
    from matplotlib.figure import Figure

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


def _plain_numbers(axis: "Axis") -> None:
    """0.1, 1, 10 on a logarithmic axis, and 2 and 5 between them where there is room."""

    def label(value: float, _: float) -> str:
        low, high = axis.get_view_interval()
        steps = round(value / 10 ** np.floor(np.log10(value) + 1e-9))
        return f"{value:g}" if steps == 1 or (steps in (2, 5) and high < 200 * low) else ""

    axis.set_major_formatter(label)
    axis.set_minor_formatter(label)


def _figure_of(axes: "Axes") -> "Figure":
    from matplotlib.figure import Figure

    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


def _draw_lines(axes: "Axes", curves: Mapping[str, Curve], *, markers: bool) -> None:
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot(
            np.asarray(curve.x, float),
            np.asarray(curve.y, float),
            label=name,
            color=_COLORS[number % len(_COLORS)],
            linestyle=_DASHES[number // len(_COLORS) % len(_DASHES)],
            marker=_MARKERS[number % len(_MARKERS)] if markers else None,
            markersize=4,
            linewidth=1.5,
        )


def _legend(axes: "Axes", named: Mapping[str, object]) -> None:
    """Beside the plot, if there is more than one thing to tell apart."""
    if len(named) > 1:
        # A name that begins with "_" or holds "$" is text like any other.
        handles, _ = axes.get_legend_handles_labels()
        figure = _figure_of(axes)
        legend = figure.legend(
            handles, list(named), loc="outside lower center", ncols=2, fontsize=7.5, frameon=False
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
