"""`s2s cluster status` tells what runs and why something does not, from the API's own objects."""

from __future__ import annotations

from tests.deployment.manifests import named, overlay
from tests.deployment.tools import ROOT

from s2s.cluster import METRICS, describe, read_queue, reasons, short_image

LABELS = {"app.kubernetes.io/name": "model-server"}
METRICS_TEXT = """# HELP s2s_jobs Jobs in the table, by state
s2s_jobs{state="queued"} 3.0
s2s_jobs{state="running"} 2.0
s2s_running_jobs 2.0
s2s_oldest_queued_job_seconds 41.5
"""


def _workload(ready: int, wanted: int) -> dict:
    image = "europe-west4-docker.pkg.dev/p/s2s/model-server@sha256:" + "5a" * 32
    return {
        "metadata": {"name": "model-server", "annotations": {"deployment.kubernetes.io/revision": "7"}},
        "spec": {
            "replicas": wanted,
            "selector": {"matchLabels": LABELS},
            "template": {"spec": {"containers": [{"image": image}]}},
        },
        "status": {"readyReplicas": ready} if ready else {},
    }


def _pod(name: str, phase: str, *, conditions=(), containers=(), gpus: int = 1) -> dict:
    return {
        "metadata": {"name": name, "labels": {**LABELS, "pod-template-hash": "x"}},
        "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": list(containers)},
    }


def test_a_full_picture():
    placed = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: 1 Insufficient nvidia.com/gpu."}
    pods = [
        _pod("model-server-a", "Running", containers=[{"state": {"running": {}}, "ready": True, "restartCount": 2}]),
        _pod("model-server-b", "Pending", conditions=[placed]),
    ]
    nodes = [{"status": {"allocatable": {"nvidia.com/gpu": "1"}}}, {"status": {"allocatable": {"cpu": "4"}}}]
    status = describe([_workload(1, 2)], pods, nodes, [], METRICS_TEXT)
    (service,) = status.services
    assert (service.ready, service.wanted, service.revision, service.restarts) == (1, 2, "7", 2)
    assert service.image == "model-server@" + "5a" * 6
    assert service.why == ["model-server-b: not placed on a node: 0/1 nodes: 1 Insufficient nvidia.com/gpu."]
    assert (status.gpus_requested, status.gpus_allocatable) == (2, 1)
    assert status.queue == {"queued": 3, "running": 2, "oldest_queued_s": 41.5}
    assert not status.healthy
    assert status.report()["healthy"] is False


def test_a_service_that_is_scaled_to_nothing_is_well():
    assert describe([_workload(0, 0)], [], [], [], "").healthy


def test_a_cluster_without_the_service_is_not_well():
    assert not describe([], [], [], [], "").healthy


def test_why_a_container_does_not_start_or_does_not_become_ready():
    bad_image = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
    assert reasons(_pod("p", "Pending", containers=[bad_image]), []) == ["p: ImagePullBackOff not found"]
    killed = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
    }
    (why,) = reasons(_pod("p", "Running", containers=[killed]), [])
    assert why == "p: CrashLoopBackOff (ended before with OOMKilled, code 137)"
    unready = {"state": {"running": {}}, "ready": False}
    probe = {"reason": "Unhealthy", "involvedObject": {"name": "p"}, "message": "Startup probe failed: 0 of 1 workers"}
    assert reasons(_pod("p", "Running", containers=[unready]), [probe]) == ["p: Startup probe failed: 0 of 1 workers"]
    on_its_way = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert reasons(_pod("p", "Pending", containers=[on_its_way]), []) == []


def test_short_images():
    assert short_image("r/x/api-service@sha256:" + "0123456789abcdef" * 4) == "api-service@0123456789ab"
    assert short_image("api-service:dev") == "api-service:dev"


def test_the_status_and_the_scaling_rules_read_the_same_metrics():
    text = str(named(overlay("gke"), "ScaledObject", "model-server"))
    assert METRICS["oldest_queued_s"] in text
    assert METRICS["running"] in text
    assert read_queue("nothing here") == {}
    gateway = (ROOT / "src/api_service/api/metrics.py").read_text()
    for metric in METRICS.values():
        assert f'"{metric.split("{")[0]}"' in gateway, "the gateway counts this"
