"""A promoted bundle gets into the image of a cluster's model server: a real registry, and an API server that plays."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from dxf import DXF
from kubernetes.config import kube_config
from tests.tiny import make_tiny_bundle

from s2s import cluster as clusters
from s2s import rollout
from s2s.cluster import open_cluster
from s2s.data import stages
from s2s.errors import ArtifactError, InputError, ProcessingError, UpstreamError, UpstreamUnavailable
from s2s.image import HOME, split_reference, with_bundle
from s2s.rollout import BEFORE, deploy
from s2s.training.promote import current, promote

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
REPOSITORY = "team/model-server"


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[str]:
    """Debian's docker-registry on loopback, plain HTTP; its address."""
    if not shutil.which("docker-registry"):
        message = "Missing: apt-get install -y --no-install-recommends docker-registry"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(folder / "data")}}
    (folder / "config.yml").write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": address}}))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(300):
            try:
                if requests.get(f"http://{address}/v2/", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


def push_image(address: str, files: dict[str, bytes]) -> str:
    """An image of one layer; its reference by digest."""
    hub, buffer = DXF(address, REPOSITORY, insecure=True), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    packed = gzip.compress(buffer.getvalue(), mtime=0)

    def put(data: bytes) -> dict:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        hub.push_blob(data=iter([data]), digest=digest)
        return {"size": len(data), "digest": digest}

    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"User": "10001:10001", "Env": ["S2S_BUNDLE=/opt/bundle"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest()]},
        "history": [{"created_by": "COPY"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **put(json.dumps(config).encode())},
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", **put(packed)}],
    }
    text = json.dumps(manifest)
    hub.set_manifest("first", text)
    return f"{address}/{REPOSITORY}@sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def read_image(image: str) -> tuple[dict, dict[str, bytes]]:
    """Its configuration, and what a container would see of it: layers one over the other, each checked."""
    address, repository, digest = split_reference(image)
    hub = DXF(address, repository, insecure=True)
    text = hub.get_manifest_and_response(digest)[0]
    assert hashlib.sha256(text.encode()).hexdigest() == digest.removeprefix("sha256:")
    manifest, seen = json.loads(text), {}
    config = json.loads(b"".join(hub.pull_blob(manifest["config"]["digest"])))
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == len(config["history"])
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        packed = b"".join(hub.pull_blob(layer["digest"]))
        assert len(packed) == layer["size"]
        content = gzip.decompress(packed)
        assert diff_id == "sha256:" + hashlib.sha256(content).hexdigest()
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            entries = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}
        for name in [name for name in entries if name.endswith(".wh..wh..opq")]:
            hidden = name.removesuffix(".wh..wh..opq")
            seen = {path: data for path, data in seen.items() if not path.startswith(hidden)}
            del entries[name]
        seen |= entries
    return config, seen


class ApiServer(http.server.BaseHTTPRequestHandler):
    """One Deployment, whose pods take two looks to become ready, or never do."""

    def do_GET(self) -> None:
        kube: Kube = self.server.kube
        if "/deployments/" in self.path:
            kube.looks += 1
            if not kube.broken() and kube.looks > 2:
                kube.deployment["status"] = kube.ready_status()
            self.answer(kube.deployment)
        elif "/pods" in self.path:
            waiting = {"reason": "CrashLoopBackOff", "message": "the bundle is of another format"}
            status = {"phase": "Running", "containerStatuses": [{**CONTAINER, "state": {"waiting": waiting}}]}
            pod = {"metadata": {"name": "model-server-x"}, "spec": {"containers": [{"name": "c"}]}, "status": status}
            self.answer({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod]})
        else:
            self.answer({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": []})

    def do_PATCH(self) -> None:
        kube: Kube = self.server.kube
        change = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kube.changes.append(change)
        assert self.headers["Content-Type"] == "application/strategic-merge-patch+json"
        annotations = kube.deployment["metadata"]["annotations"]
        annotations.update(change["metadata"]["annotations"])
        for name in [name for name, value in annotations.items() if value is None]:
            del annotations[name]
        if "spec" in change:
            (container,) = change["spec"]["template"]["spec"]["containers"]
            kube.deployment["spec"]["template"]["spec"]["containers"][0].update(container)
            kube.deployment["metadata"]["generation"] += 1
            kube.looks = 0
            if kube.killed_at_change:
                self.close_connection = True
                return
        self.answer(kube.deployment)

    def answer(self, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


CONTAINER = {"name": "model-server", "image": "x", "imageID": "x", "ready": False, "restartCount": 3}


class Kube:
    def __init__(self, image: str):
        self.changes: list[dict] = []
        self.looks, self.refused, self.killed_at_change = 0, "", False
        labels = {"app.kubernetes.io/name": "model-server"}
        self.deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "model-server", "generation": 1, "annotations": {"owner": "us"}},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "model-server", "image": image}]},
                },
            },
        }
        self.good = image
        self.deployment["status"] = self.ready_status()

    @property
    def image(self) -> str:
        return self.deployment["spec"]["template"]["spec"]["containers"][0]["image"]

    def broken(self) -> bool:
        return bool(self.refused) and self.image != self.good

    def ready_status(self) -> dict:
        n = self.deployment["spec"]["replicas"]
        generation = self.deployment["metadata"]["generation"]
        return {"observedGeneration": generation, "replicas": n, "updatedReplicas": n, "availableReplicas": n}


