"""Pairs and sequences with exact flow, from any folder of photos and cut-outs, or from one picture."""

from .config import MOTIONS, SceneConfig
from .programs import PROGRAMS, MotionProgram
from .scenes import Recipe, SyntheticScenes
from .textures import Textures

__all__ = ["MOTIONS", "PROGRAMS", "MotionProgram", "Recipe", "SceneConfig", "SyntheticScenes", "Textures"]
