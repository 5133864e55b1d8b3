"""An image of the model server with another bundle inside: one layer more in the registry, no Docker engine needed.

The layer hides what /opt/bundle held and holds the new files. All else, code and torch, stays as it was tested and
scanned. A layer that was put on in this way before is replaced, so that images do not grow. The same bundle on the same
image gives the same digest, which is how one knows that there is nothing to do.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
import tempfile
from pathlib import Path

from s2s.errors import ArtifactError, InputError, UpstreamError, UpstreamUnavailable

HOME = "opt/bundle"  # where src/model_deployment/Dockerfile puts it
MARK = "s2s bundle"  # in the history of an image: the layer is ours
LAYER_TYPES = {  # manifest -> its layers
    "application/vnd.docker.distribution.manifest.v2+json": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.manifest.v1+json": "application/vnd.oci.image.layer.v1.tar+gzip",
}
TIMEOUT_S = 120
GOOGLE = re.compile(r"(-docker\.pkg\.dev|(^|\.)gcr\.io)$")


def split_reference(image: str) -> tuple[str, str, str]:
    """`HOST/REPOSITORY:TAG` or `...@sha256:DIGEST` -> (host, repository, tag or digest). Raises InputError."""
    host, _, rest = image.partition("/")
    name, _, digest = rest.partition("@")
    repository, _, tag = name.partition(":")
    if not repository or not (set(".:") & set(host) or host == "localhost"):
        raise InputError(f"{image} names no registry.", hint="Expected REGISTRY/REPOSITORY@sha256:DIGEST.")
    return host, repository, digest or tag or "latest"


def with_bundle(image: str, bundle: Path, name: str, *, plain_http: bool = False) -> str:
    """Pushes `image` with the folder `bundle` at /opt/bundle, beside it; returns its reference by digest.

    name: of the bundle, for the image's history. Raises UpstreamError when the registry cannot be reached or refuses,
    ArtifactError when the image is of no known form or the registry's client is not installed.
    """
    try:
        from dxf import DXF
        from dxf.exceptions import DXFError
        from requests.exceptions import HTTPError, RequestException
    except ImportError as exc:
        raise ArtifactError("The registry's client is not installed.", hint="pip install -e '.[cluster]'") from exc
    host, repository, reference = split_reference(image)
    registry = DXF(host, repository, auth=_sign_in, insecure=plain_http, timeout=TIMEOUT_S)
    try:
        return f"{host}/{repository}@{_push(registry, reference, bundle, name)}"
    except HTTPError as exc:
        raise UpstreamError(f"The registry {host} refused: {exc}", hint="May the caller read and write there?") from exc
    except (DXFError, RequestException, OSError) as exc:
        raise UpstreamUnavailable(f"The registry {host} cannot be used: {exc or type(exc).__name__}") from exc


def _push(registry, reference: str, bundle: Path, name: str) -> str:
    manifest = json.loads(registry.get_manifest_and_response(reference)[0])
    if "manifests" in manifest:  # an image for several processors
        ours = [
            one["digest"] for one in manifest["manifests"] if one.get("platform", {}).get("architecture") == "amd64"
        ]
        if not ours:
            raise ArtifactError(f"{reference} has no image for amd64.")
        manifest = json.loads(registry.get_manifest_and_response(ours[0])[0])
    if manifest.get("mediaType") not in LAYER_TYPES:
        raise ArtifactError(f"{reference} is of a form that is not known: {manifest.get('mediaType')}.")
    config = json.loads(b"".join(registry.pull_blob(manifest["config"]["digest"])))
    layers, ids, history = manifest["layers"], config["rootfs"]["diff_ids"], config.setdefault("history", [])
    if history and history[-1].get("comment") == MARK:
        layers.pop(), ids.pop(), history.pop()
    with tempfile.TemporaryDirectory(prefix="s2s-layer-") as scratch:
        layer = Path(scratch, "layer.tar.gz")
        ids.append(write_layer(bundle, layer))
        layers.append(
            {
                "mediaType": LAYER_TYPES[manifest["mediaType"]],
                "size": layer.stat().st_size,
                "digest": registry.push_blob(str(layer)),
            }
        )
    history.append({"created": config.get("created", ""), "created_by": f"COPY {name} /{HOME}", "comment": MARK})
    held = _compact(config)
    manifest["config"] |= {"size": len(held), "digest": _digest(held)}
    registry.push_blob(data=iter([held]), digest=_digest(held))
    text = _compact(manifest)
    registry.set_manifest(f"bundle-{_digest(text)[7:19]}", text.decode())  # a new tag each: tags may be immutable
    return _digest(text)


def write_layer(bundle: Path, target: Path) -> str:
    """The layer, gzipped, at `target`; returns the digest of what is inside, `sha256:...`. Always the same bytes."""
    content = hashlib.sha256()

    class Hashed(gzip.GzipFile):
        def write(self, data: bytes) -> int:
            content.update(data)
            return super().write(data)

    with (
        Hashed(target, "wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for folder in ("opt", HOME):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        # by OCI's rules: nothing of this folder is seen of the layers below
        tar.addfile(_entry(f"{HOME}/.wh..wh..opq", 0), io.BytesIO())
        for path in sorted(path for path in bundle.iterdir() if path.is_file()):
            with open(path, "rb") as file:
                tar.addfile(_entry(f"{HOME}/{path.name}", path.stat().st_size), file)
    return f"sha256:{content.hexdigest()}"


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


def _compact(data: dict) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _sign_in(registry, response) -> None:
    """Google's registries: the credentials of the environment. Others: ~/.docker/config.json, or nobody."""
    host = response.url.split("/")[2]
    if GOOGLE.search(host):
        import google.auth
        import google.auth.transport.requests

        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        credentials.refresh(google.auth.transport.requests.Request())
        registry.authenticate("oauth2accesstoken", credentials.token, response=response)
        return
    known = Path.home() / ".docker" / "config.json"
    entries = json.loads(known.read_text()).get("auths", {}) if known.is_file() else {}
    user, _, password = base64.b64decode(entries.get(host, {}).get("auth", "")).decode().partition(":")
    registry.authenticate(user or None, password or None, response=response)
