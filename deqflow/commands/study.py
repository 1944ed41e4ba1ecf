"""``deqflow study``: the claims of the equilibrium papers, each as an experiment of minutes to hours."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from deqflow.claims.options import StudyOptions
from deqflow.commands.common import check_folder_names
from deqflow.errors import ConfigError

ClaimName = Literal[
    "memory", "reuse", "path-independence", "corrections", "joint", "gradients", "recurrent", "jacobian"
]
"""The names of ``deqflow.claims.registry.CLAIMS``, spelled out so that help need not import it."""


@dataclass(frozen=True, kw_only=True)
class StudyCommandOptions(StudyOptions):
    """Repeat what papers on equilibrium models claim, and write a page with tables and plots for each.

    memory, reuse, path-independence and joint take minutes with weights that are there; corrections,
    gradients, recurrent and jacobian train several small models each (about 20 minutes a model on two cores),
    of which some serve several claims and are trained once. What is there already is gone on with.

    Attributes:
        claims: Which claims; pages that are there are replaced.
    """

    claims: Annotated[tuple[ClaimName, ...], tyro.conf.Positional] = field(default=())

    def __post_init__(self) -> None:
        """Reject what cannot be measured."""
        super().__post_init__()
        check_folder_names(output=self.output)
        if not self.claims:
            raise ConfigError(f"name a claim: {', '.join(get_args(ClaimName))}")


def run(options: StudyCommandOptions) -> int:
    """Measure, print and write; the exit code.

    Raises:
        DeqflowError, OSError: an option does not hold; said in one sentence.
    """
    from deqflow.claims.registry import CLAIMS, write

    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.claims:
        findings = CLAIMS[name].measure(options)
        for table in findings.tables:
            print("\n".join(table), end="\n\n")
        print(findings.summary)
        for file in write(name, findings, options.output):
            print(f"  {file}")
    return 0
