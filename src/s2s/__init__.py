"""Silence to Sound: a silent video in, the same video with fitting sound out.

Only the version lives here, so that importing `s2s` costs nothing and the gateway needs no torch.
Start reading at `s2s.pipeline`.
"""

__version__ = "0.1.0"
