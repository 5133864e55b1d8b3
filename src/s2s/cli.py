"""`s2s`: the command line. Parses, builds, calls, reports; every behaviour lives in the modules it imports.

Exit codes: 0 done; 2 the file or the arguments are at fault (one clear line, no traceback); 1 our fault.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from s2s.config import settings
from s2s.data.cli import data_app
from s2s.errors import InputError, ProcessingError, S2SError
from s2s.events import Progress as StageProgress
from s2s.media.gate import VIDEO_SUFFIXES

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Silence to Sound: gives a silent video sound that fits what is seen, at the moment it is seen.",
)
bundle_app = typer.Typer(no_args_is_help=True, help="Inspect, verify, import, calibrate, promote bundles of networks.")
app.add_typer(bundle_app, name="bundle")
app.add_typer(data_app, name="data")
keys_app = typer.Typer(no_args_is_help=True, help="API keys of the gateway.")
app.add_typer(keys_app, name="keys")
db_app = typer.Typer(no_args_is_help=True, help="The gateway's database.")
app.add_typer(db_app, name="db")
cluster_app = typer.Typer(no_args_is_help=True, help="Look at a cluster that runs the service.")
app.add_typer(cluster_app, name="cluster")

out = Console(emoji=False)  # names of files and other people's words are printed as they are: see `escape`, too
err = Console(stderr=True, emoji=False)

STAGE_WORDS = {
    "probe": "Checking the file",
    "frames": "Watching the picture",
    "features": "Recognising what is seen",
    "events": "Finding the moments",
    "mel": "Composing the sound",
    "vocode": "Making the waveform",
    "mux": "Joining sound and picture",
}

BundleOption = Annotated[Path | None, typer.Option("--bundle", help="Bundle folder. Default: the one that ships.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]


def main() -> None:
    """Entry point of the `s2s` command."""
    logging.basicConfig(level=settings().log_level, format="%(levelname)s %(name)s: %(message)s")
    for chatty in ("matplotlib", "httpx", "httpcore", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        app(standalone_mode=True)
    except S2SError as exc:
        _tell(exc)
        sys.exit(2 if isinstance(exc, InputError) else 1)


def _tell(exc: S2SError) -> None:
    err.print(f"[bold red]Error[/]: {escape(str(exc))}", highlight=False, soft_wrap=True)


@contextmanager
def _stage_bar(enabled: bool):
    """One line that names the stage and its true counts. Yields the `on_progress` callback."""
    if not enabled:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("Starting", total=1.0, counts="")

        def show(progress: StageProgress) -> None:
            bar.update(
                task,
                description=STAGE_WORDS[progress.stage],
                completed=progress.fraction,
                counts=f"{progress.step}/{progress.total}" if progress.total > 1 else "",
            )

        yield show


@app.command()
def generate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A video (MP4, MOV, WebM), or a folder of videos.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Where the video with sound goes; a folder if IN is one."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another take of the same moments.")] = 0,
    category: Annotated[
        str | None, typer.Option(help="Kind of sound, e.g. drum. Default: recognised from the picture.")
    ] = None,
    bundle: BundleOption = None,
    device: DeviceOption = "",
    vocoder: Annotated[
        str | None, typer.Option(help="wavenet or griffinlim. Default: the bundle's own choice.")
    ] = None,
    wav: Annotated[Path | None, typer.Option(help="Also write the uncompressed sound here.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw frames, mel spectrogram and events on one time line (PNG).")
    ] = None,
    mix_original: Annotated[
        float,
        typer.Option(
            metavar="GAIN", min=0.0, max=4.0, help="Keep the clip's own sound at this gain under the new one."
        ),
    ] = 0.0,
    offset_ms: Annotated[
        float, typer.Option(min=-1000, max=1000, help="Move the sound later (+) or earlier (-).")
    ] = 0.0,
    gain_db: Annotated[float, typer.Option(min=-40, max=20, help="Louder (+) or quieter (-).")] = 0.0,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="H.264 and AAC that play anywhere, instead of the untouched picture.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Give a video sound that fits what is seen. The picture is not touched."""
    jobs = _plan(source, output, reencode)
    if source.is_dir() and (wav or picture):
        raise InputError("--wav and --picture take one video, not a folder.", code="bad_request")
    if not source.is_dir():
        from s2s.media.gate import check_container

        check_container(source, settings().cli_limits)  # a bad file is told at once, before torch is loaded
    from s2s.pipeline import Options, SoundGenerator

    generator = SoundGenerator.from_bundle(bundle or settings().bundle, device=device or settings().device)
    options = Options(
        seed=seed,
        category=category,
        vocoder=vocoder,
        offset_ms=offset_ms,
        gain_db=gain_db,
        mix_original=mix_original,
        reencode=reencode,
    )
    if source.is_dir():
        _generate_folder(generator, jobs, options, as_json, quiet)
        return
    video, target = jobs[0]
    with _stage_bar(not quiet and not as_json and err.is_terminal) as show:
        sound = generator.generate_file(video, target, limits=settings().cli_limits, options=options, on_progress=show)
    if wav:
        from s2s.media.audio import write_wav

        write_wav(wav, sound.waveform, sound.sample_rate)
    if picture:
        from s2s.picture import draw_result

        draw_result(video, sound, picture)
    if as_json:
        print(json.dumps({"output": str(target), **sound.report()}, indent=2))
    else:
        _report(target, sound)


