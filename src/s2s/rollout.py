"""A bundle that was promoted is put before people: the model server of a cluster gets an image with it.

The image is the one that runs, with another bundle inside (`s2s.image`). Kubernetes replaces pod by pod and takes none
away before its successor is ready; we watch, and put the image back that was there when that is not so in time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from s2s.cluster import API_TIMEOUT_S, NAMESPACE, asked, open_cluster, reasons
from s2s.errors import ProcessingError, UpstreamError
from s2s.image import with_bundle
from s2s.training.promote import Verdict, current, demote, promote

log = logging.getLogger(__name__)

DEPLOYMENT = "model-server"  # the name of its container, too
BEFORE = "s2s/image-before"  # annotation while a rollout is watched: what an undo goes back to, even after a kill
WITHIN_S = 1200.0  # as the playbooks: a GPU node has to come first
UNDO_S = 60.0  # the pods of before are still there: it is quick
EVERY_S = 2.0


def deploy(
    bundle: Path,
    store: Path,
    *,
    force: bool = False,
    cluster: str = "",
    namespace: str = NAMESPACE,
    within_s: float = WITHIN_S,
    plain_http: bool = False,
) -> tuple[Verdict, str]:
    """Promotes the bundle if it is better, and brings the cluster to the store's current one; says what was done.

    cluster: see `s2s.cluster.open_cluster`; empty: nothing is rolled out, and what would be is said. Doing it twice
    changes nothing. Raises UpstreamError when cluster or registry cannot be used (the bundle stays promoted, the next
    run goes on), ProcessingError when the rollout was undone (then the store is as it was before).
    """
    verdict = promote(bundle, store, force=force)
    served = current(store)
    if not cluster:
        return verdict, f"not asked for; --cluster current would put {served.name} into {namespace}/{DEPLOYMENT}"
    try:
        return verdict, roll_out(cluster, served, namespace=namespace, within_s=within_s, plain_http=plain_http)
    except UpstreamError as exc:
        raise type(exc)(
            str(exc),
            hint=f"Nothing was rolled out. {served.name} would go into {namespace}/{DEPLOYMENT}; run it again.",
        ) from exc
    except ProcessingError:
        demote(store, served)
        raise


def roll_out(
    cluster: str, bundle: Path, *, namespace: str = NAMESPACE, within_s: float = WITHIN_S, plain_http: bool = False
) -> str:
    """Gives the model server the bundle and waits until all of its pods have it; says what was done.

    Raises UpstreamError when cluster or registry cannot be used, or pods that were not changed are not ready;
    ProcessingError when the pods did not become ready within `within_s` and the image before is there again.
    """
    api = open_cluster(cluster)
    from kubernetes import client

    apps, core = client.AppsV1Api(api), client.CoreV1Api(api)

    def read() -> dict:
        with asked():
            return api.sanitize_for_serialization(
                apps.read_namespaced_deployment(DEPLOYMENT, namespace, _request_timeout=API_TIMEOUT_S)
            )

    def change(annotation: str | None, image: str | None = None) -> None:
        wanted: dict = {"metadata": {"annotations": {BEFORE: annotation}}}
        if image:
            wanted["spec"] = {"template": {"spec": {"containers": [{"name": DEPLOYMENT, "image": image}]}}}
        with asked():
            apps.patch_namespaced_deployment(DEPLOYMENT, namespace, wanted, _request_timeout=API_TIMEOUT_S)

    deployment = read()
    running = _image(deployment)
    before = deployment["metadata"].get("annotations", {}).get(BEFORE)
    image = with_bundle(running, bundle, bundle.name, plain_http=plain_http)
    if image != running:
        if not before or is_rolled_out(deployment):  # what a killed run left may never have been ready
            before = running
        log.info("%s/%s: %s -> %s", namespace, DEPLOYMENT, running, image)
        change(before, image)
    if _wait(read, within_s):
        if before:
            change(None)
        said = f"{bundle.name} is in {namespace}/{DEPLOYMENT}, {image}"
        return said if deployment["spec"].get("replicas", 1) else f"{said}; none runs now, the next that starts has it"
    why = f"{bundle.name} did not become ready within {within_s:g} s: {_why(api, core, deployment, namespace)}."
    if not before:
        raise UpstreamError(f"{why} The image is the one that was there before.")
    change(None, before)
    back = _wait(read, max(within_s, UNDO_S))
    raise ProcessingError(f"{why} Undone: {before} is there again{'' if back else ', but not ready either'}.")


def _why(api, core, deployment: Mapping, namespace: str) -> str:
    plain = api.sanitize_for_serialization
    labels = deployment["spec"]["selector"]["matchLabels"]
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    with asked():
        pods = core.list_namespaced_pod(namespace, label_selector=selector, _request_timeout=API_TIMEOUT_S).items
        events = core.list_namespaced_event(namespace, _request_timeout=API_TIMEOUT_S).items
    found = {reason for pod in pods for reason in reasons(plain(pod), plain(events))}
    return "; ".join(sorted(found)) or "nothing tells why"


def _image(deployment: Mapping) -> str:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return next(each["image"] for each in containers if each["name"] == DEPLOYMENT)


def _wait(read, within_s: float) -> bool:
    """Whether all replicas become ready as they are described now. False at once when Kubernetes has given up."""
    until = time.monotonic() + within_s
    while True:
        try:
            deployment = read()
        except UpstreamError as exc:  # an API server may be busy or restarted meanwhile
            if time.monotonic() > until:
                raise
            log.warning("%s", exc)
        else:
            if is_rolled_out(deployment):
                return True
            if time.monotonic() > until or has_given_up(deployment):
                return False
        time.sleep(EVERY_S)


def is_rolled_out(deployment: Mapping) -> bool:
    """By the rules of `kubectl rollout status`: seen, all replaced, none old, all available."""
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    return (
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("replicas", 0) <= status.get("updatedReplicas", 0)
        and status.get("availableReplicas", 0) >= wanted
    )


def has_given_up(deployment: Mapping) -> bool:
    """progressDeadlineSeconds are over, for the version that is described now."""
    status = deployment.get("status", {})
    return status.get("observedGeneration", 0) >= deployment["metadata"]["generation"] and any(
        condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded"
        for condition in status.get("conditions", [])
    )
