"""The objective of a stage."""

from torch import nn

from deqflow.estimator import DEQFlow
from deqflow.training.options import Stage
from deqflow.training.supervised import CorrectionObjective
from deqflow.training.unsupervised import UnsupervisedObjective


def create_objective(model: DEQFlow, stage: Stage) -> nn.Module:
    """What a stage minimises, as a module that is called with a batch and the step's randomness.

    Raises:
        ConfigError: a loss that the model cannot give.
    """
    return (UnsupervisedObjective if stage.stage == "footage" else CorrectionObjective)(model, stage)