def _plan(source: Path, output: Path | None, reencode: bool) -> list[tuple[Path, Path]]:
    """[(video, target)], checked before any work is done."""
    try:
        return _targets(source, output, reencode)
    except OSError as exc:  # a name that is too long, a folder that may not be read
        raise InputError(f"{exc.filename}: {exc.strerror}.", code="bad_output", hint="Check the names.") from exc


def _targets(source: Path, output: Path | None, reencode: bool) -> list[tuple[Path, Path]]:
    if not source.exists():
        raise InputError(f"{source} does not exist.", code="not_found", hint="Check the path.")
    if source.is_dir():
        videos = sorted(path for path in source.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
        if not videos:
            raise InputError(
                f"{source} holds no video.", code="not_a_video", hint=f"Looked for {', '.join(sorted(VIDEO_SUFFIXES))}."
            )
        folder = output or source.with_name(source.name + "-sound")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; a folder of videos needs a folder to go to.", code="bad_output")
        if folder.resolve() == source.resolve():
            raise InputError("OUT would overwrite IN.", code="bad_output", hint="Give another folder with -o.")
        names = [_result_name(video, video.stem, reencode) for video in videos]
        taken = {video.name.casefold() for video, name in zip(videos, names, strict=True) if name == video.name}
        for index, video in enumerate(videos):
            if names[index] == video.name:
                continue
            if names[index].casefold() in taken:
                names[index] = f"{video.name}.mp4"
            while names[index].casefold() in taken:
                names[index] = f"{names[index]}.mp4"
            taken.add(names[index].casefold())
        return [(video, folder / name) for video, name in zip(videos, names, strict=True)]
    target = output or source.with_name(_result_name(source, f"{source.stem}.sound", reencode))
    if target.exists() and target.resolve() == source.resolve():
        raise InputError("OUT would overwrite IN.", code="bad_output", hint="Give another name with -o.")
    return [(source, target)]


def _result_name(video: Path, stem: str, reencode: bool) -> str:
    """The suffix stays unless a file of that kind cannot hold the re-encoded picture."""
    from s2s.media.mux import ISO_SUFFIXES

    if not reencode or video.suffix.lower() in ISO_SUFFIXES:
        return stem + video.suffix
    return f"{stem}.mp4"


def _generate_folder(generator, jobs, options, as_json: bool, quiet: bool) -> None:
    """One bar for all; a bad file is reported and does not stop the others. Exit code 2 if any failed."""
    rows, failed = [], 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or as_json or not err.is_terminal) as bar:
        task = bar.add_task("Videos", total=len(jobs))
        for index, (video, target) in enumerate(jobs):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                sound = generator.generate_file(
                    video,
                    target,
                    limits=settings().cli_limits,
                    options=options,
                    on_progress=lambda p, index=index, video=video: bar.update(
                        task, completed=index + p.fraction, description=escape(video.name)
                    ),
                )
                rows.append({"input": str(video), "output": str(target), **sound.report()})
            except (InputError, ProcessingError) as exc:
                failed += 1
                rows.append({"input": str(video), "error": str(exc), "code": exc.code})
            bar.update(task, completed=index + 1)
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table = Table("video", "kind", "events", "result")
        for row in rows:
            table.add_row(
                escape(Path(row["input"]).name),
                *(
                    (escape(row["category"] or "-"), str(len(row["events"])), escape(row["output"]))
                    if "output" in row
                    else ("", "", f"[red]{escape(row['error'])}")
                ),
            )
        out.print(table)
        out.print(f"{len(rows) - failed} of {len(rows)} videos got sound.", highlight=False)
    if failed:
        raise typer.Exit(2)


