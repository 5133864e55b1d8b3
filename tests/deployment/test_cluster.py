"""Promises of the playbook and the manifests on a real cluster: nothing fails in an update, no job is lost."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import pytest
from tests.deployment import budget, kube_build
from tests.deployment.cluster import NAMESPACE, NODE, OLDER, PROGRAMS, Cluster, Traffic, kubeconfig_of, running_cluster
from tests.deployment.engine import Engine, wait_for
from tests.deployment.gcloud_stub import PROJECT, GoogleStub, have_gcloud
from tests.deployment.images import RECIPES, base_of
from tests.deployment.machines import Played, Published, play
from tests.deployment.manifests import named, overlay, pod_of
from tests.deployment.tools import ROOT, tool

pytestmark = pytest.mark.timeout(3000)
CLIP = ROOT / "src/frontend_simple/samples/drum.mp4"
NODE_PORT = 30080
DEPLOYMENTS = ("api-service", "frontend", "model-server", "worker")
FIGURES: list[str] = []  # of fixtures
NEEDED_S = 540  # by the tests of this file, once there are the programs and the images
VOLUMES = """
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: {size}}}
  accessModes: [ReadWriteOnce]
  hostPath: {{path: {path}}}
---
"""
# What an older version of the manifests may have said; the kubelet writes it into a pod's /etc/hosts.
PERIOD = "terminationGracePeriodSeconds: 75"
OLD_WORDS = {**OLDER, PERIOD: f"{PERIOD}\n      hostAliases: [{{ip: 127.0.0.9, hostnames: [old]}}]"}
WAY_IN = f"""
apiVersion: v1
kind: Service
metadata: {{name: way-in, namespace: {NAMESPACE}}}
spec:
  type: NodePort
  selector: {{app.kubernetes.io/name: frontend}}
  ports: [{{port: 8080, targetPort: http, nodePort: {NODE_PORT}, protocol: TCP}}]
"""


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name)]
    missing += [package for package, present in kube_build.PACKAGES.items() if not kube_build.ready() and not present()]
    if missing:
        message = f"Missing: apt-get install -y --no-install-recommends {' '.join(missing)}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    kube_build.start()
    while kube_build.running() and budget.left_s() > NEEDED_S:
        time.sleep(2)
    if kube_build.running():
        # The one thing that may be left out even in CI, because it would keep the rest waiting.
        pytest.skip(
            f"NOT TESTED: Kubernetes is still being compiled {budget.left_s() / 60:.0f} minutes before time is up. "
            f"That goes on by itself ({kube_build.LOG}); the next run has it."
        )
    assert kube_build.ready(), kube_build.LOG.read_text(errors="replace")[-3000:]
    with running_cluster(engine) as running:
        volumes = ""
        for name, size in (("data", "20Gi"), ("database", "10Gi")):
            path = running.folder / "volumes" / name
            path.mkdir(parents=True)
            path.chmod(0o777)  # the kubelet gives a hostPath to nobody
            volumes += VOLUMES.format(name=name, size=size, path=path)
        running.kubectl("apply", "-f", "-", given=volumes)
        yield running


def update(engine: Engine, cluster: Cluster, published: Published, **variables) -> Played:
    """The playbook as a person would run it for a cluster that is not GKE's."""
    given = {
        "k8s_apply_overlay": "local",
        "k8s_apply_digests_file": str(published.digests_file),
        "k8s_apply_words": OLDER,
        "k8s_apply_kubectl": tool("kubectl"),
        "k8s_apply_rollout_within_s": 600,
        **variables,
    }
    arguments = ("update-k8s-cluster.yml", "--extra-vars", json.dumps(given))
    return play(engine, *arguments, KUBECONFIG=str(cluster.kubeconfig))


@pytest.fixture(scope="module")
def deployed(engine: Engine, cluster: Cluster, published: Published) -> Iterator[Cluster]:
    """The whole stack, applied by the playbook to an empty cluster."""
    postgres = engine.docker("image", "inspect", "-f", "{{index .RepoDigests 0}}", published.postgres).strip()
    digests = {name: found for name, found in published.digests.items() if name != "torch-base"}
    published.digests_file.write_text(json.dumps({**digests, "postgres": postgres}))
    started_s = time.monotonic()
    played = update(engine, cluster, published, k8s_apply_words=OLD_WORDS)
    assert played.code == 0, played.output[-4000:] + cluster.what_is_wrong()
    assert "hostAliases" in pod_of(cluster.get("deployment", "frontend"))
    FIGURES.append(f"from an empty cluster to a ready one: {time.monotonic() - started_s:.0f} s, {played.totals}")
    cluster.kubectl("apply", "-f", "-", given=WAY_IN)
    with engine.published(NODE_PORT) as port:
        cluster.url = f"http://127.0.0.1:{port}"
        wait_for("the way in", lambda: _answers(cluster.url), 60, every_s=1)
        yield cluster


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def http(deployed: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=deployed.url, timeout=60, trust_env=False) as client:
        client.get("/")  # as the page: cookies, if there are any
        yield client