@pytest.fixture
def kube(registry: str, tmp_path: Path, monkeypatch) -> Iterator[Kube]:
    files = {"usr/bin/torchserve": b"code", f"{HOME}/bundle.json": b"{}", f"{HOME}/old.safetensors": b"old weights"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ApiServer) as server:
        server.kube = Kube(push_image(registry, files))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        monkeypatch.setattr(rollout, "EVERY_S", 0.01)
        yield server.kube
        server.shutdown()


def write_kubeconfig(path: Path, address: str) -> None:
    cluster, context = {"server": address}, {"cluster": "c", "user": "u"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": cluster}],
        "contexts": [{"name": "here", "context": context}],
        "users": [{"name": "u", "user": {}}],
    }
    path.write_text(yaml.safe_dump(content))


def put(bundle: Path, store: Path, **more):
    return deploy(bundle, store, cluster="current", plain_http=True, within_s=more.pop("within_s", 60), **more)


def test_a_promoted_bundle_is_what_the_model_server_holds_and_a_second_run_changes_nothing(kube, tmp_path):
    bundle, before = make_tiny_bundle(tmp_path / "bundle"), kube.image
    verdict, said = put(bundle, tmp_path / "store")
    assert verdict.better
    assert kube.image in said
    assert current(tmp_path / "store").name in said
    config, seen = read_image(kube.image)
    assert seen.pop("usr/bin/torchserve") == b"code"
    assert seen == {f"{HOME}/{path.name}": path.read_bytes() for path in bundle.iterdir()}, "nothing of the old bundle"
    assert config["config"]["User"] == "10001:10001"
    assert before.rpartition("@")[0] == kube.image.rpartition("@")[0]
    assert kube.deployment["metadata"]["annotations"] == {"owner": "us"}
    changes = len(kube.changes)
    assert put(bundle, tmp_path / "store")[1] == said
    assert len(kube.changes) == changes


def test_the_next_bundle_takes_the_place_of_the_last_one_and_the_image_does_not_grow(kube, tmp_path):
    for seed in range(3):
        put(make_tiny_bundle(tmp_path / str(seed), seed=seed), tmp_path / "store", force=True)
    config, seen = read_image(kube.image)
    assert len(config["history"]) == 2
    assert seen[f"{HOME}/bundle.json"] == (tmp_path / "2" / "bundle.json").read_bytes()


def test_a_rollout_that_does_not_become_ready_is_undone_in_the_cluster_and_in_the_store(kube, tmp_path):
    store = tmp_path / "store"
    put(make_tiny_bundle(tmp_path / "good"), store)
    good, served = kube.image, current(store)
    kube.good, kube.refused = good, "all others"
    with pytest.raises(ProcessingError, match=r"the bundle is of another format.*Undone") as told:
        put(make_tiny_bundle(tmp_path / "bad", seed=1), store, force=True, within_s=0.3)
    assert good in str(told.value)
    assert kube.image == good
    assert current(store) == served
    assert BEFORE not in kube.deployment["metadata"]["annotations"]
    pointer = json.loads((store / "current.json").read_text())
    assert "could not be served" in pointer["why"]


def test_a_first_bundle_that_cannot_be_served_leaves_a_store_without_a_current_one(kube, tmp_path):
    kube.refused = "all others"
    with pytest.raises(ProcessingError):
        put(make_tiny_bundle(tmp_path / "bad"), tmp_path / "store", within_s=0.3)
    assert current(tmp_path / "store") is None
    kube.refused = ""
    put(make_tiny_bundle(tmp_path / "good", seed=1), tmp_path / "store")
    assert current(tmp_path / "store") is not None


def test_a_run_that_was_cut_off_in_the_middle_is_gone_on_with_and_can_still_be_undone(kube, tmp_path):
    store, good = tmp_path / "store", kube.image
    bundle = make_tiny_bundle(tmp_path / "bundle")
    kube.refused, kube.killed_at_change = "all others", True
    with pytest.raises(UpstreamUnavailable):
        put(bundle, store, within_s=0.3)
    assert kube.image != good, "changed, and nobody watched"
    kube.killed_at_change = False
    with pytest.raises(ProcessingError, match="Undone"):
        put(bundle, store, within_s=0.3)
    assert kube.image == good
    assert current(store) is None


