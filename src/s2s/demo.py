"""`make demo`: the main job end to end on a silent clip, through the real gateway and the real model server."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from s2s.config import REPO_ROOT, settings
from s2s.errors import ProcessingError
from s2s.events import SoundEvent

DEMO_CLIP = REPO_ROOT / "src" / "frontend_simple" / "samples" / "drum.mp4"


def run_demo(folder: Path, out: Console, clip: Path = DEMO_CLIP) -> Path:
    """Starts the stack on free ports, sends `clip` as the page would, saves video, report and picture in `folder`.

    Raises ProcessingError when the job does not succeed. Returns the path of the video with sound.
    """
    from s2s.serving import running_stack

    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "with-sound.mp4"
    out.print(f"Silent clip: {escape(str(clip))}", highlight=False)
    out.print("Starting the model server and the gateway (about 20 s) ...", highlight=False)
    with (
        running_stack(settings(), data_dir=folder / "stack") as stack,
        httpx.Client(base_url=stack.url, timeout=60) as http,
    ):
        with clip.open("rb") as file:
            job = _accepted(http.post("/v1/jobs", files={"file": (clip.name, file, "video/mp4")}))
        job = _follow(http, job, out)
        if job["state"] != "succeeded":
            problem = job.get("problem") or {}
            raise ProcessingError(f"The demo's job {job['state']}: {problem.get('detail', 'no reason given')}.")
        result.write_bytes(http.get(job["links"]["result"]).raise_for_status().content)
    (folder / "report.json").write_text(json.dumps(job["report"], indent=2) + "\n")
    picture = folder / "with-sound.png"
    _draw(result, job["report"], picture)
    events = job["report"]["events"]
    out.print(f"[bold]Video with sound:[/] {escape(str(result.resolve()))}", highlight=False)
    out.print(f"[bold]Picture of it:[/]    {escape(str(picture.resolve()))}", highlight=False)
    out.print(
        f"{len(events)} events, kind: {job['report']['category']}. The stack is stopped; `make serve` keeps it "
        "running.",
        highlight=False,
    )
    return result


def _accepted(answer: httpx.Response) -> dict:
    if answer.status_code != 202:
        raise ProcessingError(f"The gateway refused the clip: {answer.text}")
    return answer.json()


def _follow(http: httpx.Client, job: dict, out: Console) -> dict:
    """Reads the job's event stream to its end; returns the last state of the job."""
    bar = Progress(
        TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), console=out
    )
    with bar, http.stream("GET", job["links"]["events"], timeout=300) as stream:
        task = bar.add_task("queued", total=1.0)
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event:"):
                name = line.removeprefix("event:").strip()
            elif line.startswith("data:") and name == "progress":
                data = json.loads(line.removeprefix("data:"))
                bar.update(task, description=data["stage"], completed=data["fraction"])
            elif line.startswith("data:") and name in ("succeeded", "failed", "canceled"):
                bar.update(task, description=name, completed=1.0)
                break
    return http.get(job["links"]["self"]).raise_for_status().json()


def _draw(video: Path, report: dict, picture: Path) -> None:
    from s2s.media.audio import read_audio
    from s2s.mel import mel_spectrogram
    from s2s.picture import draw_result
    from s2s.pipeline import GeneratedSound

    waveform = read_audio(video, report["sample_rate"])  # what a person hears, after the codec
    draw_result(
        video,
        GeneratedSound(
            waveform=waveform,
            sample_rate=report["sample_rate"],
            mel=mel_spectrogram(waveform),
            events=[SoundEvent(**event) for event in report["events"]],
            category=report["category"],
            category_confidence=report["category_confidence"],
            duration_s=report["duration_s"],
            seed=report["seed"],
        ),
        picture,
    )