def send(http: httpx.Client, clip: Path = CLIP) -> str:
    answer = http.post("/v1/jobs", files={"file": (clip.name, clip.read_bytes(), "video/mp4")})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def at_work(http: httpx.Client, job: str) -> None:
    def has_begun() -> bool:
        now = http.get(f"/v1/jobs/{job}").json()
        assert now["state"] in ("queued", "running"), "the clip was done before anything was broken: nothing was tested"
        return now["state"] == "running" and (now.get("progress") or {}).get("fraction", 0) > 0.02

    wait_for("a job at work", has_begun, 300)


def has_sound(http: httpx.Client, job: str) -> bool:
    """The job comes to its good end, and its video has sound."""

    def is_done() -> bool:
        return http.get(f"/v1/jobs/{job}").json()["state"] not in ("queued", "running")

    wait_for(f"job {job}", is_done, 900, every_s=1)
    final = http.get(f"/v1/jobs/{job}").json()
    assert final["state"] == "succeeded", final
    with av.open(io.BytesIO(http.get(f"/v1/jobs/{job}/result").content)) as video:
        return len(video.streams.audio) == 1


def all_ready(cluster: Cluster) -> bool:
    def is_ready(workload: dict) -> bool:
        status, wanted = workload["status"], workload["spec"]["replicas"]
        seen = status.get("observedGeneration", 0) >= workload["metadata"]["generation"]
        return seen and status.get("readyReplicas") == status.get("updatedReplicas") == status["replicas"] == wanted

    return all(is_ready(each) for each in cluster.get("deployments")["items"])


def test_the_playbook_makes_a_service_of_an_empty_cluster_and_a_clip_gets_its_sound(deployed, http, record_property):
    record_property("figure", "\n".join(FIGURES))
    assert all_ready(deployed)
    assert has_sound(http, send(http))


def test_a_second_run_changes_nothing(engine, deployed, published):
    again = update(engine, deployed, published, k8s_apply_words=OLD_WORDS)
    assert again.code == 0, again.output[-4000:]
    assert (again.totals["changed"], again.changes) == (0, [])


