"""The workflow: the compiled pipeline is fresh, and the same pipeline runs here from a csv to a promoted bundle."""

import functools
import http.server
import itertools
import json
import re
import threading
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from s2s.bundle import verify_bundle
from s2s.data.collect import read_rows
from s2s.data.manifest import read_clips, read_records
from s2s.errors import ArtifactError
from s2s.training.chain import RECIPES
from s2s.training.promote import compare, current, promote, pull_current
from workflow import cli, sample_site


def compiled(path: Path, *flags: str) -> dict:
    cli.main([*flags, "--out", str(path)])
    return next(yaml.safe_load_all(path.read_text()))


def test_the_compiled_pipeline_in_the_repository_is_what_the_code_compiles_to(tmp_path):
    compiled(tmp_path / "pipeline.yaml", "--all")
    assert (tmp_path / "pipeline.yaml").read_text() == cli.COMPILED.read_text(), "run `make workflow-compile`"


def test_every_step_has_an_image_of_this_repository_caching_retries_and_limits(tmp_path):
    spec = compiled(tmp_path / "p.yaml", "--all", "--registry", "reg.io/s2s", "--tag", "abc", "--gpu", "nvidia-l4")
    tasks, executors = spec["root"]["dag"]["tasks"], spec["deploymentSpec"]["executors"]
    assert len(tasks) == len(executors) == 7
    for name, task in tasks.items():
        assert task["retryPolicy"]["maxRetryCount"] == (1 if name == "deploy" else 3)
    for executor in executors.values():
        folder = executor["container"]["image"].removeprefix("reg.io/s2s/").removesuffix(":abc")
        assert (cli.HERE.parent / folder / "Dockerfile").is_file()
        assert {"cpuLimit", "memoryLimit"} <= set(executor["container"]["resources"])
    with_gpu = [name for name, e in executors.items() if "accelerator" in e["container"]["resources"]]
    assert with_gpu == ["exec-train"]
    for before, after in itertools.pairwise(step for stage in cli.STAGES for step in cli.STEPS[stage]):
        assert tasks[after]["dependentTasks"] == [before]


@pytest.mark.parametrize("flags", [("--all",), ("--train", "--deploy"), ("--feature-extractor",)])
def test_no_step_is_skipped_whose_inputs_do_not_say_what_it_would_read(flags, tmp_path):
    tasks = compiled(tmp_path / "p.yaml", *flags)["root"]["dag"]["tasks"]
    skipped = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    first = next(name for name, task in tasks.items() if not task.get("dependentTasks"))
    assert skipped == tasks.keys() - {first, "train", "deploy"}


@pytest.mark.parametrize("stage", cli.STAGES)
def test_each_stage_compiles_alone(stage, tmp_path):
    spec = compiled(tmp_path / "p.yaml", f"--{stage}")
    assert set(spec["root"]["dag"]["tasks"]) == set(cli.STEPS[stage])


def test_no_stage_and_no_root_are_refused(tmp_path):
    with pytest.raises(SystemExit):
        cli.main([])
    with pytest.raises(SystemExit):
        cli.main(["--all", "--local"])


