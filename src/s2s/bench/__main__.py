"""`python -m s2s.bench [--json PATH] [--quick] [--long]`: one table a part, and the same numbers as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from s2s.bench import nets, pipeline, wavenet

PARTS = ("wavenet", "nets", "pipeline")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m s2s.bench", description="How fast this machine runs the project.")
    parser.add_argument("--json", type=Path, default=Path("var/bench.json"), help="where the numbers go")
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    parser.add_argument("--long", action="store_true", help="also 10 minutes, and the published WaveNet")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    arguments = parser.parse_args()

    rounds = 1 if arguments.quick else wavenet.ROUNDS
    report: dict = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
    }
    for part in arguments.part or PARTS:
        if part == "wavenet":
            rows, peaks = wavenet.measure(rounds=rounds)
            report[part] = {"peak_ops_per_s": peaks, "rows": [row.to_dict() for row in rows]}
            print(wavenet.table(rows, peaks))
            if arguments.long and (clip := wavenet.measure_clip()):
                report[part]["clip"] = clip.to_dict()
                print(wavenet.clip_line(clip))
        elif part == "nets":
            net_rows = nets.measure(rounds)
            report[part] = [row.to_dict() for row in net_rows]
            print(nets.table(net_rows))
        else:
            cases = pipeline.CASES + (pipeline.LONG_CASES if arguments.long else [])
            clip_rows = pipeline.measure(arguments.json.parent / "bench-clips", cases)
            report[part] = [row.to_dict() for row in clip_rows]
            print(pipeline.table(clip_rows))
        print(flush=True)

    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(arguments.json)


if __name__ == "__main__":
    main()
