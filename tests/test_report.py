"""The report: its numbers, its pictures, and the page as a browser shows it."""

import base64
import html
import json
import math
import re
import shutil
import subprocess
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import deqflow
from deqflow.cli import main
from deqflow.data.datasets import PairDataset, open_dataset
from deqflow.data.sample import Sample
from deqflow.estimator import DEQFlow
from deqflow.evaluation.metrics import ErrorSums
from deqflow.evaluation.pair_study import (
    disagreement,
    noise_like,
    sparsification,
    spearman,
    step_counts,
    study_pair,
)
from deqflow.evaluation.plan import Plan
from deqflow.evaluation.predictors import Item
from deqflow.evaluation.report import (
    Findings,
    choose,
    confidence,
    file_name,
    in_words,
    render,
    round_up,
    sample_pictures,
    shrink_known,
)
from deqflow.evaluation.results import SampleResult
from deqflow.evaluation.summary import Summary
from deqflow.io import read_image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def sintel() -> Path:
    return Path(__file__).parents[1] / "datasets" / "sample" / "sintel"


@pytest.fixture(scope="module")
def report(sintel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two pairs of each pass, by the command."""
    folder = tmp_path_factory.mktemp("report") / "out"
    command = ["evaluate", "--dataset", "sintel", "--data", str(sintel), "--report", str(folder)]
    assert main([*command, "--limit", "2", "--steps", "2", "--report-samples", "3"]) == 0
    return folder


class Elements(HTMLParser):
    """The elements of a page, and whether each that is opened is closed."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert len(text) < 5_000_000
    elements = Elements(text).found
    tags = [tag for tag, _ in elements]
    assert "script" not in tags
    assert tags.count("section") == 3
    images = [attributes for tag, attributes in elements if tag == "img"]
    for attributes in images:
        assert attributes["alt"]
        kind, data = str(attributes["src"]).split(",", 1)
        assert kind == "data:image/webp;base64"
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
    assert (
        sum(
            str(attributes["alt"]).startswith(("End-point", "Movement", "Error that"))
            for attributes in images
        )
        == 7
    )
    for _, attributes in elements:
        for name in ("src", "href", "action", "data"):
            assert str(attributes.get(name) or "data:").startswith("data:")
    assert not re.findall(r"@import|url\(", text)


def test_numbers_are_those_of_the_evaluation(report: Path) -> None:
    text = html.unescape((report / "report.html").read_text())
    summary = json.loads((report / "summary.json").read_text())
    for title in ("MPI-Sintel clean", "MPI-Sintel final"):
        figures = summary["datasets"][title]
        row = re.search(rf'<th scope="row">{title}</th>(.*?)</tr>', text, re.DOTALL)
        assert row is not None
        cells = re.findall(r"<td[^>]*>([^<]*)</td>", row[1])
        assert cells[0] == "2"
        expected = [f"{figures[method]['epe']:.3f}" for method in ("deqflow-s", "dis", "zero")]
        assert cells[1:4] == expected
    assert "2 of 1041 pairs of MPI-Sintel clean" in text
    assert "<li><b>steps</b> 2</li>" in text and "<li><b>baselines</b> dis zero</li>" in text
    published = re.search(r"DEQ-Flow H 1x, 60 steps</th>(.*?)</tr>", text, re.DOTALL)
    assert published is not None
    assert re.findall(r"<td>([^<]*)</td>", published[1]) == ["1.27", "2.58", "3.76", "12.95"]
    assert "RAFT small" in text


def test_pictures_lie_beside_the_page(report: Path) -> None:
    plots = sorted(path.stem for path in (report / "plots").iterdir())
    assert plots == sorted(
        ["disagreement", "displacement", "occlusion", "residual", "residuals", "sparsification", "steps"]
    )
    samples = sorted((report / "samples").iterdir())
    assert len(samples) == 3
    for path in [*(report / "plots").iterdir(), *samples]:
        assert path.suffix == ".png"
        assert read_image(path).std() > 5


def test_report_is_not_written_over_another(
    report: Path, sintel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (report / "report.html").read_bytes()
    command = ["evaluate", "--dataset", "sintel", "--data", str(sintel), "--limit", "2", "--steps"]
    assert main([*command, "3", "--report", str(report)]) == 2
    assert "steps was 2 and not 3" in capsys.readouterr().err
    assert main([*command, "2", "--report", str(report), "--output", str(tmp_path / "results")]) == 2
    assert "report.html exists already" in capsys.readouterr().err
    assert (report / "report.html").read_bytes() == before


@pytest.mark.slow
def test_page_in_chromium(report: Path, tmp_path: Path) -> None:
    """A screenshot with something on it, every image loaded, and nothing on the console."""
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page with (Debian: apt-get install chromium)")
    # The page itself has no scripts: a copy tells on the console what the browser made of it.
    text = (report / "report.html").read_text()
    script = """<script>addEventListener("load", () => {
      const images = [...document.images];
      console.log(JSON.stringify({
        images: images.length,
        loaded: images.filter(image => image.complete && image.naturalWidth > 0).length,
        empty: [...document.querySelectorAll(".plots img")].filter(image => image.clientWidth < 100).length,
        overflow: document.documentElement.scrollWidth - innerWidth,
        resources: performance.getEntriesByType("resource")
          .filter(entry => !entry.name.startsWith("data:")).length,
      })); });</script>"""
    probe, screenshot = tmp_path / "probe.html", tmp_path / "page.png"
    probe.write_text(text.replace("</body>", script + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1280,3000", f"--screenshot={screenshot}", probe.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    console = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console
    message = re.search(r'"(\{.*\})", source', console[0])
    assert message is not None
    found = json.loads(message[1])
    assert found["images"] == found["loaded"] > 25
    assert found["empty"] == 0
    assert found["resources"] == 0
    assert found["overflow"] <= 0
    picture = read_image(screenshot)
    assert picture.shape[:2] == (3000, 1280)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500


def result(name: str, epe: float, *, dataset: str = "MPI-Sintel clean") -> SampleResult:
    errors = ErrorSums.of_pair(1, epe) if math.isfinite(epe) else ErrorSums.of_pair(1, nonfinite=1)
    return SampleResult(
        method="m", dataset=dataset, group="g", name=name, width=1, height=1, regions={"all": errors}
    )


def test_names_cannot_break_out_of_the_page(sintel: Path) -> None:
    """Names come from folders; settings from the command line."""
    evil = '"><script>alert(1)</script>'
    dataset = open_dataset("sintel", sintel)[0]
    dataset = PairDataset(f"Set {evil}", "g", dataset.files, sintel)
    name = dataset.files[0].name
    one = SampleResult(
        method=evil,
        dataset=dataset.title,
        group="g",
        name=name,
        width=1,
        height=1,
        regions={"all": ErrorSums.of_pair(1, 1.0)},
    )
    summary = Summary([evil], Plan.of([dataset]), [one])
    text = render(Findings(summary, [one], [], {"model": evil}), [], [])
    assert "<script" not in text
    assert html.escape(evil, quote=False).split("&lt;script")[1] in text
    Elements(text)
    assert file_name(f"../{evil}") == "______script_alert_1___script_"


def test_choice_of_samples(sintel: Path) -> None:
    clean, final, *_ = open_dataset("sintel", sintel)
    names = [files.name for files in clean.files]
    errors = [3.0, math.nan, 1.0, 2.0, 5.0]
    results = [result(name, epe) for name, epe in zip(names, errors, strict=True)]
    results.append(result(names[0], 1.0, dataset=final.title))
    chosen = choose(results, [clean, final], 12)
    assert [(c.rank, c.item.dataset.title, c.result.name) for c in chosen] == [
        ("best", clean.title, names[2]),
        ("median", clean.title, names[0]),
        ("worst", clean.title, names[1]),
        ("only", final.title, names[0]),
    ]
    assert [c.item.sample.name for c in chosen] == [c.result.name for c in chosen]
    assert [c.rank for c in choose(results, [clean, final], 2)] == ["worst", "only"]


@pytest.mark.parametrize("scales", ["all", "fast", "fine"])
def test_study_of_a_pair(sintel: Path, scales: Literal["all", "fast", "fine"]) -> None:
    dataset = open_dataset("sintel", sintel)[0]
    model = deqflow.load(precision="float32", steps=4, fine_steps=4, tolerance=0.0, scales=scales)
    item = Item(dataset, dataset[0])
    look = study_pair(model, item, starts=3)
    sample = item.sample
    direct = model.estimate(sample.frame1, sample.frame2)
    np.testing.assert_allclose(look.flow, direct.flow, atol=1e-4)
    assert look.curve.keys() == {1, 2, 4, 8}
    if scales != "fine":  # an estimate stays near the flow of 1/4 there, states on the way do not
        assert look.curve[4] == pytest.approx(look.epe, abs=1e-4)
    assert look.epe == pytest.approx(float(np.nanmean(look.error)), abs=1e-4)
    assert np.array_equal(look.known, sample.valid)
    assert look.trace.shape == (8,)
    assert look.trace[3] == pytest.approx(look.residual, rel=1e-3)
    assert look.disagreement.shape == sample.valid.shape
    assert look.mean_disagreement > 0
    assert -1 <= look.correlation <= 1
    again = study_pair(model, item, starts=3)
    assert np.array_equal(again.disagreement, look.disagreement)


@pytest.mark.parametrize("head", [True, False])
def test_what_the_model_says_of_its_errors_is_shown_if_it_says_something(sintel: Path, head: bool) -> None:
    torch.manual_seed(0)
    preset = deqflow.zoo.PRESETS["deqflow-s"]
    config = preset.config if head else replace(preset.config, uncertainty=None)
    model = DEQFlow(config, preset.defaults.changed(steps=2, tolerance=0.0)).eval().requires_grad_(False)
    dataset = open_dataset("sintel", sintel)[0]
    look = study_pair(model, Item(dataset, dataset[0]), starts=2)
    titles = [picture.title for picture in sample_pictures(look)]
    assert ("Error expected by the model" in titles) == head
    assert math.isnan(look.told) != head
    if head:
        sample = dataset[0]
        direct = model.estimate(sample.frame1, sample.frame2, steps=2, tolerance=0.0)
        assert look.uncertainty is not None
        np.testing.assert_allclose(look.uncertainty, direct.uncertainty, atol=1e-4)


def test_disagreement_by_hand() -> None:
    flows = [np.zeros((1, 2, 2)), np.zeros((1, 2, 2))]
    flows[1][0, 1] = (6, 8)
    assert disagreement(flows).tolist() == [[0.0, 5.0]]


def test_noise_is_as_large_as_the_state() -> None:
    state = deqflow.FlowState(3 * torch.randn(1, 8, 20, 20), torch.full((1, 2, 20, 20), 7.0))
    noise = noise_like(state, torch.Generator().manual_seed(1))
    assert noise.hidden.std() == pytest.approx(3, rel=0.1)
    assert noise.flow.std() == pytest.approx(7, rel=0.1)


def test_step_counts() -> None:
    assert step_counts(1) == [1, 2]
    assert step_counts(24) == [1, 2, 4, 8, 16, 24, 48]
    assert step_counts(32) == [1, 2, 4, 8, 16, 32, 64]


def test_spearman_by_hand() -> None:
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([1.0, 8, 27, 64])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    # Ranks 1.5 1.5 3 against 1 2 3.
    assert spearman(np.array([5.0, 5, 9]), np.array([1.0, 2, 3])) == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(spearman(np.array([1.0, 2]), np.array([1.0, 2])))
    assert math.isnan(spearman(np.ones(4), np.arange(4.0)))


@given(arrays.arrays(np.float64, st.integers(3, 40), elements=st.floats(0, 100, width=32)))
def test_sparsification_is_bounded_by_the_oracle(errors: np.ndarray) -> None:
    shares = [0.0, 0.3, 0.6, 0.9]
    oracle = sparsification(errors, errors, shares)
    other = sparsification(errors, -errors, shares)
    if errors.sum() > 0:
        assert oracle[0] == pytest.approx(1)
    assert (np.diff(oracle) <= 1e-9).all()
    assert (oracle <= other + 1e-9).all()


def test_sparse_truth_stays_visible_when_scaled_down() -> None:
    values = np.zeros((40, 80, 1))
    known = np.zeros((40, 80), bool)
    known[::4, ::4] = True
    values[known] = 5
    values[~known] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = shrink_known(values, known, width=20)
    assert small.shape == (10, 20, 1)
    np.testing.assert_allclose(small, 5, rtol=1e-5)
    assert np.isnan(shrink_known(values, np.zeros_like(known), width=20)).all()
    assert shrink_known(values, known, width=200).shape == (40, 80, 1)


@pytest.mark.parametrize(("value", "scale"), [(0, 0.1), (0.13, 0.2), (1, 1), (2.1, 5), (7, 10), (51, 100)])
def test_scales_are_round(value: float, scale: float) -> None:
    assert round_up(value) == pytest.approx(scale)


def test_confidence_in_words() -> None:
    assert in_words(0.9) == "tells well"
    assert in_words(-0.5) == "does not tell"
    assert in_words(0.9, 6) == "too few samples to say"
    assert in_words(math.nan) == "too few samples to say"
    results = [result(str(n), float(n)) for n in range(4)]
    summary = Summary(["m"], Plan.of([]), [])
    found = confidence(Findings(summary, results, []))
    assert found["residual_pairs"] == 0
    assert math.isnan(found["residual"])


def test_sample_without_known_pixels_does_not_break_a_picture(sintel: Path) -> None:
    from deqflow.evaluation.report import panel

    dataset = open_dataset("sintel", sintel)[0]
    sample = dataset[0]
    nothing = Sample(sample.frame1, sample.frame2, sample.flow, np.zeros_like(sample.valid), name="nothing")
    look = study_pair(deqflow.load(steps=1, tolerance=0.0), Item(dataset, nothing), starts=2)
    picture = panel(sample_pictures(look))
    height, width = sample.frame1.shape[:2]
    assert picture.shape == (3 * height, 3 * width, 3)  # seven pictures, three to a row