def _report(target: Path, sound) -> None:
    seconds = sum(sound.stage_seconds.values())
    out.print(
        f"[bold]{escape(str(target))}[/]  {sound.duration_s:.1f} s of sound in {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if sound.category:
        out.print(
            f"Kind: {escape(sound.category)} ({sound.category_confidence:.0%} sure). Choose another with --category.",
            highlight=False,
        )
    if sound.events:
        shown = ", ".join(f"{event.time_s:.2f}" for event in sound.events[:12])
        out.print(f"{len(sound.events)} events at {shown}{' ...' if len(sound.events) > 12 else ''} s", highlight=False)
    for note in sound.notes:
        out.print(escape(note), highlight=False)


@app.command()
def payload(
    video: Annotated[Path, typer.Argument(help="A video file.")],
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    category: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Print the JSON that the prediction endpoint takes: s2s payload clip.mp4 > input_payload.json"""
    from s2s.wire import encode_file

    if not video.is_file():
        raise InputError(f"{video} does not exist.", code="not_found", hint="Check the path.")
    body = {"file": encode_file(video.read_bytes()), "seed": seed, "category": category}
    print(json.dumps({key: value for key, value in body.items() if value is not None}))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address the page and the gateway bind.")] = "",
    port: Annotated[int, typer.Option(help="Their port; 0 picks a free one.")] = -1,
    bundle: BundleOption = None,
    device: DeviceOption = "",
    workers: Annotated[int | None, typer.Option(min=1, help="Clips worked on at once.")] = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Gateway and page only; see `s2s worker`.")] = False,
) -> None:
    """Run the whole stack (model server, gateway, page) until Ctrl-C."""
    from s2s.serving import serve as run

    changes = {
        "host": host or None,
        "port": port if port >= 0 else None,
        "bundle": bundle,
        "device": device or None,
        "model_workers": workers,
        "embedded_worker": False if no_worker else None,
    }
    run(settings().model_copy(update={key: value for key, value in changes.items() if value is not None}))


@app.command()
def worker(
    workers: Annotated[int | None, typer.Option(min=1, help="Clips worked on at once.")] = None,
) -> None:
    """Work on the gateway's jobs in a process of its own, with the model server at S2S_MODEL_SERVER_URL."""
    from s2s.serving import gateway_tools

    config = settings()
    gateway_tools().run_worker(config.model_copy(update={"model_workers": workers}) if workers else config)


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="For people: whose key it is.")],
    scope: Annotated[list[str] | None, typer.Option(help="read, write or admin; may be repeated.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Valid for so many days. Default: until revoked.")] = None,
) -> None:
    """Make an API key and print it: this once, because only a hash of it is kept."""
    from s2s.serving import gateway_tools

    ttl_s = None if days is None else 86_400 * days
    print(gateway_tools().create_key(settings(), name, scope or ["read", "write"], ttl_s))


@keys_app.command("list")
def keys_list() -> None:
    """Which keys there are."""
    from s2s.serving import gateway_tools

    table = Table("id", "name", "scopes", "made", "ends")
    for key in gateway_tools().list_keys(settings()):
        ends = key.revoked_at or key.expires_at
        table.add_row(key.id, escape(key.name), " ".join(key.scopes), _day(key.created_at), _day(ends) if ends else "")
    out.print(table)


