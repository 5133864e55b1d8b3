"""The workflow: the compiled pipeline is fresh, and the same pipeline runs here from a csv to a promoted bundle."""

import json
import threading
import time
from pathlib import Path

import pytest
import yaml

from s2s.bundle import verify_bundle
from s2s.data.collect import read_rows
from s2s.data.manifest import read_clips, read_records
from s2s.errors import ArtifactError
from s2s.training.promote import compare, current, promote, pull_current
from workflow import cli, sample_site


def compiled(path: Path, *flags: str) -> dict:
    cli.main([*flags, "--out", str(path)])
    return next(yaml.safe_load_all(path.read_text()))


def test_the_compiled_pipeline_in_the_repository_is_what_the_code_compiles_to(tmp_path):
    compiled(tmp_path / "pipeline.yaml", "--all")
    assert (tmp_path / "pipeline.yaml").read_text() == cli.COMPILED.read_text(), "run `make workflow-compile`"


def test_every_stage_has_an_image_of_this_repository_caching_retries_and_limits(tmp_path):
    spec = compiled(tmp_path / "p.yaml", "--all", "--registry", "reg.io/s2s", "--tag", "abc", "--gpu", "nvidia-l4")
    tasks, executors = spec["root"]["dag"]["tasks"], spec["deploymentSpec"]["executors"]
    assert len(tasks) == len(executors) == 5
    for task in tasks.values():
        assert task["cachingOptions"]["enableCache"]
        assert task["retryPolicy"]["maxRetryCount"] == 3
    for executor in executors.values():
        folder = executor["container"]["image"].removeprefix("reg.io/s2s/").removesuffix(":abc")
        assert (cli.HERE.parent / folder / "Dockerfile").is_file()
        assert {"cpuLimit", "memoryLimit"} <= set(executor["container"]["resources"])
    with_gpu = [name for name, e in executors.items() if "accelerator" in e["container"]["resources"]]
    assert with_gpu == ["exec-train"]
    assert tasks["train"]["dependentTasks"] == ["feature-extractor"]


@pytest.mark.parametrize("stage", cli.STAGES)
def test_each_stage_compiles_alone(stage, tmp_path):
    spec = compiled(tmp_path / "p.yaml", f"--{stage}")
    assert len(spec["root"]["dag"]["tasks"]) == 1


def test_no_stage_and_no_root_are_refused(tmp_path):
    with pytest.raises(SystemExit):
        cli.main([])
    with pytest.raises(SystemExit):
        cli.main(["--all", "--local"])


@pytest.mark.timeout(1500)
def test_the_pipeline_runs_here_from_a_csv_to_a_promoted_bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_site, "GOOD", {"train": 3, "test": 1})
    site, root = tmp_path / "site", tmp_path / "root"
    sample_site.make_site(site)
    threading.Thread(target=sample_site.serve, args=(site,), daemon=True).start()
    while not (site / "ready").exists():
        time.sleep(0.05)
    address = f"http://127.0.0.1:{(site / 'port').read_text()}/{{id}}.mp4"
    cli.main(
        [
            "--all",
            "--local",
            "--root",
            str(root),
            "--csv",
            str(site / "wanted.csv"),
            "--address",
            address,
            "--recipe",
            "tiny",
        ]
    )
    rows = list(read_rows(root / "raw"))
    assert sorted(row.state for row in rows) == ["dead", "dead", "ok", "ok", "ok", "ok"]
    assert {clip.split for clip in read_clips(root / "clips")} == {"train", "test"}
    served = current(root / "bundles")
    manifest = verify_bundle(served)
    assert "own_clips_held_out" in manifest.metrics
    trained_on = " ".join(source.note for source in manifest.trained_on if source.name == "own clips")
    for record in read_records(root / "clips"):
        assert (record.sounds[0]["source"] in trained_on) == (record.split == "train")


def test_a_bundle_is_promoted_only_when_it_is_better(tmp_path):
    from tests.tiny import make_tiny_bundle

    def measured(skill: float, accuracy: float) -> dict:
        return {"rendered_held_out": {"strict_skill": skill, "kind_accuracy": accuracy}}

    assert compare(measured(0.1, 0.5), None).better
    assert compare(measured(0.43, 0.5), measured(0.4, 0.5)).better
    assert not compare(measured(0.41, 0.9), measured(0.4, 0.5)).better
    assert not compare(measured(0.6, 0.4), measured(0.4, 0.5)).better
    assert not compare({}, measured(0.4, 0.5)).better
    store, first = tmp_path / "store", make_tiny_bundle(tmp_path / "first")
    assert promote(first, store).better
    held = current(store)
    second = make_tiny_bundle(tmp_path / "second", seed=1)
    text = json.loads((held / "bundle.json").read_text())
    text["metrics"] = measured(0.4, 0.5)
    (held / "bundle.json").write_text(json.dumps(text))
    assert not promote(second, store).better
    assert current(store) == held
    assert promote(second, store, force=True).better
    assert current(store) != held
    verify_bundle(current(store))


def test_the_image_is_built_with_the_bundle_that_was_promoted_last(tmp_path):
    from tests.tiny import make_tiny_bundle

    store, served = tmp_path / "store", tmp_path / "served"
    with pytest.raises(ArtifactError, match="no current bundle"):
        pull_current(str(store), served)
    for seed in (0, 1):
        promote(make_tiny_bundle(tmp_path / str(seed), seed=seed), store, force=True)
        name = pull_current(f"file://{store}", served)
        assert name == current(store).name
        assert (served / "bundle.json").read_bytes() == (tmp_path / str(seed) / "bundle.json").read_bytes()
        verify_bundle(served)
    next(current(store).glob("*.safetensors")).write_bytes(b"cut off")
    with pytest.raises(ArtifactError):
        pull_current(str(store), served)
    verify_bundle(served)  # what was there stays
