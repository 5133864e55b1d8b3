"""What a person sees of a training run: one progress bar with ETA, and scalars, for TensorBoard and as JSON lines."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """Use as a context manager. Scalars go to `run_dir/scalars.jsonl`, and to TensorBoard where that is installed."""

    def __init__(self, run_dir: Path, total: int, every: int = 20):
        run_dir.mkdir(parents=True, exist_ok=True)
        self._log = (run_dir / "scalars.jsonl").open("a", encoding="utf-8")
        self._writer = _tensorboard(run_dir)
        self._total, self._every = total, every
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total, said="")
        self._plain = not console.is_terminal
        self._said_at = 0.0

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._log.close()
        if self._writer is not None:
            self._writer.close()

    def count(self, what: str, done: int, total: int) -> None:
        """Progress of work before the first step, such as making clips."""
        self._bar.update(self._task, description=what, completed=done, total=total)
        if done == total:
            self._bar.update(self._task, description="training", completed=0, total=self._total)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        said = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._bar.update(self._task, completed=step, said=said)
        if step % self._every and step != self._total:
            return
        self._log.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in values.items()}}) + "\n")
        self._log.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if self._plain and time.monotonic() - self._said_at > 30:
            print(f"step {step}/{self._total}  {said}", file=sys.stderr, flush=True)
            self._said_at = time.monotonic()


def _tensorboard(run_dir: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run_dir / "tensorboard"))
