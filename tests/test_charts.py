"""Charts: pixels on white, plain numbers, matplotlib left as it was."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deqflow.evaluation.charts import Chart, bar_figure, convergence_figure, line_figure, scatter_figure

NAME = "<b>&\"' $x_1$ _hidden"


def figures() -> dict[str, Figure]:
    steps = np.array([1, 2, 4, 8])
    return {
        "convergence": convergence_figure({NAME: np.array([3.0, 0.3, np.nan])}, 0.05),
        "lines": line_figure(
            {NAME: (steps, 1 / steps), "_b": (steps, steps)}, "steps", "EPE", log="xy", mark=4
        ),
        "scatter": scatter_figure(
            {NAME: ([0.0, 1, 2], [1, np.nan, 3]), "other": ([1], [2])}, "residual", "EPE"
        ),
        "bars": bar_figure({"ours": {"all": 1.0}, NAME: {"all": np.nan, "40+": 3.0}}, "EPE"),
    }


@pytest.mark.parametrize("kind", ["convergence", "lines", "scatter", "bars"])
def test_charts_are_pixels_on_white_that_are_always_the_same(kind: str) -> None:
    picture = Chart(kind, "a chart", figures()[kind]).image
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3 and min(picture.shape[:2]) > 400
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture.std() > 5
    assert np.array_equal(picture, Chart(kind, "a chart", figures()[kind]).image)


@pytest.mark.parametrize("kind", ["lines", "scatter", "bars"])
def test_what_is_to_be_told_apart_is_named_as_it_is(kind: str) -> None:
    figure = figures()[kind]
    (legend,) = figure.legends
    texts = legend.get_texts()
    assert NAME in [text.get_text() for text in texts]
    assert not any(text.get_parse_math() for text in texts)
    assert figure.axes[0].get_ylabel() == "EPE"


def test_points_that_a_logarithmic_axis_cannot_show_are_left_out() -> None:
    first, other = figures()["scatter"].axes[0].collections
    assert first.get_offsets().tolist() == [[2.0, 3.0]]
    assert other.get_offsets().tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("length", [5, 32, 33, 76, 77, 300])
def test_a_legend_fits_into_its_figure(length: int) -> None:
    names = ["W" * 3 + "o" * (length - 5) + f"{index:02}" for index in range(4)]
    figure = bar_figure({name: {"all": 1.0} for name in names}, "EPE")
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    where = legend.get_window_extent()
    assert where.x0 >= 0 and where.x1 <= figure.bbox.width
    shown = [text.get_text() for text in legend.get_texts()]
    assert len(set(shown)) == 4 and all(
        name.endswith(one.strip("…")) for name, one in zip(names, shown, strict=True)
    )


def test_a_missing_bar_is_a_gap_without_a_number() -> None:
    axes = figures()["bars"].axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "", "", "3"]


def test_logarithmic_axes_have_plain_numbers() -> None:
    figure = scatter_figure({"a": ([0.2, 3], [0.01, 900])}, "x", "y")
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    labels = {
        label.get_text()
        for axis in (axes.xaxis, axes.yaxis)
        for label in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True))
    }
    assert {"0.2", "0.5", "1", "2", "0.1", "100"} <= labels


def test_charts_leave_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    for kind, figure in figures().items():
        assert Chart(kind, "", figure).image.size
    assert dict(matplotlib.rcParams) == before
