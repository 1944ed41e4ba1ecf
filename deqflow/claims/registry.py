"""The claims, each with its source, what was published, and the experiment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deqflow.claims.joint import joint
from deqflow.claims.memory import memory
from deqflow.claims.options import Findings, StudyOptions
from deqflow.claims.paths import path_independence
from deqflow.claims.reuse import reuse
from deqflow.claims.training import corrections, gradients, jacobian, recurrent
from deqflow.io.files import replace_bytes
from deqflow.io.images import write_image


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Attributes:
        says: the claim, a sentence.
        source: the paper.
        published: its figure.
        measure: the experiment.
    """

    says: str
    source: str
    published: str
    measure: Callable[[StudyOptions], Findings]


_BAI22 = "Bai, Geng, Savani and Kolter, Deep Equilibrium Optical Flow Estimation, CVPR 2022"

CLAIMS: Mapping[str, Claim] = {
    "memory": Claim(
        "Training memory does not grow with solver steps.", _BAI22, "4 to 6 times less than unrolled", memory
    ),
    "reuse": Claim(
        "Starting from the last frame's fixed point saves steps on video.",
        _BAI22,
        "fewer steps at equal error on Sintel sequences",
        reuse,
    ),
    "path-independence": Claim(
        "Path independence predicts accuracy, grows when starts are mixed in training, and lets hard inputs"
        " use more steps.",
        "Anil et al., Path Independent Equilibrium Models Can Better Exploit Test-Time Computation,"
        " NeurIPS 2022",
        "alignment and accuracy correlate over models and tasks",
        path_independence,
    ),
    "corrections": Claim(
        "Sparse fixed-point correction stabilizes training.",
        _BAI22,
        "losses on three to six points train faster and better than on the end alone",
        corrections,
    ),
    "joint": Claim(
        "Solving for the fixed point and optimizing its input together beats optimizing around converged"
        " solves.",
        "Gurumurthy et al., Joint Inference and Input Optimization in Equilibrium Networks, NeurIPS 2021",
        "3 to 9 times faster",
        joint,
    ),
    "gradients": Claim(
        "Inexact gradients lose nothing and save time.",
        f"{_BAI22}; Geng et al., On Training Implicit Models, NeurIPS 2021",
        "backward passes 1.7 times faster",
        gradients,
    ),
    "recurrent": Claim(
        "An equilibrium model is better than the unrolled recurrent one at equal training compute.",
        _BAI22,
        "lower error at equal training compute",
        recurrent,
    ),
    "jacobian": Claim(
        "Penalizing the step's Jacobian makes solves shorter.",
        "Bai, Koltun and Kolter, Stabilizing Equilibrium Models by Jacobian Regularization, ICML 2021",
        "half as many steps at equal accuracy",
        jacobian,
    ),
}
"""By the names that ``deqflow study`` takes."""


def write(name: str, findings: Findings, folder: Path) -> list[Path]:
    """Write what was found as a Markdown page and its charts; returns the files."""
    claim, files = CLAIMS[name], [folder / f"{name}.md"]
    lines = [f"## {claim.says}", "", f"{claim.source}. Published: {claim.published}.", ""]
    for table in findings.tables:
        lines += [*table, ""]
    for chart in findings.charts:
        files.append(folder / f"{name}-{chart.name}.png")
        write_image(files[-1], chart.image)
        lines += [f"![{chart.description}]({files[-1].name})", ""]
    replace_bytes(files[0], "\n".join([*lines, findings.summary, ""]).encode())
    return files
