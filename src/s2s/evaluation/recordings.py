"""Recordings by kind that no training has heard: what the judge of kinds learns from.

They come from Debian packages under the GPL, CC-BY-SA and MPL: fine to measure with, never to train what ships. None
of these packages is in `s2s.synth.banks`, so a sound of ours can only be named right by sounding like the real thing.

    python -m s2s.evaluation.recordings DIR
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from s2s.errors import ProcessingError
from s2s.synth.banks import SAMPLE_RATE, run_client, trim

SECONDS = 3.0  # of one take
SOUND_SUFFIXES = {".wav", ".ogg", ".oga", ".flac"}

# package -> (pattern of the file's path, or of the sample's name in a SoundFont; kind); the first match counts
CHOICES: dict[str, tuple[tuple[str, str], ...]] = {
    "hydrogen-data": (
        ("*GMRockKit/Kick-*", "drum"), ("*GMRockKit/Snare-*", "drum"), ("*GMRockKit/Tom*", "drum"),
        ("*GMRockKit/Cowbell*", "metal"),
    ),
    "hydrogen-drumkits": (
        ("*Gimme A Hand*/Bongo*", "hand_drum"), ("*Gimme A Hand*/Cajon*", "hand_drum"),
        ("*Gimme A Hand*/Clave*", "wood"), ("*Gimme A Hand*/WoodBlock*", "wood"),
        ("*Gimme A Hand*/Waterglass*", "glass"), ("*Gimme A Hand*/Cowbell*", "metal"),
        ("*circAfrique*/Djembe*", "hand_drum"), ("*circAfrique*Head*", "hand_drum"), ("*circAfrique*Bell*", "metal"),
        ("*ForzeeStereo/Kick*", "drum"), ("*ForzeeStereo/Snare*", "drum"), ("*ForzeeStereo/Tom*", "drum"),
        ("*ForzeeStereo/Agogo*", "metal"), ("*Black Pearl*/PearlKick*", "drum"), ("*Black Pearl*/PearlSnare*", "drum"),
        ("*Black Pearl*/PearlTom*", "drum"), ("*Black Pearl*/Cowbell*", "metal"), ("*Millo_*/bd*", "drum"),
        ("*Millo_*/sd*", "drum"), ("*Millo_*/t[12]*", "drum"), ("*Millo_*/?snare*", "drum"), ("*Millo_*/*tom*", "drum"),
        ("*Colombo*/bassdrum*", "drum"), ("*Colombo*/snare*", "drum"), ("*Colombo*/tom*", "drum"),
    ),
    "fluid-soundfont-gm": (
        ("Tubular Bells*", "bell"), ("Glocken*", "bell"), ("Metronome Bell*", "bell"), ("Bell Tree*", "bell"),
        ("Triangle*", "bell"), ("Cow Bell*", "metal"), ("*Agogo*", "metal"), ("*Woodblock*", "wood"),
        ("Clave(*", "wood"), ("Castanet*", "wood"), ("Sticks*", "wood"), ("*Conga(*", "hand_drum"),
        ("*Bongo*", "hand_drum"), ("*Tumba*", "hand_drum"), ("Closed Slap*", "hand_drum"), ("Std Kick*", "drum"),
        ("Room Kick*", "drum"), ("Std Snr*", "drum"), ("Snr *", "drum"), ("Tom *", "drum"), ("* Studio*", "drum"),
        ("Gun*", "explosion"),
    ),
    "ufoai-sound": (
        ("*breakglass*", "glass"), ("*breakmetal*", "metal"), ("*footsteps/metal*", "metal"), ("*breakwood*", "wood"),
        ("*footsteps/wood*", "wood"), ("*footsteps/splash*", "water"), ("*footsteps/water_*", "water"),
        ("*weapons/bullet-pistol*", "explosion"), ("*weapons/bullet-rifle-1x*", "explosion"),
        ("*weapons/bullet-shotgun*", "explosion"), ("*weapons/bullet-sniper*", "explosion"),
        ("*weapons/bullet-smg-1x*", "explosion"), ("*weapons/explosion.*", "explosion"),
        ("*weapons/explosion-[gr]*", "explosion"), ("*ugv-cannon-fire*", "explosion"),
    ),
    "minetest-data": (
        ("*break_glass*", "glass"), ("*default_glass_footstep*", "glass"), ("*dig_metal*", "metal"),
        ("*dug_metal*", "metal"), ("*place_node_metal*", "metal"), ("*metal_footstep*", "metal"),
        ("*wood_footstep*", "wood"), ("*dig_choppy*", "wood"), ("*water_footstep*", "water"),
        ("*env_sounds_water*", "water"), ("*tnt_explode*", "explosion"),
    ),
    "lugaru-data": (("*/Clank*", "metal"), ("*/MetalHit*", "metal"), ("*/Staff[BH]*[yd].ogg", "wood")),
    "foobillardplus-data": (("*/oneballontable*", "ball"), ("*/balloutoftable*", "ball"), ("*/smack*", "ball"),
                            ("*/shuffleballs*", "ball"), ("*/bomb*", "explosion")),
    "kolf": (("*/hit.*", "ball"), ("*/wall.*", "ball"), ("*/bumper.*", "ball"), ("*/holed.*", "ball"),
             ("*/puddle.*", "water")),
    "pinball-data": (("*/bump*", "ball"), ("*/nudge*", "ball")),
    "bucklespring-data": (("*-1.wav", "typing"),),
    "focuswriter": (("*/key*.wav", "typing"),),
    "libreoffice-common": (("*/gong.wav", "bell"), ("*/kling.wav", "bell"), ("*/glasses.wav", "glass"),
                           ("*/explos.wav", "explosion"), ("*/kongas.wav", "hand_drum")),
    "sound-theme-freedesktop": (("*/bell.oga", "bell"),),
    "sound-icons": (("*/glass-water-1*", "glass"),),
}  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """One take, cut to its onset: float32 (n,) at 22,050 Hz, peak 1."""

    kind: str
    package: str
    original: str
    samples: np.ndarray


def fetch(folder: Path) -> int:
    """Fills `folder` with the takes and `recordings.json`; returns their number. A filled folder is left as it is.

    Downloads about 0.4 GB with apt-get (Debian, after `apt-get update`). Raises ProcessingError.
    """
    index = Path(folder) / "recordings.json"
    if index.exists():
        return len(json.loads(index.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for package, choices in CHOICES.items():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            root = Path(scratch)
            run_client(["apt-get", "download", package], root)
            deb = next(root.glob("*.deb"))
            run_client(["dpkg-deb", "-x", deb.name, "files"], root)
            for archive in (root / "files").rglob("*.pk3"):  # zip, as Quake's descendants call it
                zipfile.ZipFile(archive).extractall(archive.parent)
            for original, samples, rate in _sounds(root / "files"):
                kind = next((kind for pattern, kind in choices if fnmatch.fnmatch(original, pattern)), None)
                if kind is None or not np.any(samples):
                    continue
                name = f"{kind}-{package}-{len(records):04d}.flac"
                soundfile.write(folder / name, 0.95 * trim(samples, rate, SECONDS), SAMPLE_RATE, subtype="PCM_16")
                records.append({"file": name, "kind": kind, "package": package, "original": original,
                                "version": deb.name.split("_")[1]})  # fmt: skip
    index.write_text(json.dumps(records, indent=1))
    return len(records)


def load(folder: Path) -> list[Recording]:
    """All takes, in a fixed order. Raises ProcessingError where `fetch` has not run."""
    try:
        records = json.loads((Path(folder) / "recordings.json").read_text())
    except OSError as exc:
        raise ProcessingError(f"There are no recordings in {folder}.", code="no_bank") from exc
    return [
        Recording(r["kind"], r["package"], r["original"], soundfile.read(Path(folder) / r["file"], dtype="float32")[0])
        for r in records
    ]


def _sounds(root: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    """(path or sample name, float32 (n,), rate) of every sound file and of every sample in a SoundFont."""
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() == ".sf2":
            yield from soundfont_samples(path)
        elif path.suffix.lower() in SOUND_SUFFIXES and path.is_file() and not path.is_symlink():
            samples, rate = soundfile.read(path, always_2d=True, dtype="float32")
            yield path.relative_to(root).as_posix(), samples.mean(axis=1), rate


def soundfont_samples(path: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    """(name, float32 (n,), rate) of each sample of a SoundFont 2 file (specification 2.04, sections 5 and 7.10)."""
    data = path.read_bytes()
    at = data.index(b"smpl")
    pcm = np.frombuffer(data, "<i2", struct.unpack_from("<I", data, at + 4)[0] // 2, at + 8)
    at = data.index(b"shdr")
    for number in range(struct.unpack_from("<I", data, at + 4)[0] // 46 - 1):  # the last header ends the list
        name, start, end, _, _, rate = struct.unpack_from("<20sIIIII", data, at + 8 + 46 * number)
        yield name.split(b"\0")[0].decode("latin-1"), pcm[start:end].astype(np.float32) / 32768, rate


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fetch the recordings that the judge of kinds learns from.")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(f"{fetch(args.folder)} recordings in {args.folder}")
