"""A small web site of rendered clips with sound, and a csv that lists them: what `run_local.sh` collects from.

python -m workflow.sample_site make SITE      SITE/NAME.mp4 and SITE/wanted.csv: 10 clips, a damaged one, a dead link
python -m workflow.sample_site serve SITE     until it is ended; the port is in SITE/port
"""

from __future__ import annotations

import argparse
import csv
import functools
import http.server
from pathlib import Path

import soundfile

from s2s.config import settings
from s2s.data.manifest import write_whole
from s2s.media.mux import add_sound
from s2s.media.probe import probe
from s2s.synth.dataset import ClipRecord, make_dataset
from s2s.synth.sounds import SoundBank

GOOD = {"train": 7, "test": 3}


def make_site(site: Path) -> None:
    """Writes the site, or what is missing of it."""
    rows = []
    for split, n in GOOD.items():
        bank = SoundBank("test" if split == "test" else "train")
        made = make_dataset(site / "rendered" / split, 2 * n, 5, split, bank, duration_s=4.0, short_side_px=96)
        fit = [record for record in made if len({event.kind for event in record.events}) == 1][:n]
        for record in fit:
            _publish(record, site)
            rows.append([record.id, "0", record.events[0].kind, split])
    whole = (site / f"{rows[0][0]}.mp4").read_bytes()
    (site / "damaged.mp4").write_bytes(whole[: len(whole) // 3])
    rows += [["damaged", "0", "drum", "train"], ["gone", "0", "bell", "train"]]
    with open(site / "wanted.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _publish(record: ClipRecord, site: Path) -> None:
    target = site / f"{record.id}.mp4"
    if not target.exists():
        waveform, rate = soundfile.read(record.audio, dtype="float32")
        add_sound(probe(record.video, settings().cli_limits), waveform, rate, target)


def serve(site: Path) -> None:
    """On loopback, at a free port; again at the same one, because a clip's address is part of what is kept of it."""
    handler, port = functools.partial(_Quiet, directory=str(site)), site / "port"
    wanted = int(port.read_text()) if port.exists() else 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", wanted), handler) as server:
        write_whole(port, str(server.server_address[1]))
        write_whole(site / "ready", "")
        server.serve_forever()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", "serve"])
    parser.add_argument("site", type=Path)
    args = parser.parse_args()
    (make_site if args.what == "make" else serve)(args.site)


if __name__ == "__main__":
    main()
