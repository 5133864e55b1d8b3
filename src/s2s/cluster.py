"""`s2s cluster status`: what runs in the cluster, from which image, and why something is not ready.

Reads only; the Kubernetes client is the extra `cluster`. What is shown is decided by plain functions over the
API's JSON, so that they can be read and tested without a cluster.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from s2s.errors import ArtifactError, InputError, UpstreamUnavailable

NAMESPACE = "s2s"
GPU = "nvidia.com/gpu"
GKE = "https://container.googleapis.com"
API_TIMEOUT_S = 20
METRICS = {
    "queued": 's2s_jobs{state="queued"}',
    "running": "s2s_running_jobs",
    "oldest_queued_s": "s2s_oldest_queued_job_seconds",
}
QUIET_REASONS = {"ContainerCreating", "PodInitializing"}  # on their way, not in trouble


@dataclass(frozen=True)
class Service:
    """One Deployment or StatefulSet. `image`: tag or first digits of a digest. `why`: what keeps it from ready."""

    name: str
    ready: int
    wanted: int
    image: str
    revision: str
    restarts: int
    gpus: int
    why: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Status:
    services: list[Service]
    queue: dict[str, float]  # names of METRICS; empty when the gateway cannot be asked
    gpus_allocatable: int
    gpus_requested: int

    @property
    def healthy(self) -> bool:
        return bool(self.services) and all(each.ready >= each.wanted for each in self.services)

    def report(self) -> dict:
        return {**asdict(self), "healthy": self.healthy}


def describe(
    workloads: Sequence[Mapping],
    pods: Sequence[Mapping],
    nodes: Sequence[Mapping],
    events: Sequence[Mapping],
    metrics: str,
) -> Status:
    """The API's objects as JSON, and the gateway's metrics in Prometheus' text format -> Status."""
    services = []
    for workload in sorted(workloads, key=lambda each: each["metadata"]["name"]):
        labels = workload["spec"]["selector"]["matchLabels"]
        own = [pod for pod in pods if labels.items() <= pod["metadata"].get("labels", {}).items()]
        container = workload["spec"]["template"]["spec"]["containers"][0]
        annotations = workload["metadata"].get("annotations", {})
        status = workload.get("status", {})
        services.append(
            Service(
                name=workload["metadata"]["name"],
                ready=status.get("readyReplicas") or 0,
                wanted=workload["spec"].get("replicas", 1),
                image=short_image(container["image"]),
                revision=annotations.get("deployment.kubernetes.io/revision", status.get("updateRevision", "-")),
                restarts=sum(each.get("restartCount", 0) for pod in own for each in _containers(pod)),
                gpus=sum(_gpus(pod) for pod in own),
                why=sorted({reason for pod in own for reason in reasons(pod, events)}),
            )
        )
    return Status(
        services,
        queue=read_queue(metrics),
        gpus_allocatable=sum(int(node["status"].get("allocatable", {}).get(GPU, 0)) for node in nodes),
        gpus_requested=sum(_gpus(pod) for pod in pods if pod["status"].get("phase") in ("Pending", "Running")),
    )


def short_image(reference: str) -> str:
    """`registry/team/name@sha256:5a5a...` -> `name@5a5a5a5a5a5a`; a tag stays."""
    name = reference.rsplit("/", 1)[-1]
    return re.sub(r"@sha256:([0-9a-f]{12})[0-9a-f]*", r"@\1", name)


def reasons(pod: Mapping, events: Sequence[Mapping]) -> list[str]:
    """Why a pod is not ready, in Kubernetes' own words; nothing for one that is, or that has just been asked for."""
    name, status = pod["metadata"]["name"], pod["status"]
    if status.get("phase") == "Succeeded":
        return []
    found = []
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            found.append(f"{name}: not placed on a node: {condition.get('message') or condition.get('reason')}")
    for container in _containers(pod):
        state, last = container.get("state", {}), container.get("lastState", {}).get("terminated")
        if (waiting := state.get("waiting")) and waiting.get("reason") not in QUIET_REASONS:
            told = f"{waiting.get('reason')} {waiting.get('message', '')}".strip()
            ended = f" (ended before with {last.get('reason')}, code {last.get('exitCode')})" if last else ""
            found.append(f"{name}: {told}{ended}")
        elif "running" in state and not container.get("ready", True):
            probe = next((e["message"] for e in reversed(events) if _is_probe(e, name)), "its probe has not passed yet")
            found.append(f"{name}: {probe}")
    return found


def _is_probe(event: Mapping, pod_name: str) -> bool:
    return event.get("reason") == "Unhealthy" and event.get("involvedObject", {}).get("name") == pod_name


def _containers(pod: Mapping) -> list[Mapping]:
    return [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]


def _gpus(pod: Mapping) -> int:
    limits = (each.get("resources", {}).get("limits", {}) for each in pod["spec"]["containers"])
    return sum(int(limit.get(GPU, 0)) for limit in limits)


