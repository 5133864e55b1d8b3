"""How the engine is built: an optional extension of the package, one C++ file, no library, any x86-64 or other CPU.

setup.py runs this file by path (the package is not importable then); `python -m s2s.wavenet_vocoder.engine.build`
builds it in place. Where there is no C++ compiler the install goes on without it, and says so once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

MODULE = "s2s.wavenet_vocoder.engine._wavenet_engine"
SOURCE = "src/s2s/wavenet_vocoder/engine/wavenet_engine.cpp"  # from the root of the repository
NOTICE = (
    "The fast WaveNet engine was not built: {reason}\n"
    "Everything works without it, but an autoregressive WaveNet then runs in PyTorch, many times slower. "
    "To get it, install a C++17 compiler (Debian: apt-get install g++) and install this package again."
)


def extension() -> Extension:
    """No -march: the source holds a version for each instruction set and picks one at run time."""
    return Extension(
        MODULE,
        [SOURCE],
        language="c++",
        optional=True,
        extra_compile_args=[
            "-O3",
            "-std=c++17",
            "-g0",
            "-ffp-contract=fast",
            "-fvisibility=hidden",
            "-pthread",
            "-Wno-psabi",
            "-Wno-maybe-uninitialized",
        ],
        extra_link_args=["-pthread"],
    )


class OptionalBuildExt(build_ext):
    """`build_ext` that turns a missing or failing compiler into one clear notice."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as exc:  # distutils raises many kinds; none of them may stop the install
            if ext.name != MODULE:
                raise
            print(NOTICE.format(reason=exc), file=sys.stderr)

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]


def build_in_place(root: Path) -> None:
    """Compile into the source tree, as `pip install -e .` does. Without a compiler: the notice, and no file."""
    before = Path.cwd()
    os.chdir(root)
    try:
        command = OptionalBuildExt(Distribution({"package_dir": {"": "src"}, "ext_modules": [extension()]}))
        command.inplace = True
        command.build_temp = command.build_lib = str(root / "build")
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)


if __name__ == "__main__":
    build_in_place(Path(__file__).resolve().parents[4])
