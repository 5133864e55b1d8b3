"""The sample clips of the page and of `make demo`: three held-out renders at a size that people like to watch.

    python -m s2s.synth.samples src/frontend_simple/samples

They are silent, belong to the project, and none was trained on: they are of the test split.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from s2s.synth.dataset import make_clip

SEED = 3
NUMBER_OF_NAME = {"drum": 12, "ball": 36, "hammer": 74}  # chosen by eye from the held-out set
SHORT_SIDE_PX = 288


def make_samples(folder: Path) -> None:
    """Writes NAME.mp4 for each sample, six seconds each, and their exact events in samples.json."""
    folder.mkdir(parents=True, exist_ok=True)
    events = {}
    for name, number in NUMBER_OF_NAME.items():
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "video").mkdir()
            clip = make_clip(Path(scratch), name, SEED, number, "test", None, 6.0, SHORT_SIDE_PX)
            (folder / f"{name}.mp4").write_bytes(clip.video.read_bytes())
            events[name] = [asdict(event) for event in clip.events]
    (folder / "samples.json").write_text(json.dumps(events, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    make_samples(parser.parse_args().folder)