@keys_app.command("revoke")
def keys_revoke(key_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """From now on the key opens nothing."""
    from s2s.serving import gateway_tools

    if not gateway_tools().revoke_key(settings(), key_id):
        raise InputError(f"There is no valid key {key_id!r}.", code="not_found", hint="See `s2s keys list`.")


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the job table to this version. Back up first; no other process may run meanwhile."""
    from s2s.serving import gateway_tools

    gateway_tools().upgrade_database(settings())


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


@app.command()
def demo(folder: Annotated[Path, typer.Option("--out", help="Where the demo's files go.")] = Path("var/demo")) -> None:
    """The main job end to end on a silent clip: through the real gateway and model server, then stop them."""
    from s2s.demo import run_demo

    run_demo(folder, out)


@bundle_app.command("info")
def bundle_info(
    path: Annotated[Path | None, typer.Argument(help="Bundle folder. Default: the one that ships.")] = None,
) -> None:
    """What a bundle is: networks, kinds, licence, training data, metrics."""
    from s2s.bundle import read_manifest

    print(read_manifest(path or settings().bundle).model_dump_json(indent=2))


@bundle_app.command("verify")
def bundle_verify(
    path: Annotated[Path | None, typer.Argument(help="Bundle folder. Default: the one that ships.")] = None,
) -> None:
    """Check every file of a bundle against its sha256."""
    from s2s.bundle import verify_bundle

    verify_bundle(path or settings().bundle)
    out.print("All files are whole.")


@bundle_app.command("promote")
def bundle_promote(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The new bundle.")],
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of bundles and of current.json.")],
    force: Annotated[bool, typer.Option("--force", help="Even when it is not better.")] = False,
    cluster: Annotated[
        str, typer.Option(help="Roll it out: current, context:NAME or gke:PROJECT/LOCATION/CLUSTER.")
    ] = "",
    namespace: Annotated[str, typer.Option(help="Namespace of the service.")] = "s2s",
    within_s: Annotated[float, typer.Option(min=1, help="A rollout that is not ready by then is undone.")] = 1200.0,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="The image's registry has no TLS.")] = False,
) -> None:
    """Make a bundle the one that is served, if it is measurably better than that; in a cluster, too, if asked for."""
    from s2s.rollout import deploy
    from s2s.training.promote import current

    verdict, rollout = deploy(
        path, store, force=force, cluster=cluster, namespace=namespace, within_s=within_s, plain_http=plain_http
    )
    print(json.dumps({"better": verdict.better, "why": verdict.why, "served": str(current(store)), "rollout": rollout}))


@bundle_app.command("pull")
def bundle_pull(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Folder, gs:// or s3:// that bundles are promoted in.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT", help="Where the bundle goes; replaced.")],
) -> None:
    """Bring the current bundle of a store here, e.g. to build the model server's image with it."""
    from s2s.training.promote import pull_current

    print(pull_current(store, out_dir))


@bundle_app.command("measure")
def bundle_measure(
    path: Annotated[Path | None, typer.Argument(help="Bundle folder. Default: the one that ships.")] = None,
    clips: Annotated[int, typer.Option(min=2, help="How many held-out clips to render and measure on.")] = 40,
    folder: Annotated[Path, typer.Option(help="Where the rendered clips are kept.")] = Path("var/measure"),
) -> None:
    """How well a bundle places sound on rendered clips it was not trained on, beside baselines."""
    from s2s.evaluation.files import score_bundle
    from s2s.pipeline import SoundGenerator
    from s2s.synth.dataset import make_dataset

    with Progress(*Progress.get_default_columns(), console=err, transient=True, disable=not err.is_terminal) as bar:
        tasks = [bar.add_task(what, total=clips) for what in ("Rendering clips", "Making their sound")]
        records = make_dataset(
            folder, clips, 3, "test", None, on_clip=lambda done, _: bar.update(tasks[0], completed=done)
        )
        generator = SoundGenerator.from_bundle(path or settings().bundle)
        scores = score_bundle(generator, records, on_clip=lambda done, _: bar.update(tasks[1], completed=done))
    print(json.dumps(scores, indent=2))


@bundle_app.command("calibrate")
def bundle_calibrate(
    path: Annotated[Path | None, typer.Argument(help="Bundle folder. Default: the one that ships.")] = None,
    sound: Annotated[
        list[Path] | None, typer.Option(help="Sound or video files to listen to; may be repeated. Default: synthesis.")
    ] = None,
    clips: Annotated[int, typer.Option(min=2, help="How many sounds to synthesise where none are given.")] = 8,
) -> None:
    """Find 8-bit scales for the autoregressive WaveNet of a bundle. They are used if onsets and mel do not move."""
    import torch

    from s2s.bundle import load_bundle, save_int8
    from s2s.evaluation.files import sound_of
    from s2s.evaluation.int8 import measure_int8
    from s2s.training.vocoder import VocoderTrainConfig, validation_set
    from s2s.wavenet_vocoder.wavenet import WaveNet

    folder = path or settings().bundle
    bundle = load_bundle(folder)
    net = bundle.networks.get("vocoder")
    if not isinstance(net, WaveNet):
        raise InputError(
            f"The bundle at {folder} has no autoregressive WaveNet.",
            code="bad_request",
            hint="A parallel one needs no 8-bit scales.",
        )
    sounds = [sound_of(file) for file in sound] if sound else validation_set(VocoderTrainConfig(validation_clips=clips))
    found = measure_int8(net, list(sounds), spec=bundle.manifest.clip.mel, threads=torch.get_num_threads())
    save_int8(folder, found)
    print(json.dumps({**found.model_dump(exclude={"scales"}), "used_by_default": found.unmoved}, indent=2))


@bundle_app.command("import")
def bundle_import(
    out_folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new bundle.")],
    name: Annotated[str, typer.Option(help="Name of the new bundle.")],
    regnet: Annotated[Path | None, typer.Option(help="REGNET checkpoint_*_netG.")] = None,
    discriminator: Annotated[Path | None, typer.Option(help="REGNET checkpoint_*_netD.")] = None,
    wavenet: Annotated[Path | None, typer.Option(help="r9y9-style WaveNet .pth (the _ema one).")] = None,
    tsn_rgb: Annotated[Path | None, typer.Option(help="bn_inception or tsn-pytorch checkpoint, RGB.")] = None,
    tsn_flow: Annotated[Path | None, typer.Option(help="The same for flow; a 3-channel file is converted.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Kind of sound the weights know; may be repeated.")] = None,
    tvl1: Annotated[
        bool, typer.Option("--tvl1", help="Flow as published, 4 s a frame; needs opencv-contrib-python-headless.")
    ] = False,
) -> None:
    """Turn published checkpoints into a bundle. Files that hold more than tensors are refused, never run."""
    from s2s.bundle import import_published

    manifest = import_published(
        out_folder,
        name=name,
        regnet=regnet,
        discriminator=discriminator,
        wavenet=wavenet,
        tsn_rgb=tsn_rgb,
        tsn_flow=tsn_flow,
        categories=tuple(category or ()),
        tvl1=tvl1,
    )
    told = f"{out_folder}: {', '.join(manifest.networks)}. {manifest.notes}"
    out.print(escape(told), highlight=False, soft_wrap=True)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Option(help="small: the bundle that ships, hours on 2 cores. tiny: two minutes.")
    ] = "small",
    run_dir: Annotated[
        Path | None, typer.Option(help="Where all goes; a killed run goes on from here. Default: runs/RECIPE.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the new bundle. Default: RUN_DIR/bundle.")] = None,
    clips: Annotated[Path | None, typer.Option(help="A set of `s2s data folder` that joins the renders.")] = None,
    features: Annotated[Path | None, typer.Option(help="What `s2s data features` made of it.")] = None,
    report: Annotated[bool, typer.Option(help="Write the evaluation report, RUN_DIR/report.")] = True,
    device: DeviceOption = "",
) -> None:
    """Make a bundle from nothing: render clips, train every network, measure, save, report."""
    from s2s.training.chain import RECIPES
    from s2s.training.costs import costs_in_words, counted
    from s2s.training.run import report_run, run_training

    if recipe not in RECIPES:
        raise InputError(f"There is no recipe {recipe!r}.", code="bad_request", hint=f"Recipes: {', '.join(RECIPES)}.")
    run_dir = run_dir or Path("runs") / recipe
    target = bundle or run_dir / "bundle"
    used = device or settings().device
    manifest = run_training(RECIPES[recipe], run_dir, target, device=used, clips=clips, features=features)
    if report:
        with counted(run_dir, "report"):
            report_run(RECIPES[recipe], run_dir, target, device=used, clips=clips)
    where = escape(f", report: {run_dir}/report" if report else "")
    out.print(f"[bold]{escape(str(target))}[/]{where}", highlight=False, soft_wrap=True)
    out.print_json(json.dumps(manifest.metrics))
    out.print(escape(costs_in_words(run_dir)), highlight=False)


