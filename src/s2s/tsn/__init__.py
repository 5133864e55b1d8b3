"""What the pictures show: the two streams of a temporal segment network."""

from s2s.tsn.config import TsnStreamConfig
from s2s.tsn.tsn import TsnStream, build_stream

__all__ = ["TsnStream", "TsnStreamConfig", "build_stream"]
