"""Fixed-point reuse on sequences of known flow: what it saves and what it costs in error."""

from deqflow.claims.options import Findings, StudyOptions
from deqflow.data.synthetic import PROGRAMS
from deqflow.evaluation.charts import Chart, bar_figure
from deqflow.evaluation.starts import measure_reuse, reuse_table
from deqflow.training.data import held_out_scenes

SEQUENCES = 24
"""Rendered sequences beside the motion programs."""


def reuse(options: StudyOptions) -> Findings:
    """Estimate sequences with reuse and without, with every file of weights."""
    scenes = held_out_scenes(options.textures, options.height, options.width)
    rendered = [scenes.sequence(number)[0] for number in range(SEQUENCES)]
    pictures = [scenes[number].frame1 for number in range(2)]
    programs = [program.render(picture) for picture in pictures for program in PROGRAMS]
    tables, told, bars = [], [], {}
    models = options.weights()
    for title, sequences in (("motion programs", programs), ("rendered sequences", rendered)):
        found = {name: measure_reuse(model, sequences) for name, model in models.items()}
        tables.append(reuse_table(found).split("\n"))
        for name, results in found.items():
            cost, cold = (sum(getattr(one, kind) for one in results) for kind in ("reuse_cost", "cold_cost"))
            wrong = sum(one.wrong for one in results)
            told.append(
                f"{name}, {title}: {100 * cost / cold:.0f} % of the evaluations, wrong in {wrong} of"
                f" {len(results)}"
            )
            bars[f"{name}, {title}"] = {"with reuse": cost / len(results), "without": cold / len(results)}
    chart = Chart(
        "cost",
        "Evaluations of the 1/8 grid per pair, coarse solves and checks counted",
        bar_figure(bars, "evaluations"),
    )
    return Findings("; ".join(told) + ".", tuple(tables), (chart,))