@pytest.mark.parametrize("became_ready", [False, True])
def test_another_bundle_after_a_cut_off_run_is_undone_to_the_last_image_that_was_ready(kube, tmp_path, became_ready):
    store, kube.killed_at_change = tmp_path / "store", True
    with pytest.raises(UpstreamUnavailable):
        put(make_tiny_bundle(tmp_path / "first"), store)
    kube.killed_at_change, kube.refused = False, "all others"
    if became_ready:
        kube.good, kube.deployment["status"] = kube.image, kube.ready_status()
    with pytest.raises(ProcessingError, match="Undone"):
        put(make_tiny_bundle(tmp_path / "second", seed=1), store, force=True, within_s=0.3)
    assert kube.image == kube.good


def test_pods_that_were_well_and_are_not_any_more_are_no_reason_to_undo(kube, tmp_path):
    store, bundle = tmp_path / "store", make_tiny_bundle(tmp_path / "bundle")
    put(bundle, store)
    image = kube.image
    kube.refused = "all others"
    kube.deployment["status"]["availableReplicas"] = 1
    with pytest.raises(UpstreamError, match="did not become ready"):
        put(bundle, store, within_s=0.3)
    assert kube.image == image
    assert current(store) is not None


def test_a_model_server_that_is_scaled_to_nothing_gets_the_bundle_for_its_next_start(kube, tmp_path):
    kube.deployment["spec"]["replicas"] = 0
    kube.deployment["status"] = kube.ready_status()
    _, said = put(make_tiny_bundle(tmp_path / "bundle"), tmp_path / "store")
    assert "none runs now" in said
    assert kube.image in said


def test_the_stage_of_the_pipeline_starts_the_rollout_by_itself(kube, registry, tmp_path):
    promote(make_tiny_bundle(tmp_path / "first"), tmp_path / "root" / "bundles")
    make_tiny_bundle(tmp_path / "root" / "run" / "0" / "bundle", seed=1)
    (tmp_path / "root" / "run" / "latest").mkdir()
    (tmp_path / "root" / "run" / "latest" / "run.json").write_text('{"run": "0"}')
    made = stages.deploy(str(tmp_path / "root"), cluster="current", force=True, plain_http=True)
    assert made.facts["deployed"]
    assert made.facts["rollout"].endswith(kube.image)
    _, seen = read_image(kube.image)
    assert seen[f"{HOME}/bundle.json"] == (tmp_path / "root" / "run" / "0" / "bundle" / "bundle.json").read_bytes()


def test_where_no_cluster_is_asked_for_or_none_answers_it_is_said_what_would_be_done(kube, tmp_path, monkeypatch):
    bundle, store = make_tiny_bundle(tmp_path / "bundle"), tmp_path / "store"
    _, said = deploy(bundle, store)
    assert "not asked for" in said
    assert f"{current(store).name} into s2s/model-server" in said
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    write_kubeconfig(tmp_path / "kubeconfig", nobody)
    with pytest.raises(UpstreamUnavailable) as told:
        put(bundle, store)
    assert f"{current(store).name} would go into s2s/model-server" in told.value.hint
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(ArtifactError, match="no usable kubeconfig"):
        put(bundle, store)
    with pytest.raises(InputError, match="names no cluster"):
        deploy(bundle, store, cluster="somewhere")
    assert kube.changes == []


def test_an_image_that_names_no_registry_or_one_that_is_not_there_is_refused_by_name(registry, tmp_path):
    bundle = make_tiny_bundle(tmp_path / "bundle")
    with pytest.raises(InputError, match="names no registry"):
        with_bundle("model-server:latest", bundle, "b")
    with pytest.raises(UpstreamError, match="refused"):
        with_bundle(f"{registry}/team/nothing:1", bundle, "b", plain_http=True)
    assert split_reference("eu.pkg.dev/p/s2s/model-server@sha256:ab") == (
        "eu.pkg.dev",
        "p/s2s/model-server",
        "sha256:ab",
    )


class Google(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.headers["Authorization"] == "Bearer a-token"
        known = self.path == "/v1/projects/p/locations/l/clusters/c"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(b'{"endpoint": "10.0.0.1", "masterAuth": {"clusterCaCertificate": "Y2VydA=="}}')

    def log_message(self, *_: object) -> None:
        pass


def test_a_cluster_of_google_is_found_by_its_name_with_the_credentials_of_the_environment(monkeypatch):
    from google.oauth2.credentials import Credentials

    monkeypatch.setattr("google.auth.default", lambda scopes: (Credentials("a-token"), "p"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Google) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(clusters, "GKE", f"http://127.0.0.1:{server.server_address[1]}")
        found = open_cluster("gke:p/l/c").configuration
        assert found.host == "https://10.0.0.1"
        assert found.api_key == {"authorization": "Bearer a-token"}
        assert Path(found.ssl_ca_cert).read_bytes() == b"cert"
        with pytest.raises(UpstreamUnavailable, match="p/l/other"):
            open_cluster("gke:p/l/other")
        server.shutdown()