@app.command()
def finetune(
    clips: Annotated[Path, typer.Argument(metavar="DIR", help="Videos with sound, or a set of `s2s data folder`.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder of the new bundle.")],
    kind: Annotated[
        str | None, typer.Option(help="What all clips are. Default: sub-folders named after kinds.")
    ] = None,
    bundle: BundleOption = None,
    steps: Annotated[int, typer.Option(min=1)] = 400,
    run_dir: Annotated[Path | None, typer.Option(help="A killed run goes on from here. Default: OUT.run.")] = None,
    device: DeviceOption = "",
) -> None:
    """Teach a bundle the sound of your own clips: a new bundle, the old one stays as it is."""
    from s2s.training.finetune import FineTuning, fine_tune

    manifest = fine_tune(
        bundle or settings().bundle,
        clips,
        output,
        kind=kind,
        config=FineTuning(steps=steps),
        run_dir=run_dir or output.with_name(output.name + ".run"),
        device=device or settings().device,
    )
    out.print(f"[bold]{escape(str(output))}[/]  use it with --bundle", highlight=False, soft_wrap=True)
    out.print_json(json.dumps(manifest.metrics["fine_tuning"]))


@app.command()
def evaluate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="REF CAND...", help="A file with the true sound, and files to compare."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Bundle to evaluate. Default: the shipped one.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--set", metavar="DIR", help="A set of clips, or a folder of videos with sound.")
    ] = None,
    renders: Annotated[int, typer.Option(help="So many rendered clips of factors that training never saw.")] = 0,
    copies: Annotated[
        bool, typer.Option("--copies", help="The vocoder alone: held-out recordings through it and Griffin-Lim.")
    ] = False,
    report: Annotated[Path, typer.Option(help="Folder of the report: index.html, study.json, sounds.")] = Path(
        "var/evaluation/report"
    ),
    kinds: Annotated[
        bool, typer.Option(help="Judge kinds by ear: fetches 0.4 GB of recordings the first time.")
    ] = True,
    vocoder: Annotated[str | None, typer.Option(help="wavenet or griffinlim. Default: the bundle's own.")] = None,
    work: Annotated[Path, typer.Option(help="Where renders, recordings and the judge are kept.")] = Path(
        "var/evaluation"
    ),
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Score a bundle on a set (--set or --renders) and write a report, or compare files: s2s evaluate REF CAND..."""
    if copies:
        _evaluate_vocoder(bundle or settings().bundle, work, as_json)
    elif folder or renders:
        _evaluate_bundle(bundle or settings().bundle, folder, renders, report, kinds, vocoder, work, as_json)
    elif files and len(files) > 1:
        _compare_files(files[0], files[1:], as_json)
    else:
        raise InputError("Nothing to evaluate.", hint="Give REF and CAND, or --set DIR, or --renders N, or --copies.")


def _evaluate_bundle(
    bundle: Path,
    folder: Path | None,
    renders: int,
    report: Path,
    kinds: bool,
    vocoder: str | None,
    work: Path,
    as_json: bool,
) -> None:
    from s2s.bundle import load_bundle
    from s2s.evaluation.kinds import kind_judge
    from s2s.evaluation.report import write_report
    from s2s.evaluation.study import clips_of_folder, rendered_clips, run_study, save_study

    clips = clips_of_folder(folder) if folder else []  # first: what follows may fetch much
    loaded = load_bundle(bundle, settings().device)
    with Progress(*Progress.get_default_columns(), console=err, transient=True, disable=not err.is_terminal) as bar:

        def count(what: str):
            task = bar.add_task(what, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        to_judge = kinds and (not folder or any(clip.kind for clip in clips))
        judge = kind_judge(work, on_clip=count("Teaching the judge of kinds")) if to_judge else None
        if not folder:
            from s2s.synth import banks

            banks.fetch(work / "recorded")
            clips = rendered_clips(work / "renders", renders, work / "recorded", on_clip=count("Rendering clips"))
        study = run_study(loaded, clips, judge, report, vocoder=vocoder, on_clip=count("Making and measuring sound"))
    save_study(study, report / "study.json")
    page = write_report(study, report, loaded.manifest.name, str(folder) if folder else f"{renders} held-out renders")
    if as_json:
        print(json.dumps({"report": str(page), **{key: study[key] for key in study if key != "rows"}}, indent=2))
        return
    table = Table("system", "F1@50", "skill", "lag-corrected", "kind", title=escape(str(page)))
    for system, means in study["means"].items():
        accuracy = (study["kinds"] or {"accuracy": {}})["accuracy"].get(system)
        values = (*(means.get(name) for name in ("f1_50ms", "strict_skill", "lag_corrected_skill")), accuracy)
        table.add_row(system, *("-" if value is None else f"{value:.2f}" for value in values))
    out.print(table)


def _evaluate_vocoder(bundle: Path, work: Path, as_json: bool) -> None:
    from s2s.bundle import load_bundle
    from s2s.evaluation.copies import GRIFFIN_LIM, copy_synthesis, held_out_recordings
    from s2s.synth import banks

    vocoder = load_bundle(bundle, settings().device).networks.get("vocoder")
    with Progress(*Progress.get_default_columns(), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("Copying recordings", total=None)
        banks.fetch(work / "recorded")
        recordings = held_out_recordings(work / "recorded")
        means = copy_synthesis(vocoder, recordings, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print(json.dumps(means, indent=2))
        return
    measures = {"multi_resolution_stft": "STFT distance", "mel_l1_db": "mel, dB", "f1_50ms": "onsets, F1@50"}
    table = Table("", *measures.values(), title=f"{len(recordings)} recordings that training did not hear")
    for method, row in means.items():
        cells = (f"{row[key]:.3f} ({100 * (row[key] / means[GRIFFIN_LIM][key] - 1):+.0f} %)" for key in measures)
        table.add_row(method, *cells)
    out.print(table)


def _compare_files(reference: Path, candidates: list[Path], as_json: bool) -> None:
    """How well the sound of the candidates is placed in time, against the reference's."""
    from s2s.evaluation.files import score_files

    rows = {str(path): score_files(reference, path) for path in candidates}
    if as_json:
        scores = {
            name: {key: value if math.isfinite(value) else None for key, value in asdict(score).items()}
            for name, score in rows.items()
        }
        print(json.dumps(scores, indent=2))  # JSON has no NaN
        return
    table = Table(
        "file",
        "skill",
        "lag-corrected",
        "lag ms",
        "F1@50",
        "F1@100",
        "onsets ref/cand",
        title="0 = chance, 1 = perfect. F1 alone says little: unrelated sounds reach .3 to .5.",
    )
    for name, s in rows.items():
        table.add_row(
            escape(Path(name).name),
            f"{s.strict_skill:.2f}",
            f"{s.lag_corrected_skill:.2f}",
            f"{s.best_lag_s * 1000:+.0f}",
            f"{s.f1_50ms:.2f}",
            f"{s.f1_100ms:.2f}",
            f"{s.n_reference}/{s.n_candidate}",
        )
    out.print(table)