@pytest.mark.timeout(3000)
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
            "--kind",
            "people playing=drum",
            "--per-minute",
            "600",
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
    run = root / "run" / json.loads((root / "run" / "latest" / "run.json").read_text())["run"]
    assert (run / "bundle" / "bundle.json").read_bytes() == (served / "bundle.json").read_bytes()
    made = {path.name: path for path in (root / "pipeline").rglob("*") if path.is_file()}
    for page, where in (("report", "renders"), ("own_clips_report", "own")):
        text = made[page].read_text()
        assert "this bundle" in text
        assert text == (run / "report" / where / "index.html").read_text()
    assert json.loads(made["study.json"].read_text())["clips"] == RECIPES["tiny"].report_clips
    figures = json.loads((run / "report" / "figures.json").read_text())
    assert {"renders_mel_l1_db", "own_mel_l1_db"} <= set(figures)
    with zipfile.ZipFile(made["mar.mar"]) as mar:
        assert mar.read("bundle/bundle.json") == (served / "bundle.json").read_bytes()
    said = executor_outputs(root / "pipeline", "deploy")["artifacts"]["made"]["artifacts"][0]["metadata"]
    assert said["deployed"] is True
    assert f"--cluster current would put {served.name} into s2s/model-server" in said["rollout"]
    metrics = executor_outputs(root / "pipeline", "evaluate")["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert metrics == figures


def executor_outputs(folder: Path, step: str) -> dict:
    (path,) = folder.glob(f"*/{step}/executor_output.json")
    return json.loads(path.read_text())


def test_labels_kinds_and_the_cluster_reach_the_steps_that_need_them(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "run_here", lambda pipeline, arguments, output: calls.append(arguments))
    cli.main(
        [
            *("--all", "--local", "--root", str(tmp_path), "--label", "playing drums, loud", "--label", "bell"),
            *("--kind", "playing drums, loud=drum", "--cluster", "gke:p/l/c", "--clip-recipe", "published"),
        ]
    )
    (arguments,) = calls
    assert arguments["labels"] == ["playing drums, loud", "bell"]
    assert arguments["kinds"] == {"playing drums, loud": "drum"}
    assert arguments["cluster"] == "gke:p/l/c"
    assert arguments["clip_recipe"] == "published"
    tasks = compiled(tmp_path / "p.yaml", "--all")["root"]["dag"]["tasks"]
    for step, name in (("data-collector", "labels"), ("data-preprocessor", "kinds"), ("deploy", "cluster")):
        assert tasks[step]["inputs"]["parameters"][name]["componentInputParameter"] == name
    with pytest.raises(SystemExit):
        cli.main(["--all", "--kind", "drum"])


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Answers as a KFP endpoint or Vertex AI would to what a submission asks, and keeps what it was told."""

    def do_GET(self):
        self.answer({"items": [], "experiment_id": "e", "multi_user": False, "display_name": "Default"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.told.append((self.path, self.headers.get("Authorization"), body))
        self.answer({"name": "projects/p/pipelineJobs/7", "run_id": "run-7", "experiment_id": "e"})

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        server.told = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()


def test_a_run_is_submitted_to_a_kfp_endpoint_by_flags(endpoint, capsys):
    flags = ["--train", "--deploy", "--root", "gs://bucket/s2s", "--gpu", "nvidia-l4", "--cluster", "current"]
    cli.main([*flags, "--submit", endpoint.address])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"run": "run-7"}
    (body,) = [body for path, _, body in endpoint.told if path.endswith("/runs")]
    assert body["runtime_config"]["parameters"] == {
        "root": "gs://bucket/s2s",
        "recipe": "small",
        "device": "cuda",
        "cluster": "current",
    }
    spec = body["pipeline_spec"].get("pipeline_spec", body["pipeline_spec"])
    assert set(spec["root"]["dag"]["tasks"]) == {"train", "evaluate", "export", "deploy"}


def test_a_run_is_submitted_to_vertex_ai_by_flags(endpoint, capsys, monkeypatch):
    from google.oauth2.credentials import Credentials

    monkeypatch.setattr("google.auth.default", lambda scopes: (Credentials("a-token"), "p"))
    submit = functools.partial(cli.submit_to_vertex, endpoint=endpoint.address)
    monkeypatch.setattr(cli, "submit_to_vertex", submit)
    cli.main(["--all", "--root", "gs://b/s2s", "--submit", "vertex", "--project", "p", "--region", "r"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"run": "projects/p/pipelineJobs/7"}
    ((path, authorization, body),) = endpoint.told
    assert (path, authorization) == ("/v1/projects/p/locations/r/pipelineJobs", "Bearer a-token")
    assert body["runtimeConfig"]["gcsOutputDirectory"] == "gs://b/s2s/pipeline"
    assert body["runtimeConfig"]["parameterValues"]["root"] == "gs://b/s2s"
    assert len(body["pipelineSpec"]["root"]["dag"]["tasks"]) == 7
    with pytest.raises(SystemExit):
        cli.main(["--all", "--root", "gs://b/s2s", "--submit", "vertex"])


def test_every_component_folder_has_its_five_answers_a_dockerfile_and_one_entry_script():
    for folder in sorted({*cli.IMAGE_OF.values(), "workflow"}):
        home = cli.HERE.parent / folder
        readme, recipe = (home / "README.md").read_text(), (home / "Dockerfile").read_text()
        for question in ("What?", "How to run?", "Reads:", "Writes:", "Imports:"):
            assert f"**{question}**" in readme, (folder, question)
        entry = re.search(r'ENTRYPOINT \["python", "-m", "(.+?)"\]', recipe)[1]
        assert (cli.HERE.parent / entry.replace(".", "/")).with_suffix(".py").is_file()


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
