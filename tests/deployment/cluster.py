"""A real Kubernetes cluster of one node in the engine's namespaces: every part of it is started by hand, as in a book.

The node is the engine itself: containers run in the same dockerd as in the other tests. Kubernetes is 1.20; where
it does not know what manifests of today say, they are taken back a little (OLDER). It enforces no NetworkPolicy
and knows no Pod Security, Gateway API, KEDA or HPA v2; tests by schema and by rules hold those.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.deployment import kube_build
from tests.deployment.engine import GUEST_ADDRESS, Engine, wait_for
from tests.deployment.gcloud_stub import TOKEN
from tests.deployment.machines import BRIDGE
from tests.deployment.tools import tool

PORT = 6443
SERVICES, PODS = "10.96.0.0/16", "172.17.0.0/16"  # docker0 gives the pods their addresses
DOMAIN = "cluster.local"
NODE, NAMESPACE = "node1", "s2s"
PAUSE = "local/pause:3.2"
OLDER = {"policy/v1": "policy/v1beta1"}  # what Kubernetes 1.20 called it
SETTINGS = {  # kernel settings that the kubelet wants, which are the machine's: it is shown files that say so instead
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
PROGRAMS = {  # what the cluster needs besides the engine -> Debian package
    "etcd": "etcd-server",
    "conntrack": "conntrack",
    "socat": "socat",
    "dnsmasq": "dnsmasq-base",
    "openssl": "openssl",
}


@dataclass
class Cluster:
    """`kubeconfig` works on this machine. `url` is the page, through a NodePort."""

    engine: Engine
    folder: Path
    kubeconfig: Path
    url: str = ""
    _stack: ExitStack = field(default_factory=ExitStack)

    def kubectl(self, *arguments: str, check: bool = True, given: str | None = None, within_s: float = 120) -> str:
        done = subprocess.run(
            [tool("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=within_s,
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr[-2000:]}")
        return done.stdout

    def get(self, kind: str, *arguments: str) -> dict:
        return json.loads(self.kubectl("-n", NAMESPACE, "get", kind, *arguments, "-o", "json"))

    def pods(self, name: str) -> list[dict]:
        """Those of a workload that are not on their way out."""
        found = self.get("pods", "-l", f"app.kubernetes.io/name={name}")["items"]
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def what_is_wrong(self) -> str:
        """For the message of a test that failed."""
        said = [self.kubectl("-n", NAMESPACE, "get", "pods", "-o", "wide", check=False)]
        said.append(self.kubectl("-n", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp", check=False)[-4000:])
        for pod in self.kubectl("-n", NAMESPACE, "get", "pods", "-o", "name", check=False).split():
            said.append(f"--- {pod}\n" + self.kubectl("-n", NAMESPACE, "logs", "--tail=12", pod, check=False))
        return "\n".join(said)


@contextmanager
def running_cluster(engine: Engine) -> Iterator[Cluster]:
    """Ready for Pods. It ends with the engine, and leaves nothing."""
    folder = engine.run_dir / "kubernetes"
    folder.mkdir()
    _make_certificates(folder)
    with engine.published(PORT) as port, ExitStack() as stack:
        kubeconfig = kubeconfig_of(folder, "admin", port)
        cluster = Cluster(engine, folder, kubeconfig)
        for name in ("etcd", "apiserver", "controller-manager", "scheduler", "kube-proxy", "kubelet"):
            stack.callback(engine.stop, name)
        _make_pause_image(engine)
        _show_settings(engine, folder)
        _start_api_server(engine, folder)
        wait_for("API server", lambda: cluster.kubectl("get", "--raw=/readyz", check=False) == "ok", 180, every_s=1)
        _start_controllers(engine, folder)
        _start_node(engine, folder)
        stack.enter_context(_cluster_dns(cluster))

        def node_is_ready() -> bool:
            nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
            return any(c["type"] == "Ready" and c["status"] == "True" for n in nodes for c in n["status"]["conditions"])

        try:
            wait_for("node", node_is_ready, 180, every_s=1)
        except TimeoutError as exc:
            raise RuntimeError(engine.log("kubelet")) from exc
        yield cluster


# --- certificates ---


def _openssl(folder: Path, arguments: str) -> None:
    subprocess.run(["openssl", *shlex.split(arguments)], cwd=folder, check=True, capture_output=True)


def _make_certificates(folder: Path) -> None:
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    _openssl(folder, f"req -x509 {key} -days 30 -subj /CN=test-ca -keyout ca.key -out ca.crt")
    names = f"IP:127.0.0.1,IP:10.96.0.1,IP:{GUEST_ADDRESS},DNS:kubernetes.default.svc,DNS:localhost"
    people = {  # who -> what the API server takes them for
        "apiserver": "/CN=kube-apiserver",
        "admin": "/O=system:masters/CN=admin",
        "controller-manager": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
        "kube-proxy": "/CN=system:kube-proxy",
    }
    (folder / "names").write_text(f"subjectAltName={names}\n")
    for name, subject in people.items():
        _openssl(folder, f"req {key} -subj {subject} -keyout {name}.key -out {name}.csr")
        signed = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names"
        _openssl(folder, f"x509 -req -in {name}.csr {signed} -out {name}.crt")
    _openssl(folder, "genrsa -out accounts.key 2048")


def kubeconfig_of(folder: Path, name: str, port: int = PORT) -> Path:
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(folder / "ca.crt")}
    user = {"client-certificate": str(folder / f"{name}.crt"), "client-key": str(folder / f"{name}.key")}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
        "current-context": "test",
    }
    path = folder / f"{name}-{port}.conf"
    path.write_text(json.dumps(content))
    return path


# --- parts ---


def _make_pause_image(engine: Engine) -> None:
    dockerfile = 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'
    context = engine.run_dir / "pause"
    context.mkdir()
    (context / "Dockerfile").write_text(dockerfile)
    (context / "pause").write_bytes((kube_build.FOLDER / "pause").read_bytes())
    (context / "pause").chmod(0o755)
    engine.docker("build", "-q", "-t", PAUSE, str(context))


def _show_settings(engine: Engine, folder: Path) -> None:
    for name, value in SETTINGS.items():
        path = folder / name.replace("/", "-")
        path.write_text(f"{value}\n")
        subprocess.run(engine.inside("mount", "--bind", str(path), f"/proc/sys/{name}"), check=True)


def _start_api_server(engine: Engine, folder: Path) -> None:
    programs = kube_build.FOLDER
    address = "http://127.0.0.1:2379"
    (folder / "tokens.csv").write_text(f'{TOKEN},somebody,1,"system:masters"\n')
    engine.start(
        "etcd",
        "etcd",
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls={address}",
        f"--advertise-client-urls={address}",
    )
    engine.start(
        "apiserver",
        f"{programs}/kube-apiserver",
        f"--etcd-servers={address}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={GUEST_ADDRESS}",
        f"--secure-port={PORT}",
        f"--cert-dir={folder}",
        f"--tls-cert-file={folder}/apiserver.crt",
        f"--tls-private-key-file={folder}/apiserver.key",
        f"--client-ca-file={folder}/ca.crt",
        f"--token-auth-file={folder}/tokens.csv",
        f"--kubelet-certificate-authority={folder}/ca.crt",
        f"--kubelet-client-certificate={folder}/admin.crt",
        f"--kubelet-client-key={folder}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={folder}/accounts.key",
        f"--service-account-signing-key-file={folder}/accounts.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
    )


def _start_controllers(engine: Engine, folder: Path) -> None:
    """Once the API server has its first rights to give: they end when they are refused."""
    programs = kube_build.FOLDER
    engine.start(
        "controller-manager",
        f"{programs}/kube-controller-manager",
        f"--kubeconfig={kubeconfig_of(folder, 'controller-manager')}",
        f"--service-account-private-key-file={folder}/accounts.key",
        f"--root-ca-file={folder}/ca.crt",
        f"--cert-dir={folder}/controller-manager",
        "--use-service-account-credentials",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    )
    engine.start(
        "scheduler",
        f"{programs}/kube-scheduler",
        f"--kubeconfig={kubeconfig_of(folder, 'scheduler')}",
        f"--cert-dir={folder}/scheduler",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    )


def _start_node(engine: Engine, folder: Path) -> None:
    programs = kube_build.FOLDER
    engine.start(
        "kubelet",
        f"{programs}/kubelet",
        f"--kubeconfig={kubeconfig_of(folder, 'kubelet')}",
        f"--hostname-override={NODE}",
        f"--root-dir={folder}/kubelet",
        f"--cert-dir={folder}/kubelet-certificates",
        f"--tls-cert-file={folder}/apiserver.crt",
        f"--tls-private-key-file={folder}/apiserver.key",
        f"--client-ca-file={folder}/ca.crt",
        "--authorization-mode=Webhook",
        "--anonymous-auth=false",
        f"--node-ip={GUEST_ADDRESS}",
        f"--docker-endpoint={engine.socket}",
        f"--pod-infra-container-image={PAUSE}",
        f"--cni-cache-dir={folder}/cni",
        "--cgroup-driver=cgroupfs",
        "--fail-swap-on=false",
        f"--cluster-dns={BRIDGE}",
        f"--cluster-domain={DOMAIN}",
        f"--resolv-conf={engine.run_dir}/resolv.conf",
        "--eviction-hard=nodefs.available<1%",
        "--image-gc-high-threshold=100",
        "--serialize-image-pulls=false",
        "--seccomp-profile-root=" + str(folder / "seccomp"),
        f"--volume-plugin-dir={folder}/plugins",
    )
    engine.start(
        "kube-proxy",
        f"{programs}/kube-proxy",
        f"--kubeconfig={kubeconfig_of(folder, 'kube-proxy')}",
        f"--hostname-override={NODE}",
        f"--cluster-cidr={PODS}",
        "--proxy-mode=iptables",
        "--masquerade-all",  # pods on one bridge answer each other directly otherwise, past the translation
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--metrics-bind-address=127.0.0.1:10249",
        "--healthz-bind-address=127.0.0.1:10256",
    )


@contextmanager
def _cluster_dns(cluster: Cluster) -> Iterator[None]:
    """In the place of CoreDNS: dnsmasq on the bridge, told of every Service."""
    hosts = cluster.folder / "hosts"
    hosts.mkdir()
    cluster.engine.start(
        "dns",
        "dnsmasq",
        "--keep-in-foreground",
        "--user=root",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--no-resolv",
        "--no-hosts",
        f"--hostsdir={hosts}",
        f"--listen-address={BRIDGE}",
        "--bind-interfaces",
        f"--local=/{DOMAIN}/",
        "--cache-size=0",
    )
    line = '{.spec.clusterIP} {.metadata.name}.{.metadata.namespace}.svc{"\\n"}'
    watch = subprocess.Popen(
        [tool("kubectl"), f"--kubeconfig={cluster.kubeconfig}", "get", "services", "-A", "-w", f"-o=jsonpath={line}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def follow() -> None:
        for said in watch.stdout:
            address, name = said.split()
            if address != "None":
                (hosts / name).write_text(f"{address} {name}.{DOMAIN}\n")

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        watch.kill()
        watch.wait()
        follower.join(5)


# --- what tests do to it ---


@dataclass
class Traffic:
    """Requests in a steady row from the start to the end of the `with`; what did not succeed is kept."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    every_s: float = 0.1
    sent: int = 0
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.sent += 1
            try:  # a connection of its own each time, as from people who come by
                answer = httpx.get(self.url, headers=self.headers, timeout=30, trust_env=False)
                if answer.status_code != 200:
                    self.failed.append(f"{time.strftime('%H:%M:%S')} {answer.status_code} {answer.text[:200]}")
            except httpx.HTTPError as exc:
                self.failed.append(f"{time.strftime('%H:%M:%S')} {exc!r}")
            time.sleep(self.every_s)
