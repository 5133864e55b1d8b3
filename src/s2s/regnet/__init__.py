"""Visual features -> mel."""

from s2s.regnet.config import RegNetConfig
from s2s.regnet.discriminator import Discriminator
from s2s.regnet.generator import Generator

__all__ = ["Discriminator", "Generator", "RegNetConfig"]