def read_queue(metrics: str) -> dict[str, float]:
    """The gateway's counts of the queue, out of Prometheus' text format."""
    found = {}
    for name, metric in METRICS.items():
        if match := re.search(rf"^{re.escape(metric)} (\S+)$", metrics, re.MULTILINE):
            found[name] = float(match[1])
    return found


def open_cluster(where: str = "current"):
    """A Kubernetes ApiClient. where: `current` (the kubeconfig's context, or the cluster that we run in),
    `context:NAME`, or `gke:PROJECT/LOCATION/CLUSTER` with Google's credentials of the environment.

    Raises ArtifactError without client or kubeconfig, UpstreamUnavailable when Google does not tell where a cluster is.
    """
    try:
        from kubernetes import client, config
    except ImportError as exc:
        raise ArtifactError("The Kubernetes client is not installed.", hint="pip install -e '.[cluster]'") from exc
    kind, _, name = where.partition(":")
    if kind == "gke":
        return client.ApiClient(_of_google(client.Configuration(), name))
    if kind not in ("current", "context"):
        raise InputError(f"{where!r} names no cluster.", hint="current, context:NAME, or gke:PROJECT/LOCATION/CLUSTER.")
    configuration = client.Configuration()
    try:
        config.load_kube_config(context=name or None, client_configuration=configuration)
    except config.ConfigException as exc:
        try:
            if name:
                raise exc
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            raise ArtifactError(f"There is no usable kubeconfig: {exc}", hint="Set KUBECONFIG.") from exc
    return client.ApiClient(configuration)


def _of_google(configuration, name: str):
    """Address, authority and a token of a GKE cluster, as gcloud's get-credentials would find them."""
    import google.auth
    import google.auth.transport.requests

    project, location, cluster = [*name.split("/"), "", ""][:3]
    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        session = google.auth.transport.requests.AuthorizedSession(credentials)
        answer = session.get(
            f"{GKE}/v1/projects/{project}/locations/{location}/clusters/{cluster}", timeout=API_TIMEOUT_S
        )
        answer.raise_for_status()
    except (google.auth.exceptions.GoogleAuthError, OSError) as exc:  # of requests, too
        raise UpstreamUnavailable(f"Google does not tell where {name} is: {exc}") from exc
    found = answer.json()
    configuration.host = f"https://{found['endpoint']}"
    with tempfile.NamedTemporaryFile("wb", suffix=".crt", delete=False) as authority:  # read when a connection opens
        authority.write(base64.b64decode(found["masterAuth"]["clusterCaCertificate"]))
    configuration.ssl_ca_cert = authority.name
    configuration.api_key = {"authorization": f"Bearer {credentials.token}"}
    return configuration


@contextmanager
def asked(what: str = "The cluster") -> Iterator[None]:
    """Errors of the Kubernetes client as ours: UpstreamUnavailable, with what was refused."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as exc:
        raise UpstreamUnavailable(f"{what} refused: {exc.status} {exc.reason}.") from exc
    except (HTTPError, OSError) as exc:
        raise UpstreamUnavailable(f"{what} does not answer: {exc}") from exc


def read_cluster(namespace: str = NAMESPACE, context: str | None = None) -> Status:
    """Asks the cluster of the kubeconfig. Raises ArtifactError without client or kubeconfig, UpstreamUnavailable when
    its API server does not answer or does not let us in."""
    api = open_cluster(f"context:{context}" if context else "current")
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    plain = api.sanitize_for_serialization
    with asked():
        workloads = [
            *apps.list_namespaced_deployment(namespace, _request_timeout=API_TIMEOUT_S).items,
            *apps.list_namespaced_stateful_set(namespace, _request_timeout=API_TIMEOUT_S).items,
        ]
        pods = core.list_namespaced_pod(namespace, _request_timeout=API_TIMEOUT_S).items
        events = core.list_namespaced_event(namespace, _request_timeout=API_TIMEOUT_S).items
        nodes = _or_nothing(ApiException, lambda: core.list_node(_request_timeout=API_TIMEOUT_S).items)
        metrics = _or_nothing(ApiException, lambda: _ask_gateway(core, pods, namespace))
    return describe(*(plain(each) for each in (workloads, pods, nodes or [], events)), metrics or "")


def _or_nothing(refusal: type[Exception], ask):
    """Nodes and pods' ports may be closed to the person who asks; the rest is still worth showing."""
    try:
        return ask()
    except refusal:
        return None


def _ask_gateway(core, pods, namespace: str) -> str:
    """/metrics of a ready gateway, through the API server's proxy: nothing has to be opened for it."""
    for pod in pods:
        labels = pod.metadata.labels or {}
        ready = all(each.ready for each in pod.status.container_statuses or [])
        if labels.get("app.kubernetes.io/name") == "api-service" and pod.status.phase == "Running" and ready:
            return core.connect_get_namespaced_pod_proxy_with_path(
                f"{pod.metadata.name}:9000", namespace, "metrics", _request_timeout=API_TIMEOUT_S
            )
    return ""