@cluster_app.command("status")
def cluster_status(
    namespace: Annotated[str, typer.Option(help="Namespace of the service.")] = "s2s",
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig. Default: the current one.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """What runs, which revision, how long the queue is, GPUs, and why something is not ready. Exit code 1 if so."""
    from s2s.cluster import read_cluster

    status = read_cluster(namespace, context)
    if as_json:
        print(json.dumps(status.report(), indent=2))
    else:
        table = Table("service", "ready", "image", "revision", "restarts", "GPUs")
        for each in status.services:
            shade = "green" if each.ready >= each.wanted else "red"
            counts = (f"[{shade}]{each.ready}/{each.wanted}[/]", each.image, each.revision, str(each.restarts))
            table.add_row(each.name, *counts, str(each.gpus or ""))
        out.print(table)
        queue = ", ".join(f"{name} {value:g}" for name, value in status.queue.items())
        out.print(f"Queue: {queue or 'the gateway cannot be asked'}", highlight=False)
        if status.gpus_allocatable or status.gpus_requested:
            out.print(f"GPUs: {status.gpus_requested} asked for, {status.gpus_allocatable} there", highlight=False)
        for why in (why for each in status.services for why in each.why):
            out.print(f"[red]![/] {escape(why)}", highlight=False)
    if not status.healthy:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
