"""A study as one HTML page that needs nothing else: tables, plots, players."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import soundfile

from s2s.config import settings
from s2s.errors import ProcessingError
from s2s.evaluation.study import OURS, RATE, SYSTEMS, TRUE
from s2s.media.mux import add_sound
from s2s.media.probe import probe
from s2s.synth.script import KINDS

MEASURES = {  # name in the JSON -> head of the column, decimals, what it says
    "f1_50ms": ("onset F1, 50 ms", 2, "alone it says little: unrelated sounds reach .3 to .5"),
    "f1_100ms": ("onset F1, 100 ms", 2, ""),
    "strict_skill": ("strict skill", 2, "0 is chance, 1 is perfect"),
    "lag_corrected_skill": ("lag-corrected skill", 2, "one constant lag within 150 ms forgiven, chance given the same"),
    "onset_count_accuracy": ("onset Acc", 2, "share of clips with exactly the true number of onsets (CondFoleyGen)"),
    "onset_ap": ("onset AP", 2, "average precision at 100 ms, a miss is 0 (CondFoleyGen's is laxer: not comparable)"),
    "av_align": ("AV-Align", 2, "overlap of onsets and peaks of motion, 100 ms (the paper: one frame; not comparable)"),
    "envelope_correlation": ("envelope correlation", 2, "Pearson, steps of 20 ms"),
    "offset_ms": ("offset, ms", 0, "median; + is late"),
    "mel_l1_db": ("mel L1, dB", 1, "small is better; at the level of the true sound"),
    "multi_resolution_stft": ("multi-res. STFT", 2, "small is better; at the level of the true sound"),
}
EXAMPLES = 8
COLOURS = {OURS: "#0b6e4f", TRUE: "#444444"}


def write_report(study: dict, out: Path, bundle_name: str, set_name: str, examples: int = EXAMPLES) -> Path:
    """`out`/index.html. The sounds must lie in `out`/sounds, where `run_study` put them."""
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(bundle_name)}: evaluation</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: bottom }}
th:first-child, td:first-child {{ text-align: left; white-space: nowrap }}
tr.ours td {{ font-weight: 600; background: #e9f5f0 }}
.clips {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(34rem, 1fr)); gap: 1.5rem }}
.films {{ display: flex; gap: .5rem }} .films div {{ flex: 1 }} video {{ width: 100% }}
 audio {{ height: 2rem; vertical-align: middle; width: 60% }}
img {{ max-width: 100% }} figure {{ margin: 0 }} small {{ color: #555 }}
</style></head><body>
<h1>{escape(bundle_name)} on {escape(set_name)}</h1>
<p>{study["clips"]} clips, {study["clips_with_events"]} with events. Video file in, waveform out. Every figure stands
beside what it has to beat; the JSON beside this page has them clip by clip.</p>
<h2>Placement and likeness</h2>{_table(study)}
<ul>{"".join(f"<li><b>{escape(head)}</b>: {escape(words)}</li>" for head, _, words in MEASURES.values() if words)}</ul>
{_image(_skill_plot(study), "Lag-corrected and strict skill of every system")}
{_kinds(study)}
<h2>Distance, diversity, leaks</h2>{_rest(study)}
<h2>Clips</h2><div class="clips">{"".join(_clip(row, out) for row in _chosen(study["rows"], examples))}</div>
</body></html>"""
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _table(study: dict) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head, _, _ in MEASURES.values())
    rows = []
    for system in SYSTEMS:
        means = study["means"].get(system)
        if means:
            cells = "".join(f"<td>{_figure(means.get(name), places)}</td>" for name, (_, places, _) in MEASURES.items())
            rows.append(f'<tr class="{"ours" if system == OURS else ""}"><td>{escape(system)}</td>{cells}</tr>')
    return f"<table><tr><th>system</th>{heads}</tr>{''.join(rows)}</table>"


def _figure(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:+.0f}" if places == 0 else f"{value:.{places}f}"


def _kinds(study: dict) -> str:
    kinds = study["kinds"]
    if kinds is None:
        return ""
    rows = "".join(
        f'<tr class="{"ours" if system == OURS else ""}"><td>{escape(system)}</td><td>{value:.2f}</td></tr>'
        for system, value in kinds["accuracy"].items()
        if value is not None
    )
    where = kinds["accuracy_where_the_picture_was_recognised"]
    return f"""<h2>Kind of sound</h2>
<p>Judged by a linear probe on YAMNet embeddings that learned from recordings alone, of packages that no training used.
On recordings of packages that were kept from it, it is right in {kinds["judge_on_recordings_of_unheard_packages"]:.0%}
(mean over kinds). The bundle named the kind from the picture in {kinds["picture_recognised"]:.0%} of the clips
{f"; there, the judge agrees in {where[OURS]:.0%} (true sound: {where[TRUE]:.0%})" if where else ""}.</p>
<table><tr><th>system</th><th>kind accuracy</th></tr>{rows}</table>
{_image(_confusion_plot(kinds["confusion"]), "Which kind is taken for which")}"""


def _rest(study: dict) -> str:
    distances = "".join(
        f"<tr><td>{escape(system)}</td><td>{_figure(value, 1)}</td></tr>"
        for system, value in study["frechet_distance_yamnet_pca32"].items()
    )
    seeds, leak = study["diversity_mel_l1_db"]["same clip, two seeds"], study["leak_guard"]
    return f"""<table><tr><th>system</th><th>Fréchet distance to the true sounds
(YAMNet embeddings, 32 directions)</th></tr>{distances}</table>
<p>Two seeds of one clip differ by {_figure(seeds, 1)} dB of mel (mean absolute).
A foreign sound track on the input changes the sound by {_figure(leak.get("largest_change"), 6)} (largest sample, full
scale is 1); it should be 0.</p>"""


