"""`python -m s2s.bench [--json PATH] [--quick]`: prints one table a part, and writes the same numbers as JSON."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

from s2s.bench import wavenet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m s2s.bench", description="How fast this machine runs the project.")
    parser.add_argument("--json", type=Path, default=Path("var/bench.json"), help="where the numbers go")
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    arguments = parser.parse_args()

    report: dict = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    rows, peaks = wavenet.measure(rounds=1 if arguments.quick else wavenet.ROUNDS)
    report["wavenet"] = {"peak_ops_per_s": peaks, "rows": [row.to_dict() for row in rows]}
    print(wavenet.table(rows, peaks))
    # further parts (the stages of the pipeline, scaling with length, memory) add their table and key here

    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{arguments.json}")


if __name__ == "__main__":
    main()
