"""Plots: well-formed SVG that stands alone, pixels, plain numbers."""

from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from deqflow.plots import (
    Curve,
    bar_figure,
    convergence_figure,
    figure_image,
    figure_svg,
    line_figure,
    scatter_figure,
)


def figures() -> dict[str, object]:
    steps = np.array([1, 2, 4, 8])
    name = "<b>&\"' $x_1$ _hidden"
    return {
        "convergence": convergence_figure({name: np.array([3.0, 0.3, np.nan])}, 0.05),
        "lines": line_figure(
            {name: Curve(steps, 1 / steps), "_b": Curve(steps, steps)}, "steps", "EPE", log="xy", mark=4
        ),
        "scatter": scatter_figure(
            {name: Curve([0.0, 1, 2], [1, np.nan, 3]), "other": Curve([1], [2])}, "residual", "EPE"
        ),
        "bars": bar_figure({"ours": {"all": 1.0, "40+": None}, name: {"all": np.nan, "40+": 3.0}}, "EPE"),
    }


@pytest.mark.parametrize("kind", ["convergence", "lines", "scatter", "bars"])
def test_plots_as_svg_and_pixels(kind: str) -> None:
    """Well-formed, self-contained, text as text, in the colour of the page around it."""
    figure = figures()[kind]
    svg = figure_svg(figure, 'a "plot" & <more>')
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["aria-label"] == 'a "plot" & <more>'
    assert "width" not in root.attrib
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("EPE" in text or "movement" in text for text in texts)
    if kind in ("lines", "scatter", "bars"):
        assert "<b>&\"' $x_1$ _hidden" in texts
    assert "currentColor" in svg
    assert "<!DOCTYPE" not in svg
    names = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
    references = {
        value.lstrip("#") for e in root.iter() for key, value in e.attrib.items() if key.endswith("href")
    }
    assert references <= names
    assert svg == figure_svg(figures()[kind], 'a "plot" & <more>')
    picture = figure_image(figure)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture.std() > 5


def test_logarithmic_axes_have_plain_numbers() -> None:
    svg = figure_svg(scatter_figure({"a": Curve([0.2, 3], [0.01, 900])}, "x", "y"), "plot")
    texts = {
        "".join(e.itertext()) for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"0.2", "0.5", "1", "2", "0.1", "100"} <= texts


def test_plots_leave_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    for figure in figures().values():
        figure_svg(figure, "plot")
    assert dict(matplotlib.rcParams) == before
