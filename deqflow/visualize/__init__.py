"""Pictures of flow for stills, video and reports: arrays in, uint8 RGB arrays out."""

from deqflow.visualize.arrows import draw_arrows
from deqflow.visualize.maps import color_bar, error_map, scalar_map
from deqflow.visualize.panels import side_by_side
from deqflow.visualize.renderings import PICTURES, RENDERINGS, Rendering, ShownPair
from deqflow.visualize.wheel import ColorScale, flow_to_image, wheel

__all__ = [
    "PICTURES",
    "RENDERINGS",
    "ColorScale",
    "Rendering",
    "ShownPair",
    "color_bar",
    "draw_arrows",
    "error_map",
    "flow_to_image",
    "scalar_map",
    "side_by_side",
    "wheel",
]
