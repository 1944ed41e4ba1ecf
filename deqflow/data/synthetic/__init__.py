"""Synthetic training pairs with exact flow, from any folder of photos and cut-outs."""

from .config import SceneConfig
from .scenes import Recipe, SyntheticScenes
from .textures import Textures

__all__ = ["Recipe", "SceneConfig", "SyntheticScenes", "Textures"]
