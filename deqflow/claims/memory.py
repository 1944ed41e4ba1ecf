"""Training memory over solver steps."""

from deqflow import zoo
from deqflow.claims.options import Findings, StudyOptions
from deqflow.equilibrium import Correction, Recorded, Unrolled
from deqflow.evaluation.charts import Chart, line_figure
from deqflow.evaluation.memory import MIB, training_memory
from deqflow.tables import markdown

STEPS = (6, 12, 24, 48)
WAYS: dict[str, Correction] = {
    "unrolled, every step decoded": Unrolled(),
    "equilibrium, 3 corrections": Recorded(count=3),
    "equilibrium, 1 correction": Recorded(count=1),
}


def memory(options: StudyOptions) -> Findings:
    """Count the bytes that the graph of a training step keeps for its backward pass."""
    model = zoo.create(options.model).train()
    size = (options.height, options.width)
    kept = {
        way: [training_memory(model, correction, steps=steps, size=size).kept / MIB for steps in STEPS]
        for way, correction in WAYS.items()
    }
    header = ["MiB kept, by solver steps", *map(str, STEPS)]
    table = markdown(header, [[way, *(f"{one:.0f}" for one in row)] for way, row in kept.items()])
    unrolled, three, _ = kept.values()
    chart = Chart(
        "kept",
        "Memory that a training step keeps, against solver steps",
        line_figure({way: (STEPS, row) for way, row in kept.items()}, "solver steps", "MiB", log="xy"),
    )
    grows = max(max(row) / min(row) for way, row in kept.items() if not way.startswith("unrolled"))
    return Findings(
        f"The equilibrium's memory changes by a factor of {grows:.2f} from {STEPS[0]} to {STEPS[-1]} steps;"
        f" unrolled keeps {unrolled[2] / three[2]:.1f} times as much at {STEPS[2]} steps and"
        f" {unrolled[-1] / three[-1]:.1f} times at {STEPS[-1]}.",
        (table,),
        (chart,),
    )
