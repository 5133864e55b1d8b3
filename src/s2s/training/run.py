"""A whole run: the chain of training, then a report on its bundle. What is finished is not done again.

RUN/asked.json                                digests of the clips and the recipe it has begun to learn from
RUN/finished                                  digests of recipe and finished bundle
RUN/costs.json                                wall and CPU time of each stage, see s2s.training.costs
RUN/report/renders/{index.html,study.json}    the bundle on renders that nothing else uses
RUN/report/own/...                            and on the held-out clips of the set it learned from, if there is one
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from s2s.bundle import BundleManifest, load_bundle, verify_bundle
from s2s.data.manifest import agree, read_clips, sha256_of, write_whole
from s2s.errors import InputError, ProcessingError
from s2s.evaluation.kinds import KindJudge, kind_judge
from s2s.evaluation.report import write_report
from s2s.evaluation.study import OURS, clips_of_folder, rendered_clips, run_study, save_study
from s2s.synth.script import KINDS
from s2s.training.chain import Recipe, train_all

log = logging.getLogger(__name__)

KEPT = (  # with these a run needs no training any more
    "timing/done",
    "tsn_rgb/stream.safetensors",
    "tsn_flow/stream.safetensors",
    "regnet/generator.safetensors",
    "vocoder/done",
)

MAY_DIFFER = {  # in a run that goes on: how much is done, not what
    "report_clips": True,
    "timing": {"steps"},
    "stream_steps": True,
    "regnet": {"steps", "checkpoint_minutes"},
    "vocoder": {"steps", "checkpoint_every_s"},
}


def run_training(
    recipe: Recipe,
    run_dir: Path,
    bundle_dir: Path,
    *,
    device: str = "cpu",
    clips: Path | None = None,
    features: Path | None = None,
) -> BundleManifest:
    """`train_all`, once. Raises InputError when `run_dir` has begun to learn from other clips or by another recipe:
    networks that are kept would else be called trained on these, or so. And when `clips` is no set of
    `s2s data folder`, or has nothing to learn from."""
    if clips and not any(clip.kind in KINDS and clip.onsets_s for clip in read_clips(clips, "train")):
        raise InputError(
            f"{clips} holds no training clip of a known kind in which something sounds.",
            hint=f"`s2s data folder --kind LABEL=KIND` says what a label means. Kinds are {', '.join(KINDS)}.",
        )
    asked = {
        "clips_sha256": sha256_of(clips / "manifest.jsonl") if clips else None,
        "recipe_sha256": hashlib.sha256(recipe.model_dump_json(exclude=MAY_DIFFER).encode()).hexdigest(),
    }
    refusals = {
        "clips_sha256": f"{run_dir} has begun to learn from other clips.",
        "recipe_sha256": f"{run_dir} has begun to learn by another recipe.",
    }
    agree(run_dir / "asked.json", asked, refusals, may_lack=("recipe_sha256",))
    if _finished(recipe, run_dir, bundle_dir):
        log.info("%s is finished; delete %s to make the bundle again", run_dir, run_dir / "finished")
        return verify_bundle(bundle_dir)
    manifest = train_all(recipe, run_dir, bundle_dir, device=device, clips=clips, features=features)
    write_whole(run_dir / "finished", _mark(recipe, bundle_dir))
    return manifest


def _finished(recipe: Recipe, run_dir: Path, bundle_dir: Path) -> bool:
    kept = [run_dir / "finished", bundle_dir / "bundle.json", *(run_dir / name for name in KEPT)]
    return all(path.exists() for path in kept) and kept[0].read_text() == _mark(recipe, bundle_dir)


def _mark(recipe: Recipe, bundle_dir: Path) -> str:
    asked = hashlib.sha256(recipe.model_dump_json(exclude={"report_clips"}).encode()).hexdigest()
    return f"{asked} {sha256_of(bundle_dir / 'bundle.json')}\n"


def report_run(
    recipe: Recipe, run_dir: Path, bundle_dir: Path, *, device: str = "cpu", clips: Path | None = None
) -> dict[str, dict]:
    """The evaluation report on a run's bundle, as web pages and JSON below RUN/report; returns the studies by the name
    of their folder. Kinds are judged by ear where the recipe has recordings and the judge can be fetched."""
    wanted = {"renders": f"{recipe.report_clips} held-out renders"}
    if clips is not None and read_clips(clips, "test"):
        wanted["own"] = "held-out clips of its own set"
    asked = json.dumps(
        {
            "bundle": sha256_of(bundle_dir / "bundle.json"),
            "clips": sha256_of(clips / "manifest.jsonl") if clips else None,
            "renders": recipe.report_clips,
        }
    )
    missing = [name for name in wanted if not _has_report(run_dir / "report" / name, asked)]
    if missing:
        bundle, judge = load_bundle(bundle_dir, device), _judge(recipe, run_dir)
    for name in missing:
        home = run_dir / "report" / name
        held = (
            clips_of_folder(clips)
            if name == "own"
            else rendered_clips(
                run_dir / "data" / "report", recipe.report_clips, run_dir / "recorded" if recipe.recordings else None
            )
        )
        study = run_study(bundle, held, judge, home, on_clip=_say(f"report on {wanted[name]}"))
        save_study(study, home / "study.json")
        write_report(study, home, bundle.manifest.name, wanted[name])
        write_whole(home / "asked.json", asked)
    return {name: json.loads((run_dir / "report" / name / "study.json").read_text()) for name in wanted}


def _has_report(home: Path, asked: str) -> bool:
    mark = home / "asked.json"
    return mark.exists() and mark.read_text() == asked and (home / "index.html").exists()


def _judge(recipe: Recipe, run_dir: Path) -> KindJudge | None:
    if not recipe.recordings:
        return None
    try:
        return kind_judge(run_dir / "judge")
    except ProcessingError as exc:
        log.warning("the report says nothing of kinds of sound: %s", exc)
        return None


def headline(studies: dict[str, dict]) -> dict[str, float]:
    """The figures of the bundle that a list of runs shows: `renders_strict_skill`, `own_f1_50ms`, ..."""
    names = ("strict_skill", "lag_corrected_skill", "f1_50ms", "onset_count_accuracy", "mel_l1_db")
    found = {}
    for where, study in studies.items():
        means, kinds = study["means"][OURS], study["kinds"] or {"accuracy": {}}
        figures = {name: means.get(name) for name in names} | {"kind_accuracy": kinds["accuracy"].get(OURS)}
        found |= {f"{where}_{name}": value for name, value in figures.items() if value is not None}
    return found


def _say(what: str):
    return lambda done, total: log.info("%s: %d of %d", what, done, total)
