"""Each trigger runs its job and no other: the real workflow files, run by `act` on this machine.

What needs GitHub or Google is played: third-party actions by empty ones, and make, docker, gcloud, cosign, pip and
ansible-playbook by commands that note how they were called. Scanning, signing and pushing are therefore NOT shown
here; that they are called, in which order and with which digest, is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.deployment.tools import ROOT, run, tool

WORKFLOWS = ROOT / ".github" / "workflows"
DIGEST = "sha256:" + "5a" * 32
ALWAYS = {"plan", "lint", "test"}
STAGES = {"data-collector": "data-collector", "data-processor": "data-preprocessor", "ml-pipeline": "all"}
PLAYED = ("make", "docker", "gcloud", "cosign", "ansible-playbook", "sudo")
TRIGGERS = {
    "deploy-app": {"images", "deploy-staging", "deploy-production"},
    "data-collector": {"data-collector"},
    "data-processor": {"data-processor"},
    "ml-pipeline": {"ml-pipeline"},
}
RUNNER = "-self-hosted"

pytestmark = pytest.mark.timeout(900)

RECORD = """#!/bin/bash
echo "$(basename "$0") $*" >> "$S2S_CALLS"
case "$(basename "$0") $*" in
  "docker image inspect"*) echo "registry/x@DIGEST" ;;
esac
exit 0
""".replace("DIGEST", DIGEST)
PYTHON = """#!/bin/bash
# Installs nothing and submits nothing; the project's own scripts run for real where the test wants it.
echo "python $*" >> "$S2S_CALLS"
"""
ARTIFACTS = {  # between jobs of one run, as GitHub's own do
    "upload-artifact": 'mkdir -p "$S2S_ARTIFACTS" && cp -r "$INPUT_PATH"/. "$S2S_ARTIFACTS"/',
    "download-artifact": 'mkdir -p "$INPUT_PATH" && cp -r "$S2S_ARTIFACTS"/. "$INPUT_PATH"/',
}


@dataclass
class Run:
    returncode: int
    jobs: dict[str, str]  # job id -> success or failure
    calls: list[str]
    text: str


@dataclass
class Act:
    """`act` on a repository that holds only what the workflows touch."""

    folder: Path

    def __call__(self, event: str, payload: dict, *, failing: str = "") -> Run:
        calls = self.folder / "calls"
        calls.write_text("")
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)
        event_path = self.folder / "event.json"
        event_path.write_text(json.dumps(payload))
        self._play(failing)
        command = [tool("act"), event, "--json", "-P", f"ubuntu-24.04={RUNNER}", "-e", event_path, "--pull=false"]
        command += ["--env", f"S2S_CALLS={calls}", "--env", f"S2S_ARTIFACTS={self.folder / 'artifacts'}"]
        command += ["--env", f"PATH={self.folder / 'bin'}:{os.environ['PATH']}"]
        command += ["--var", "IMAGE_REGISTRY=europe-west4-docker.pkg.dev/p/s2s", "--var", "GCP_PROJECT=p"]
        command += [
            "--var",
            "GCP_REGION=europe-west4",
            "--var",
            "GKE_CLUSTER=c",
            "--var",
            "GKE_LOCATION=europe-west4-a",
            "--var",
            "GCS_BUCKET=b",
        ]
        for used in sorted(_actions()):
            name = used.split("@")[0].rsplit("/", 1)[1]
            command.append(f"--local-repository={used}={self.folder / 'actions' / name}")
        environment = {
            **os.environ,
            "HOME": str(self.folder / "home"),
            "XDG_CACHE_HOME": str(self.folder / "home/cache"),
        }
        answer = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder / "repo",
            env=environment,
            text=True,
            capture_output=True,
            timeout=600,
        )
        return Run(
            answer.returncode, _results(answer.stdout), calls.read_text().splitlines(), answer.stdout + answer.stderr
        )

    def _play(self, failing: str) -> None:
        for name in PLAYED:
            body = RECORD if name != failing else RECORD.replace("exit 0", "exit 1")
            _script(self.folder / "bin" / name, body)
        for name in ("python", "python3"):
            _script(self.folder / "bin" / name, PYTHON)


def _script(path: Path, body: str) -> None:
    path.write_text(body)
    path.chmod(0o755)


def _actions() -> set[str]:
    """`owner/name@ref` of every action of others that the workflows use; checkout is act's own."""
    text = "".join(path.read_text() for path in WORKFLOWS.glob("*.yml"))
    return {used for used in re.findall(r"uses: ([\w-]+/[\w-]+@[\w.]+)", text) if "/checkout@" not in used}


