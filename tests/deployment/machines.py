"""What playbooks are aimed at: a registry on the engine's bridge, and a systemd machine that is reached over ssh."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tests.deployment import bases
from tests.deployment.engine import CGROUPS, Engine, wait_for
from tests.deployment.tools import CACHE, ROOT, tool

BRIDGE = "172.17.0.1"  # docker's own choice, in the engine's namespaces
REGISTRY = f"{BRIDGE}:5000"
REGISTRY_LIMIT_BYTES = 12_000_000_000
STORE = CACHE / "registry" / "docker" / "registry" / "v2"  # as docker-registry lays it out
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CAPABILITIES = (
    "SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD", "DAC_READ_SEARCH", "SYS_CHROOT", "SETFCAP",
    "SYS_NICE", "IPC_LOCK", "AUDIT_CONTROL", "AUDIT_WRITE", "SYSLOG", "LINUX_IMMUTABLE",
)  # fmt: skip


@contextmanager
def running_registry(engine: Engine) -> Iterator[str]:
    """Debian's docker-registry, plain HTTP; in the place of Artifact Registry. Its address.

    It knows no image, but still has the layers of former runs.
    """
    if STORE.exists() and sum(path.stat().st_size for path in STORE.rglob("data")) > REGISTRY_LIMIT_BYTES:
        shutil.rmtree(STORE)
    for known in STORE.glob("repositories/**/_manifests"):
        shutil.rmtree(known)
    configuration = engine.run_dir / "registry.yml"
    storage = {"filesystem": {"rootdirectory": str(STORE.parents[2])}, "delete": {"enabled": True}}
    configuration.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": ":5000"}}))
    engine.start("registry", "docker-registry", "serve", str(configuration))
    probe = engine.inside("python3", "-c", f"import urllib.request as u; u.urlopen('http://{REGISTRY}/v2/')")
    wait_for("registry", lambda: subprocess.run(probe, capture_output=True).returncode == 0, 60)
    yield REGISTRY
    engine.stop("registry")


def hand_over(engine: Engine, image: str) -> None:
    """The layers of a local image lie in the registry, and the engine knows that.

    Pushed, 3 GB of torch would be compressed first, which takes many minutes. So they are put there as they are and
    pulled once; whatever stands on them is pushed without them.
    """
    done = STORE / "handed-over" / image.replace("/", "_").replace(":", "_")
    if done.exists():
        return
    if done.parent.exists():  # a former base, and what was pushed on it
        shutil.rmtree(STORE)
    repository = STORE / "repositories" / "handed-over"
    digests: dict[str, tuple[str, int]] = {}  # member of the archive -> digest, bytes
    with tempfile.TemporaryFile() as words:
        save = subprocess.Popen(
            ["docker", "save", image], env=engine.environment(), stdout=subprocess.PIPE, stderr=words
        )
        with suppress(tarfile.ReadError), tarfile.open(fileobj=save.stdout, mode="r|", bufsize=1 << 20) as archive:
            for member in archive:
                if member.isreg():
                    digests[member.name] = _store_blob(archive.extractfile(member))
        save.stdout.close()
        if save.wait(60) or "manifest.json" not in digests:
            words.seek(0)
            raise RuntimeError(f"docker save {image}: {words.read().decode(errors='replace')}")

    def described(kind: str, name: str) -> dict:
        digest, size = digests[name]
        _link(repository / "_layers" / "sha256" / digest, digest)
        return {"mediaType": f"application/vnd.docker.{kind}", "size": size, "digest": f"sha256:{digest}"}

    (content,) = json.loads(_blob(digests["manifest.json"][0]).read_text())
    # An image of another name for the same content would not be pulled: the engine has it.
    config = json.loads(_blob(digests[content["Config"]][0]).read_text()) | {"comment": "handed over"}
    digests[content["Config"]] = _store_blob(io.BytesIO(json.dumps(config).encode()))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described("container.image.v1+json", content["Config"]),
        "layers": [described("image.rootfs.diff.tar.gzip", name) for name in content["Layers"]],
    }
    digest, _ = _store_blob(io.BytesIO(json.dumps(manifest).encode()))
    _link(repository / "_manifests" / "revisions" / "sha256" / digest, digest)
    reference = f"{REGISTRY}/handed-over@sha256:{digest}"
    engine.docker("pull", "--quiet", reference)
    engine.docker("rmi", reference)
    done.parent.mkdir(exist_ok=True)
    done.touch()


def _blob(digest: str) -> Path:
    return STORE / "blobs" / "sha256" / digest[:2] / digest / "data"


def _store_blob(source: BinaryIO) -> tuple[str, int]:
    """As the registry keeps it: (hexadecimal SHA-256, bytes)."""
    STORE.mkdir(parents=True, exist_ok=True)
    digest, size, partial = hashlib.sha256(), 0, STORE / "partial"
    with partial.open("wb") as target:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            size += target.write(chunk)
    path = _blob(digest.hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(path)
    return digest.hexdigest(), size


def _link(folder: Path, digest: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "link").write_text(f"sha256:{digest}")


@dataclass
class Published:
    """Our images in a registry. `arguments` of ansible-playbook put them there."""

    registry: str
    tag: str
    digests_file: Path
    arguments: tuple[str, ...] = ()

    @property
    def postgres(self) -> str:
        return f"{self.registry}/postgres:{self.tag}"

    @property
    def digests(self) -> dict[str, str]:
        return json.loads(self.digests_file.read_text())


@dataclass(frozen=True)
class Played:
    """What a run of ansible-playbook said."""

    output: str
    code: int
    totals: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, done: subprocess.CompletedProcess) -> Played:
        recap = done.stdout.rpartition("PLAY RECAP")[2]
        totals: dict[str, int] = {}
        for name, count in re.findall(r"(\w+)=(\d+)", recap):
            totals[name] = totals.get(name, 0) + int(count)
        return cls(done.stdout + done.stderr, done.returncode, totals)

    @property
    def changes(self) -> list[str]:
        """The tasks that changed something."""
        names = re.split(r"^(?:TASK|RUNNING HANDLER) \[", self.output, flags=re.MULTILINE)[1:]
        return [name.split("]")[0] for name in names if re.search(r"^changed: ", name, re.MULTILINE)]


def play(engine: Engine, playbook: str, *arguments: str, within_s: float = 1800, inside=False, **environment) -> Played:
    """A playbook as people run it, from deployment/, with this engine as the docker of the machine.

    `inside`: in the engine's namespaces, where the docker client reaches the registry too.
    """
    command = [tool("ansible-playbook"), playbook, *arguments]
    done = subprocess.run(
        engine.inside("env", f"--chdir={ROOT / 'deployment'}", *command) if inside else command,
        cwd=ROOT / "deployment",
        env=engine.environment(ANSIBLE_NOCOLOR="1", ANSIBLE_HOME=str(engine.run_dir / "ansible"), **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
    )
    return Played.of(done)


@dataclass(frozen=True)
class Machine:
    """A systemd machine. `inventory` adds it to deployment/inventory.yml in the place of s2s-vm."""

    engine: Engine
    name: str
    inventory: Path

    def sh(self, script: str, check: bool = True) -> str:
        return self.engine.docker("exec", self.name, "sh", "-ec", script, check=check)


def control_groups() -> Iterator[str]:
    """Options that show a machine the host's hierarchies. Where they lie in a tmpfs it gets one of its own: systemd
    remounts that read-only, and the host's would be, too."""
    if not CGROUPS.is_mount() or (CGROUPS / "cgroup.controllers").exists():
        yield f"--volume={CGROUPS}:{CGROUPS}"
        return
    yield f"--tmpfs={CGROUPS}"
    yield from (f"--volume={path}:{path}" for path in sorted(CGROUPS.iterdir()) if path.is_mount())


