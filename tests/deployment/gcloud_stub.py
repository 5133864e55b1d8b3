"""Google's REST interfaces as far as our playbooks call them, on a loopback port, for the real gcloud.

Resources are kept as they were posted, so that a second run sees what the first one made. Every request is recorded.
`faults` break one call in the way that Google does.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PROJECT = "test-project"
TOKEN = "test-token"  # gcloud shows it to everybody it asks
VERSION = "1.34.1-gke.100"
SERVER_CONFIG = {
    "defaultClusterVersion": VERSION,
    "validMasterVersions": [VERSION],
    "validNodeVersions": [VERSION],
    "validImageTypes": ["COS_CONTAINERD"],
    "channels": [{"channel": "REGULAR", "defaultVersion": VERSION, "validVersions": [VERSION]}],
}


@dataclass
class Fault:
    """The first `times` requests of `method` whose path matches fail so."""

    method: str
    path: str
    status: int = 403
    reason: str = "PERMISSION_DENIED"
    message: str = "The caller does not have permission"
    operation_error: bool = False  # accepted, then the operation ends in ERROR
    times: int = 1


@dataclass
class Request:
    method: str
    path: str
    body: dict | None


@dataclass
class GoogleStub:
    endpoint: str = "127.0.0.1:1"  # of the clusters' API server
    ca_pem_base64: str = ""
    requests: list[Request] = field(default_factory=list)
    resources: dict[str, dict] = field(default_factory=dict)
    policies: dict[str, dict] = field(default_factory=dict)
    enabled: set[str] = field(default_factory=set)
    operations: dict[str, dict] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def __enter__(self) -> GoogleStub:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_) -> None:
                pass

            def _any(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                body = json.loads(raw) if raw.strip().startswith(b"{") else None
                status, answer = stub.answer(self.command, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, folder: Path) -> dict[str, str]:
        """What aims gcloud at this stub. Its configuration lies in `folder`, not in the person's home."""
        token = folder / "token"
        token.write_text(TOKEN)
        endpoints = {
            name: self.url
            for name in ("CONTAINER", "ARTIFACTREGISTRY", "IAM", "SERVICEUSAGE", "CLOUDRESOURCEMANAGER", "SQLADMIN")
        }
        endpoints |= {"COMPUTE": f"{self.url}compute/v1/", "STORAGE": f"{self.url}storage/v1/"}
        return {
            "CLOUDSDK_CONFIG": str(folder / "gcloud"),
            "CLOUDSDK_CORE_PROJECT": PROJECT,
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
            "DOCKER_CONFIG": str(folder / "docker"),
            **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}": url for name, url in endpoints.items()},
        }

    # --- what Google would do ---

    def answer(self, method: str, url: str, body: dict | None) -> tuple[int, dict]:
        path = urlsplit(url).path.replace("/projects/-/", f"/projects/{PROJECT}/")
        query = parse_qs(urlsplit(url).query)
        self.requests.append(Request(method, path, body))
        fault = next((f for f in self.faults if f.times and f.method == method and re.search(f.path, path)), None)
        if fault:
            fault.times -= 1
            if not fault.operation_error:
                return fault.status, _error(fault.status, fault.reason, fault.message)
            return 200, self._operation(path, error=fault.message)
        if found := re.search(r"/operations/([^/]+?)(?:/wait)?$", path):
            return 200, self.operations[found[1]]
        if path.endswith(("/serverConfig", "/serverconfig")):
            return 200, SERVER_CONFIG
        if "/services" in path:
            return self._services(method, path, body)
        if found := re.search(r"(.*?)(?::|/)(getIamPolicy|setIamPolicy|iam)$", path):
            return self._policy(method, found[1], found[2], body)
        return self._resource(method, path, query, body)

    def _services(self, method: str, path: str, body: dict | None) -> tuple[int, dict]:
        if method == "GET":
            return 200, {"services": [{"config": {"name": name}, "state": "ENABLED"} for name in sorted(self.enabled)]}
        names = (body or {}).get("serviceIds") or [path.split("/")[-1].split(":")[0]]
        self.enabled.update(names)
        return 200, {"name": "operations/acf.x", "done": True, "response": {}}

    def _policy(self, method: str, path: str, verb: str, body: dict | None) -> tuple[int, dict]:
        path = path.rsplit("/v1/", 1)[-1].rsplit("/v3/", 1)[-1]
        if verb == "setIamPolicy" or method == "PUT":
            self.policies[path] = (body or {}).get("policy", body) or {}
        return 200, {"etag": "YWJj", "bindings": [], **self.policies.get(path, {})}

    def _resource(self, method: str, path: str, query: dict, body: dict | None) -> tuple[int, dict]:
        if "/compute/" not in path:  # the container interface knows both words
            path = re.sub(r"/(zones|locations)/", "/locations/", path)
        if method == "POST" and path.endswith("/serviceAccounts"):
            email = f"{body['accountId']}@{PROJECT}.iam.gserviceaccount.com"
            name = f"projects/{PROJECT}/serviceAccounts/{email}"
            self.resources[f"{path}/{email}"] = {"email": email, "name": name, "uniqueId": "1"}
            return 200, self.resources[f"{path}/{email}"]
        if method == "POST":
            key = next((name for name in ("cluster", "nodePool") if name in (body or {})), None)
            made = dict(body[key] if key else body or {})
            full = f"{path}/{made['name']}"
            if full in self.resources:
                return 409, _error(409, "ALREADY_EXISTS", f"Already exists: {full}")
            self.resources[full] = self._completed(full, key, made)
            if "/storage/" in path:
                return 200, self.resources[full]
            return 200, self._operation(full)
        if method == "GET":
            if path in self.resources:
                return 200, self.resources[path]
            folder = re.compile(
                re.escape(path).replace("/locations/\\-/", "/locations/[^/]+/")
            )  # "-" is every location
            inside = [value for key, value in self.resources.items() if folder.fullmatch(key.rsplit("/", 1)[0])]
            if re.search(r"/(clusters|nodePools|addresses|b)$", path):
                return 200, {path.rsplit("/", 1)[1]: inside, "items": inside}
            return 404, _error(404, "NOT_FOUND", f"Not found: {path}")
        if path not in self.resources:
            return 404, _error(404, "NOT_FOUND", f"Not found: {path}")
        if method == "DELETE":
            for key in [key for key in self.resources if key == path or key.startswith(f"{path}/")]:
                del self.resources[key]
        else:
            self._update(path, body or {})
        return 200, self._operation(path, kind="delete" if method == "DELETE" else "update")

    def _update(self, path: str, body: dict) -> None:
        found, update = self.resources[path], body.get("update", {})
        if "/firewalls/" in path:
            found.update(body)
        if "desiredGatewayApiConfig" in update:
            found.setdefault("networkConfig", {})["gatewayApiConfig"] = update["desiredGatewayApiConfig"]
        if "desiredWorkloadIdentityConfig" in update:
            found["workloadIdentityConfig"] = update["desiredWorkloadIdentityConfig"]
        if "desiredNodePoolAutoscaling" in update:
            self.resources[f"{path}/nodePools/{update['desiredNodePoolId']}"]["autoscaling"] = update[
                "desiredNodePoolAutoscaling"
            ]

    def _completed(self, full: str, key: str | None, made: dict) -> dict:
        """What Google adds to what was asked for."""
        made["selfLink"] = f"https://www.googleapis.com{full}"
        if key == "cluster":
            location = re.search(r"/locations/([^/]+)", full)[1]
            made |= {"status": "RUNNING", "endpoint": self.endpoint, "location": location, "zone": location}
            made |= {"currentMasterVersion": VERSION, "currentNodeVersion": VERSION, "currentNodeCount": 1}
            made["masterAuth"] = {"clusterCaCertificate": self.ca_pem_base64}
        elif key == "nodePool":
            made |= {"status": "RUNNING", "version": VERSION}
        elif "/addresses" in full:
            made |= {"address": "203.0.113.7", "status": "RESERVED"}
        elif "/storage/" in full:
            made |= {"id": made["name"], "location": made.get("location", "EU").upper()}
        return made

    def _operation(self, target: str, error: str = "", kind: str = "insert") -> dict:
        name = f"operation-{len(self.operations) + 1}"
        made = {"name": name, "status": "DONE", "done": True, "operationType": kind, "targetLink": target}
        if "/compute/" not in target:
            made |= {"selfLink": f"{self.url}v1/projects/{PROJECT}/locations/x/operations/{name}", "zone": "x"}
        else:
            made |= {"kind": "compute#operation", "progress": 100}
            place = re.search(r"/(zones/[^/]+|regions/[^/]+|global)/", target)[1]
            project = f"{self.url}compute/v1/projects/{PROJECT}"
            made["selfLink"] = f"{project}/{place}/operations/{name}"
            if "/" in place:  # zones/x: the operation names its zone
                made[place.split("/")[0][:-1]] = f"{project}/{place}"
            made["targetLink"] = f"{self.url.rstrip('/')}{target}"
        if error:
            made |= {"error": {"code": 13, "message": error}, "statusMessage": error}
        self.operations[name] = made
        return made

    def asked(self, method: str, path: str) -> list[dict | None]:
        """Bodies of the requests whose path matches."""
        return [each.body for each in self.requests if each.method == method and re.search(path, each.path)]

    def changes(self) -> list[Request]:
        """Requests that change something."""
        return [each for each in self.requests if each.method != "GET" and "getIamPolicy" not in each.path]


def _error(code: int, status: str, message: str) -> dict:
    details = [{"reason": status, "message": message, "domain": "global"}]
    return {"error": {"code": code, "message": message, "status": status, "errors": details}}


def have_gcloud() -> bool:
    try:
        return subprocess.run(["gcloud", "--version"], capture_output=True, timeout=120).returncode == 0
    except FileNotFoundError:
        return False