def _results(output: str) -> dict[str, str]:
    """Job -> success or failure, from act's JSON lines. A job of a called workflow counts for the one that calls it."""
    jobs = yaml.safe_load((WORKFLOWS / "ci-cd.yml").read_text())["jobs"]
    callers = {job["name"]: name for name, job in jobs.items() if "uses" in job}
    found: dict[str, str] = {}
    for line in output.splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if result := entry.get("jobResult"):
            name = callers.get(entry["job"].split("/")[0].strip(), entry["jobID"])
            found[name] = "failure" if "failure" in (result, found.get(name)) else result
    return found


@pytest.fixture(scope="module")
def act(tmp_path_factory) -> Act:
    folder = tmp_path_factory.mktemp("act")
    repo = folder / "repo"
    for name in (".github", "deployment"):
        shutil.copytree(ROOT / name, repo / name)
    for name in ("bin", "actions", "home/.config/act"):
        (folder / name).mkdir(parents=True)
    (folder / "home/.config/act/actrc").write_text("")
    git = [
        "git",
        "-C",
        str(repo),
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@example.org",
        "-c",
        "init.defaultBranch=main",
    ]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    for used in _actions():
        name = used.split("@")[0].rsplit("/", 1)[1]
        action = folder / "actions" / name
        action.mkdir(exist_ok=True)
        step = {"shell": "bash", "run": f'echo "action {name}" >> "$S2S_CALLS"\n' + ARTIFACTS.get(name, "")}
        step["env"] = {"INPUT_PATH": "${{ inputs.path }}"}
        inputs = {"path": {"default": "."}}
        (action / "action.yml").write_text(
            yaml.safe_dump({"name": name, "inputs": inputs, "runs": {"using": "composite", "steps": [step]}})
        )
    return Act(folder)


def _push(message: str, ref: str = "refs/heads/main") -> dict:
    return {"ref": ref, "head_commit": {"message": message}, "repository": {"default_branch": "main"}}


def _plan(event: str, *, ref: str = "refs/heads/main", message: str = "", wanted: str = "") -> set[str]:
    """What .github/plan.sh asks for."""
    environment = {**os.environ, "EVENT": event, "REF": ref, "MESSAGE": message, "WANTED": wanted}
    answer = run(ROOT / ".github" / "plan.sh", env=environment)
    assert answer.returncode == 0, answer.stderr
    lines = dict(line.split("=") for line in answer.stdout.splitlines())
    assert lines.keys() == TRIGGERS.keys()
    return {name for name, value in lines.items() if value == "true"}


@pytest.fixture(scope="module")
def deployment(act) -> Run:
    """A push that asks for a deployment."""
    return act("push", _push("Something new\n\nplease /run-deploy-app now"))


@pytest.mark.parametrize("trigger", ["data-collector", "data-processor", "ml-pipeline"])
def test_a_word_in_the_commit_message_runs_its_job_and_no_other(act, trigger):
    ran = act("push", _push(f"Something new\n\nplease /run-{trigger} now"))
    assert ran.jobs == dict.fromkeys(ALWAYS | TRIGGERS[trigger], "success"), ran.text[-4000:]
    (submitted,) = [call for call in ran.calls if call.startswith("python -m workflow.cli")]
    assert f"--{STAGES[trigger]} " in submitted


def test_a_word_in_the_commit_message_runs_the_deployment_and_nothing_else(deployment):
    assert deployment.jobs == dict.fromkeys(ALWAYS | TRIGGERS["deploy-app"], "success"), deployment.text[-4000:]
    assert not [call for call in deployment.calls if "workflow.cli" in call]


