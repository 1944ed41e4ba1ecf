"""The objective of a stage."""

from torch import nn

from deqflow.estimator import DEQFlow
from deqflow.training.options import Stage
from deqflow.training.paths import choose_correction, choose_gradient, choose_solver
from deqflow.training.supervised import CorrectionObjective
from deqflow.training.unsupervised import UnsupervisedObjective, UnsupervisedWeights


def create_objective(model: DEQFlow, stage: Stage) -> nn.Module:
    """What a stage minimises, as a module that is called with a batch and the step's draws."""
    if stage.stage != "footage":
        return CorrectionObjective(model, stage)
    weights = UnsupervisedWeights(
        smoothness=stage.smoothness, distillation=stage.distillation, gamma=stage.gamma
    )
    return UnsupervisedObjective(
        model,
        weights,
        correction=choose_correction(stage),
        gradient=choose_gradient(stage),
        solver=choose_solver(stage, model),
    )
