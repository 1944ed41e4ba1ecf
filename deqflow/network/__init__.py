"""The rooms of the network, as plain modules."""

from deqflow.network.correlation import CorrelationPyramid
from deqflow.network.encoder import Encoder, StandardizedConv2d
from deqflow.network.update import MixerUpdate
from deqflow.network.upsampling import ConvexUpsampling

__all__ = ["ConvexUpsampling", "CorrelationPyramid", "Encoder", "MixerUpdate", "StandardizedConv2d"]