def test_a_person_can_ask_for_the_same_by_hand(act):
    ran = act("workflow_dispatch", {"ref": "refs/heads/main", "inputs": {"run": "data-processor"}})
    assert ran.jobs == dict.fromkeys(ALWAYS | TRIGGERS["data-processor"], "success"), ran.text[-4000:]
    for trigger in TRIGGERS:
        assert _plan("workflow_dispatch", wanted=trigger) == {trigger}


def test_other_messages_run_the_tests_alone(act):
    ran = act("push", _push("Nothing special"))
    assert ran.jobs == dict.fromkeys(ALWAYS, "success"), ran.text[-4000:]
    for message in ("", "not-/run-deploy-app", "/run-deploy-apples", "run-deploy-app", "/run-deploy-app;true"):
        assert _plan("push", message=message) == set()


def test_pull_requests_and_other_branches_deploy_nothing_whatever_they_say():
    assert _plan("pull_request", message="/run-deploy-app", wanted="deploy-app") == set()
    assert _plan("push", ref="refs/heads/other", message="/run-deploy-app") == set()


def test_several_words_run_several_jobs():
    assert _plan("push", message="/run-ml-pipeline\n/run-deploy-app") == {"ml-pipeline", "deploy-app"}


def test_a_message_is_never_run_as_a_command(act):
    mark = act.folder / "mark"
    ran = act("push", _push(f'"; touch {mark}; echo "\n$(touch {mark})\n`touch {mark}`'))
    assert not mark.exists()
    assert ran.jobs == dict.fromkeys(ALWAYS, "success"), ran.text[-4000:]


def test_images_are_pushed_after_the_scan_signed_and_deployed_by_digest(deployment):
    calls = deployment.calls
    for image in ("api-service", "frontend", "model-server"):
        name = f"europe-west4-docker.pkg.dev/p/s2s/{image}"
        assert any(call.startswith("docker build ") and f"-t {name}:" in call for call in calls)
        assert f"cosign sign --yes {name}@{DIGEST}" in calls
        assert sum(call.startswith("cosign verify ") and f"{name}@{DIGEST}" in call for call in calls) == 2
    assert calls.index("action trivy-action") < next(
        i for i, call in enumerate(calls) if call.startswith("docker push")
    )
    deployed = [call for call in calls if call.startswith("ansible-playbook update-k8s-cluster.yml")]
    assert len(deployed) == 2, "staging and production"
    for wanted in ("k8s_apply_digests_file=", "gke_cluster_name=c gke_cluster_location=europe-west4-a "):
        assert all(wanted in call for call in deployed), wanted


def test_nothing_is_deployed_when_the_tests_fail(act):
    ran = act("push", _push("/run-deploy-app"), failing="make")
    assert ran.returncode != 0
    assert not set(ran.jobs) & {"images", "deploy-staging", "deploy-production"}
    assert not any(call.startswith(("docker", "cosign", "ansible")) for call in ran.calls)


def test_production_is_not_touched_when_staging_fails(act):
    ran = act("push", _push("/run-deploy-app"), failing="ansible-playbook")
    assert ran.jobs.get("deploy-staging") == "failure"
    assert "deploy-production" not in ran.jobs
    assert sum(call.startswith("ansible-playbook") for call in ran.calls) == 1


def test_the_test_job_runs_the_commands_that_people_run():
    steps = yaml.safe_load((WORKFLOWS / "ci-cd.yml").read_text())["jobs"]["test"]["steps"]
    assert any(step.get("run", "").startswith("make test ") for step in steps)
    assert {step["uses"].split("@")[0].split("/")[0] for step in steps if "uses" in step} == {"actions"}


def test_only_deploying_jobs_may_ask_google_for_an_identity():
    for path in WORKFLOWS.glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {}
        for name, job in workflow["jobs"].items():
            allowed = job["permissions"]
            assert set(allowed) <= {"contents", "id-token"}
            assert allowed["contents"] == "read"
            assert name not in ALWAYS or "id-token" not in allowed
    assert "secrets." not in "".join(path.read_text() for path in WORKFLOWS.glob("*.yml"))