def test_status_tells_what_runs_and_how_long_the_queue_is(deployed):
    command = [sys.executable, "-m", "s2s.cli", "cluster", "status", "--json"]
    environment = {**os.environ, "KUBECONFIG": str(deployed.kubeconfig)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["healthy"] is True
    assert {each["name"]: each["ready"] for each in told["services"]} == {
        "api-service": 2,
        "frontend": 2,
        "model-server": 1,
        "postgres": 1,
        "worker": 1,
    }
    assert told["queue"]["queued"] == 0


def test_the_gke_playbook_goes_from_an_empty_project_to_what_runs_and_its_address(
    engine, deployed, published, tmp_path
):
    """Google is played and gcloud is real, as are its credentials for kubectl, and the cluster that they lead to."""
    if not have_gcloud():
        message = "gcloud is not installed: https://cloud.google.com/sdk"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    kubeconfig = tmp_path / "kubeconfig"
    variables = {
        "gcp_project": PROJECT,
        "gke_cluster_sql_instance": f"{PROJECT}:europe-west4:s2s",
        "gke_cluster_kubeconfig": str(kubeconfig),
        "gke_cluster_endpoint": [],  # its address; a name in DNS would be Google's
        "k8s_apply_config": {},
        "k8s_apply_overlay": "local",  # what Kubernetes 1.20 understands
        "k8s_apply_digests_file": str(published.digests_file),
        "k8s_apply_words": OLD_WORDS,
        "k8s_apply_kubectl": tool("kubectl"),
    }
    server = json.loads(deployed.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    authority = base64.b64encode((deployed.folder / "ca.crt").read_bytes()).decode()
    with GoogleStub(endpoint=server.removeprefix("https://"), ca_pem_base64=authority) as google:
        arguments = ("deploy-k8s-cluster.yml", "--extra-vars", json.dumps(variables))
        played = play(engine, *arguments, **google.environment(tmp_path))
    assert played.code == 0, played.output[-4000:]
    assert "http://203.0.113.7.sslip.io" in played.output
    assert "gke-gcloud-auth-plugin" in kubeconfig.read_text()
    assert not [change for change in played.changes if change.startswith("k8s_apply")], "the same is there already"


def rebuilt(engine: Engine, published: Published, revision: str) -> dict[str, str]:
    """New images of the same code: another label, hence another digest."""
    digests = published.digests
    for name in ("api-service", "frontend", "model-server"):
        tag = f"{published.registry}/{name}:{revision}"
        base = f"{published.registry}/torch-base:{published.tag}" if name == "model-server" else base_of(engine, name)
        arguments = [f"--build-arg={RECIPES[name].argument}={base}", f"--build-arg=REVISION={revision}"]
        engine.docker("build", *arguments, "-t", tag, "-f", str(ROOT / RECIPES[name].dockerfile), str(ROOT))
        engine.docker("push", "--quiet", tag)
        found = json.loads(engine.docker("image", "inspect", "-f", "{{json .RepoDigests}}", tag))
        digests[name] = next(each for each in found if each.startswith(f"{published.registry}/{name}@"))
    return digests


def running_images(cluster: Cluster) -> dict[str, str]:
    found = cluster.get("deployments")["items"]
    return {each["metadata"]["name"]: pod_of(each)["containers"][0]["image"] for each in found}


def test_an_update_under_steady_requests_fails_none_of_them_and_loses_no_job(
    engine, deployed, published, http, record_property
):
    before = published.digests
    new = rebuilt(engine, published, "second")
    assert all(new[name] != before[name] for name in ("api-service", "frontend", "model-server"))
    published.digests_file.write_text(json.dumps(new))
    jobs = [send(http), send(http)]
    cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in http.cookies.items())}
    with Traffic(f"{deployed.url}/readyz") as ready, Traffic(f"{deployed.url}/v1/jobs/{jobs[0]}", cookies) as of_job:
        played = update(engine, deployed, published)
        wait_for("old pods to go", lambda: len(deployed.pods("frontend")) == 2, 120, every_s=2)
        time.sleep(10)
    assert played.code == 0, played.output[-4000:] + deployed.what_is_wrong()
    failed = len(ready.failed) + len(of_job.failed)
    record_property("figure", f"rolling update: {ready.sent + of_job.sent} requests, {failed} failed")
    assert (ready.failed, of_job.failed) == ([], [])
    assert ready.sent + of_job.sent > 100
    assert running_images(deployed)["model-server"] == new["model-server"]
    assert running_images(deployed)["worker"] == new["api-service"]
    assert "hostAliases" not in pod_of(deployed.get("deployment", "frontend")), "what is no longer said is gone"
    for job in jobs:
        assert has_sound(http, job)


def test_an_image_that_does_not_start_is_undone_and_the_service_goes_on(engine, deployed, published):
    good = published.digests
    bad = {**good, "frontend": good["postgres"]}  # it starts, and never answers as a page
    published.digests_file.write_text(json.dumps(bad))
    try:
        with Traffic(f"{deployed.url}/readyz", every_s=0.3) as traffic:
            played = update(engine, deployed, published, k8s_apply_rollout_within_s=45, k8s_apply_words=OLD_WORDS)
    finally:
        published.digests_file.write_text(json.dumps(good))
    assert played.code != 0
    assert "What was there before is there again" in " ".join(played.output.split())
    wait_for("the old version", lambda: all_ready(deployed), 180, every_s=2)
    assert running_images(deployed)["frontend"] == good["frontend"]
    assert "hostAliases" not in pod_of(deployed.get("deployment", "frontend")), "all of it is undone"
    assert traffic.failed == []


def promoted(engine: Engine, cluster: Cluster, bundle: Path, store: Path, within_s: int) -> subprocess.CompletedProcess:
    """`s2s bundle promote`, where registry and API server can be reached."""
    command = [sys.executable, "-m", "s2s.cli", "bundle", "promote", str(bundle), str(store), "--force"]
    command += ["--cluster=current", "--plain-http", f"--within-s={within_s}"]
    inside = engine.inside("env", f"KUBECONFIG={kubeconfig_of(cluster.folder, 'admin')}", *command)
    return subprocess.run(inside, cwd=ROOT, capture_output=True, text=True, timeout=1500)