def _chosen(rows: Sequence[dict], n: int) -> list[dict]:
    """Clips spread over the kinds, in the order of the set: not the best ones."""
    chosen: list[dict] = []
    for depth in range(len(rows)):
        for kind in dict.fromkeys(row["kind"] for row in rows):
            of_kind = [row for row in rows if row["kind"] == kind]
            if depth < len(of_kind) and len(chosen) < n:
                chosen.append(of_kind[depth])
    return chosen


def _clip(row: dict, out: Path) -> str:
    sounds = {
        system: soundfile.read(out / "sounds" / f"{row['clip']}.{SYSTEMS.index(system)}.flac", dtype="float32")[0]
        for system in row["systems"]
    }
    score = row["systems"][OURS]
    others = "".join(
        f"<div><small>{escape(system)}</small> <audio controls preload=none src='{_ogg(sound)}'></audio></div>"
        for system, sound in sounds.items()
        if system not in (OURS, TRUE, "silence")
    )
    films = "".join(_film(Path(row["video"]), sounds[system], system) for system in (OURS, TRUE))
    said = f"seen: {row['category']}; true: {row['kind'] or '-'}; heard as: {row['named'].get(OURS, '-')}"
    skill = _figure(score.get("lag_corrected_skill"), 2)
    return f"""<figure><div class="films">{films}</div>{_image(_timeline_plot(row, sounds), "Waveforms and events")}
<figcaption><b>{escape(row["clip"])}</b>: {escape(said)}; lag-corrected skill {skill}</figcaption>
<details><summary>The other systems</summary>{others}</details></figure>"""


def _film(video: Path, sound: np.ndarray, system: str) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "film.mp4"
        try:
            info = probe(video, settings().cli_limits)
            as_it_is = video.suffix.lower() == ".mp4" and info.container.n_edits == 1
            add_sound(info, sound, RATE, path, reencode=not as_it_is)
        except ProcessingError:
            return f"<p>{escape(system)}: no player could be made.</p>"
        data = base64.b64encode(path.read_bytes()).decode()
    return f"""<div><small>{escape(system)}</small><br>
<video controls preload=metadata src='data:video/mp4;base64,{data}'></video></div>"""


def _ogg(sound: np.ndarray) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, format="OGG", subtype="VORBIS")
    return "data:audio/ogg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _image(figure, words: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f"<img alt='{escape(words)}' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _figure_of(width: float, height: float, rows: int = 1, columns: int = 1):
    from matplotlib.figure import Figure  # no pyplot: nothing global

    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _skill_plot(study: dict):
    figure, ((axes,),) = _figure_of(9, 3.2)
    systems = [s for s in SYSTEMS if study["means"].get(s, {}).get("strict_skill") is not None]
    for shift, (name, shade) in enumerate((("lag_corrected_skill", 1.0), ("strict_skill", 0.45))):
        values = [study["means"][s].get(name) or 0.0 for s in systems]
        at = np.arange(len(systems)) + 0.38 * shift
        bars = axes.barh(at, values, 0.36, alpha=shade, label=MEASURES[name][0])
        for bar, system in zip(bars, systems, strict=True):
            bar.set_color(COLOURS.get(system, "#7a8fb0"))
    axes.set_yticks(np.arange(len(systems)) + 0.19, systems)
    axes.invert_yaxis()
    axes.axvline(0, color="k", lw=0.8)
    axes.set_xlabel("skill (dark: lag-corrected, pale: strict)")
    return figure


def _confusion_plot(confusion: dict):
    figure, (row,) = _figure_of(15, 4.6, 1, len(confusion))
    for axes, (title, table) in zip(row, confusion.items(), strict=True):
        counts = np.array([[table.get(a, {}).get(b, 0) for b in KINDS] for a in KINDS])
        axes.imshow(counts, cmap="Greens")
        for i, j in zip(*np.nonzero(counts), strict=True):
            axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=8)
        axes.set_xticks(range(len(KINDS)), KINDS, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(len(KINDS)), KINDS, fontsize=8)
        axes.set_title({"true": "true sound, heard as", "ours": "our sound, heard as"}.get(title, title), fontsize=10)
    return figure


def _timeline_plot(row: dict, sounds: dict[str, np.ndarray]):
    figure, axes = _figure_of(7, 2.2, 2)
    for (axis,), system in zip(axes, (OURS, TRUE), strict=True):
        sound = sounds[system]
        step = max(1, len(sound) // 1200)
        peaks = np.abs(sound[: len(sound) // step * step].reshape(-1, step)).max(axis=1)
        times = np.arange(len(peaks)) * step / RATE
        axis.fill_between(times, -peaks, peaks, color=COLOURS[system], lw=0)
        for moments, style in ((row["onsets_s"], "k:"), (row["events_s"] if system == OURS else [], "r-")):
            for moment in moments:
                axis.axvline(moment, color=style[0], ls=style[1:], lw=0.9)
        axis.set_ylabel(system, fontsize=7)
        axis.set_yticks([])
        axis.set_ylim(-1, 1)
        axis.set_xlim(0, row["duration_s"])
    axes[0, 0].set_title("dotted: true moments; red: events of the bundle", fontsize=8)
    return figure
