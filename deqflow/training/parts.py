"""What a stage trains on and what it minimizes, by the class of its options."""

from collections.abc import Callable
from typing import Any

from deqflow.estimator import DEQFlow
from deqflow.training.data import Sources, open_scenes
from deqflow.training.footage import open_footage
from deqflow.training.options import FootageOptions, PairOptions, SceneOptions, TrainOptions
from deqflow.training.pairs import open_pairs
from deqflow.training.supervised import CorrectionObjective
from deqflow.training.unsupervised import UnsupervisedObjective

Objective = CorrectionObjective | UnsupervisedObjective

PARTS: dict[type[TrainOptions], tuple[Callable[[Any], Sources], Callable[[DEQFlow, Any], Objective]]] = {
    SceneOptions: (open_scenes, CorrectionObjective),
    PairOptions: (open_pairs, CorrectionObjective),
    FootageOptions: (open_footage, UnsupervisedObjective),
}
"""Where the pairs come from and what is minimized, by the class of a stage's options."""


def create_objective(model: DEQFlow, options: TrainOptions) -> Objective:
    """Return what a stage minimizes: a module whose call takes a batch and its randomness."""
    return PARTS[type(options)][1](model, options)


def open_sources(options: TrainOptions) -> Sources:
    """Open the training and held-out pairs of a stage.

    Raises:
        ConfigError: an option that is missing or does not fit the data.
        DataError: data or textures that cannot be used.
    """
    return PARTS[type(options)][0](options)