def test_a_promoted_bundle_gets_into_the_model_server_and_a_rollout_that_takes_too_long_is_undone(
    engine, deployed, http, tmp_path
):
    before, store = running_images(deployed)["model-server"], tmp_path / "store"
    bundles = [tmp_path / name for name in ("first", "second")]
    for bundle in bundles:
        shutil.copytree(ROOT / "model_store" / "s2s-small", bundle)
        facts = json.loads((bundle / "bundle.json").read_text())
        (bundle / "bundle.json").write_text(json.dumps({**facts, "name": bundle.name}))
    try:
        done = promoted(engine, deployed, bundles[0], store, 900)
        assert done.returncode == 0, done.stderr + deployed.what_is_wrong()
        first = running_images(deployed)["model-server"]
        assert first != before
        assert first in json.loads(done.stdout)["rollout"]
        read = ("exec", "deployment/model-server", "--", "cat", "/opt/bundle/bundle.json")
        assert json.loads(deployed.kubectl("-n", NAMESPACE, *read))["name"] == "first"
        assert has_sound(http, send(http))
        with Traffic(f"{deployed.url}/readyz", every_s=0.3) as traffic:
            failed = promoted(engine, deployed, bundles[1], store, 2)  # no model server starts so quickly
        assert failed.returncode == 1
        assert "Undone" in failed.stderr
        assert running_images(deployed)["model-server"] == first
        assert json.loads((store / "current.json").read_text())["bundle"].startswith("first-")
        assert traffic.failed == []
    finally:
        deployed.kubectl("-n", NAMESPACE, "set", "image", "deployment/model-server", f"model-server={before}")
        wait_for("the old version", lambda: all_ready(deployed), 900, every_s=2)


def test_a_model_server_that_is_killed_in_the_middle_of_a_job_costs_time_and_no_job(engine, deployed, http, long_clip):
    (pod,) = deployed.pods("model-server")
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("docker://")
    job = send(http, long_clip)
    at_work(http, job)
    engine.docker("kill", "--signal=KILL", container)
    assert has_sound(http, job)

    def is_back() -> bool:
        (now,) = deployed.pods("model-server")
        return now["status"]["containerStatuses"][0]["restartCount"] >= 1 and all_ready(deployed)

    wait_for("the model server", is_back, 300, every_s=2)


@pytest.mark.parametrize("name", ["worker", "api-service"])
def test_a_pod_that_is_evicted_in_the_middle_of_a_job_loses_nothing(deployed, http, name, long_clip):
    gone = deployed.pods(name)[0]["metadata"]["name"]
    job = send(http, long_clip)
    at_work(http, job)
    eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": gone, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{gone}/eviction"
    deployed.kubectl("create", f"--raw={path}", "-f", "-", given=json.dumps(eviction))
    assert has_sound(http, job)
    wait_for("its successor", lambda: all_ready(deployed), 180, every_s=2)
    assert gone not in [pod["metadata"]["name"] for pod in deployed.pods(name)]


def test_a_model_server_with_a_gpu_waits_for_a_gpu_node_and_a_second_one_for_another(cluster, deployed):
    """The scheduler's part of it, on a node that says it has a GPU; the pods run nothing."""
    wanted = pod_of(named(overlay("gke"), "Deployment", "model-server"))
    container = {
        "name": "nothing",
        "image": "local/pause:3.2",
        "resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "10m", "memory": "16Mi"}},
    }
    spec = {"nodeSelector": wanted["nodeSelector"], "tolerations": wanted["tolerations"], "containers": [container]}
    for name in ("gpu-1", "gpu-2"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
        cluster.kubectl("create", "-f", "-", given=json.dumps(pod))

    def placed() -> list[str]:
        pods = cluster.get("pods", "gpu-1", "gpu-2")["items"]
        return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"]

    def why(name: str) -> str:
        conditions = cluster.get("pod", name)["status"].get("conditions", [])
        return " ".join(each.get("message", "") for each in conditions if each["type"] == "PodScheduled")

    try:
        wait_for("the scheduler", lambda: "didn't match" in why("gpu-1") and "didn't match" in why("gpu-2"), 60)
        cluster.kubectl("label", "node", NODE, "cloud.google.com/gke-accelerator=nvidia-l4")
        cluster.kubectl("taint", "node", NODE, "nvidia.com/gpu=present:NoSchedule")
        patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "1"}]
        us = ssl.create_default_context(cafile=cluster.folder / "ca.crt")
        us.load_cert_chain(cluster.folder / "admin.crt", cluster.folder / "admin.key")
        server = json.loads(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        with httpx.Client(verify=us, trust_env=False) as client:
            kind = {"Content-Type": "application/json-patch+json"}
            answer = client.patch(f"{server}/api/v1/nodes/{NODE}/status", json=patch, headers=kind)
        assert answer.status_code == 200, answer.text
        wait_for("one of them", lambda: len(placed()) == 1, 120, every_s=1)
        (waits,) = {"gpu-1", "gpu-2"} - set(placed())
        wait_for("the reason", lambda: "Insufficient nvidia.com/gpu" in why(waits), 60, every_s=1)
    finally:
        cluster.kubectl("-n", NAMESPACE, "delete", "pod", "gpu-1", "gpu-2", "--grace-period=0", "--force")
        cluster.kubectl("taint", "node", NODE, "nvidia.com/gpu-", check=False)