@contextmanager
def running_machine(engine: Engine) -> Iterator[Machine]:
    """Gone at the end, with its disk."""
    image, name = bases.base(engine, "vm"), "machine"
    options = [f"--cap-add={each}" for each in CAPABILITIES]
    options += ["--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined", "--cgroupns=host"]
    options += [*control_groups(), "--tmpfs=/run", "--tmpfs=/run/lock"]
    options += ["--volume=/var/lib/docker", "--hostname=machine"]
    options += [f"--publish={port}:{port}" for port in (80, 443, 2222)]
    options = [option.replace("2222:2222", "2222:22") for option in options]
    engine.docker("run", "--detach", "--name", name, *options, image)
    with tempfile.TemporaryDirectory(prefix="s2s-ssh-") as folder, engine.published(2222) as port:
        key, known = Path(folder, "key"), Path(folder, "known_hosts")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        inventory = Path(folder, "inventory.yml")
        machine = Machine(engine, name, inventory)
        try:
            wait_for("systemd", lambda: "running" in machine.sh("systemctl is-system-running", check=False), 120)
            public = key.with_suffix(".pub").read_text().strip()
            machine.sh(f"echo '{public}' >/home/s2s/.ssh/authorized_keys && chown s2s: /home/s2s/.ssh/authorized_keys")
            host_key = machine.sh("cat /etc/ssh/ssh_host_ed25519_key.pub").split()
            known.write_text(f"[127.0.0.1]:{port} {host_key[0]} {host_key[1]}\n")
            variables = {
                "ansible_host": "127.0.0.1",
                "ansible_port": port,
                "ansible_ssh_private_key_file": str(key),
                "ansible_ssh_common_args": f"-o UserKnownHostsFile={known} -o ControlPath={folder}/%C",
            }
            inventory.write_text(json.dumps({"vm": {"hosts": {"s2s-vm": variables}}}))
            yield machine
        finally:
            engine.docker("rm", "-f", "-v", name, check=False)
