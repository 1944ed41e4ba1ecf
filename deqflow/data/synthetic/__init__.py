"""Synthetic training pairs with exact flow, from any folder of photos and cut-outs."""

from .config import MOTIONS, SceneConfig
from .scenes import Recipe, SyntheticScenes
from .textures import Textures

__all__ = ["MOTIONS", "Recipe", "SceneConfig", "SyntheticScenes", "Textures"]
