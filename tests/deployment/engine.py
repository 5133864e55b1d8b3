"""A real Docker engine for tests, started by hand and shut away from the machine.

`dockerd` runs in network, mount and process namespaces of its own. Its way out is slirp4netns, a user-space NAT, so the
machine's iptables, sysctls, routes and mounts are never touched; when the namespaces' first process ends, everything in
them ends. Images and layers are kept between runs in the cache folder.

    with running_engine(tools.CACHE) as engine:
        engine.docker("run", "--rm", "local/python", "python", "-V")
        with engine.published(8080) as port: ...           # a port of the namespace, on the machine's 127.0.0.1
        subprocess.run(engine.inside("ip", "addr"))        # any command, in the namespaces
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = {  # what the engine needs -> Debian package
    "dockerd": "docker.io",
    "iptables": "iptables",
    "slirp4netns": "slirp4netns",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
GUEST_ADDRESS, DNS_ADDRESS = "10.0.2.100", "10.0.2.3"  # slirp4netns' own choice
PR_SET_PDEATHSIG = 1
CGROUPS = Path("/sys/fs/cgroup")
FREE_GB, FREE_GB_FIRST = 15, 35  # with the cache of a former run (when all requirements changed), and without one
KEPT_LAYERS = "6GB"  # of the builder, beside the images
PREFIX = "s2s-engine-"  # of everything that a run leaves where others can see it


class CannotRun(RuntimeError):
    """This machine cannot run the engine; the message says what is missing."""


def wait_for(what: str, ready: Callable[[], bool], within_s: float, every_s: float = 0.2) -> None:
    """Raises TimeoutError that names `what`."""
    deadline_s = time.monotonic() + within_s
    while not ready():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {within_s:.0f} s")
        time.sleep(every_s)


@dataclass
class Engine:
    """A running engine. `run_dir` holds sockets and logs and is gone afterwards; `data_dir` stays."""

    run_dir: Path
    data_dir: Path
    config_dir: Path  # the client's: plugins, no credentials
    init_pid: int = 0
    _cgroups_before: set[Path] = field(default_factory=set)
    _processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def socket(self) -> str:
        return f"unix://{self.run_dir}/docker.sock"

    def environment(self, **changes: str) -> dict[str, str]:
        """For any client of this engine: the command line, compose, Ansible's modules."""
        client = {"DOCKER_HOST": self.socket, "DOCKER_CONFIG": str(self.config_dir), "DOCKER_BUILDKIT": "1"}
        path = f"/usr/bin:{os.environ['PATH']}"  # Debian's client first: it fits the engine
        return {**os.environ, **client, "PATH": path, "BUILDKIT_PROGRESS": "plain", **changes}

    def inside(self, *command: str) -> list[str]:
        """`command`, to be run in the engine's namespaces."""
        return ["nsenter", "--target", str(self.init_pid), "--net", "--mount", "--pid", "--", *command]

    def start(self, name: str, *command: str, environment: dict[str, str] | None = None) -> subprocess.Popen:
        """A server inside the namespaces, ended with them. Its log is `<run_dir>/<name>.log`."""
        return self._start(name, self.inside(*command), environment)

    def stop(self, name: str) -> None:
        """Ends a server, if `start` started it."""
        if not (process := self._processes.pop(name, None)):
            return
        if pid := self._child_of(process):
            os.kill(pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def docker(self, *arguments: str, timeout_s: float = 1800, check: bool = True, **environment: str) -> str:
        """Standard output of the docker client. Raises RuntimeError with the end of what it said."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}: {(done.stdout + done.stderr)[-4000:]}")
        return done.stdout

    def has_image(self, name: str) -> bool:
        return bool(self.docker("image", "ls", "-q", name).strip())

    @contextmanager
    def published(self, port: int) -> Iterator[int]:
        """The namespace's `port` on a free port of the machine's 127.0.0.1."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            host_port = probe.getsockname()[1]
        forward = {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": host_port}
        forward |= {"guest_addr": GUEST_ADDRESS, "guest_port": port}
        answer = self._slirp("add_hostfwd", forward)
        try:
            yield host_port
        finally:
            with suppress(OSError):
                self._slirp("remove_hostfwd", {"id": answer["return"]["id"]})

    def _slirp(self, command: str, arguments: dict) -> dict:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.run_dir / "slirp.sock"))
            client.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
            client.shutdown(socket.SHUT_WR)
            answer = json.loads(client.makefile().read())
        if "error" in answer:
            raise RuntimeError(f"slirp4netns: {answer['error']}")
        return answer

    def _start(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen:
        with (self.run_dir / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment or dict(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )
        self._processes[name] = process
        return process

    def _open(self) -> None:
        self._cgroups_before = set(top_cgroups())
        holder = self._start(
            "namespaces",
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"],
        )
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        wait_for("namespaces", lambda: holder.poll() is not None or bool(children.read_text().strip()), 20)
        if holder.poll() is not None:
            raise CannotRun("unshare: " + self.log("namespaces"))
        self.init_pid = int(children.read_text().split()[0])
        slirp = ["--configure", "--mtu=1500", "--disable-host-loopback", f"--api-socket={self.run_dir}/slirp.sock"]
        network = self._start("slirp4netns", ["slirp4netns", *slirp, str(self.init_pid), "tap0"])

        def connected() -> bool:
            if network.poll() is not None:
                raise CannotRun("slirp4netns: " + self.log("slirp4netns"))
            return "tap0" in subprocess.run(self.inside("ip", "route"), capture_output=True, text=True).stdout

        wait_for("slirp4netns", connected, 20)
        resolv = self.run_dir / "resolv.conf"
        resolv.write_text(f"nameserver {DNS_ADDRESS}\n")
        subprocess.run(self.inside("mount", "--bind", str(resolv), "/etc/resolv.conf"), check=True)
        self.start(
            "dockerd",
            "dockerd",
            f"--data-root={self.data_dir}",
            f"--exec-root={self.run_dir}/exec",
            f"--pidfile={self.run_dir}/docker.pid",
            f"--host={self.socket}",
            f"--cgroup-parent=/{self.cgroup}",
            "--insecure-registry=172.16.0.0/12",  # registries of tests, on the bridge
            "--log-level=warn",
            *self._runtime(),
        )

        def answers() -> bool:
            if self._processes["dockerd"].poll() is not None:
                raise CannotRun("dockerd: " + self.log("dockerd"))
            return bool(self.docker("version", "-f", "{{.Server.Version}}", check=False).strip())

        wait_for("dockerd", answers, 90)
        self._remove_containers()  # of a run that was killed

    def _runtime(self) -> list[str]:
        if _may_use_more_resources():
            return []
        runtime = self.run_dir / "runc-plain"
        runtime.write_text(f'#!/bin/sh\nexec /usr/bin/python3 -IS {Path(__file__).with_name("runc_plain.py")} "$@"\n')
        runtime.chmod(0o755)
        return [f"--add-runtime=plain={runtime}", "--default-runtime=plain"]

    @property
    def cgroup(self) -> str:
        return f"{PREFIX}{os.getpid()}"

    def log(self, name: str, n_bytes: int = 3000) -> str:
        with suppress(FileNotFoundError):
            return (self.run_dir / f"{name}.log").read_text(errors="replace")[-n_bytes:]
        return ""

    def _close(self) -> None:
        """Containers first, then the engine, then the namespaces with whatever is left in them."""
        if "dockerd" in self._processes and self._processes["dockerd"].poll() is None:
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                self._remove_containers()
                self._tidy()
            if pid := self._child_of(self._processes["dockerd"]):
                os.kill(pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._processes["dockerd"].wait(30)
        if self.init_pid:
            with suppress(ProcessLookupError):
                os.kill(self.init_pid, signal.SIGKILL)
        for process in self._processes.values():  # what was inside is gone by now; slirp4netns is outside
            process.kill()
            process.wait()
        for found in set(top_cgroups()) - self._cgroups_before:  # a machine in a container makes some of its own
            _remove_cgroup(found)

    def _remove_containers(self) -> None:
        if found := self.docker("ps", "-aq", timeout_s=60).split():
            self.docker("rm", "-f", "-v", *found, timeout_s=120)

    def _tidy(self) -> None:
        """The cache keeps what the next run can use, and does not grow: bases, our last images, the latest layers."""
        rows = self.docker("image", "ls", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}").splitlines()
        for repository, tag, digest in (row.split() for row in rows):
            if not repository.startswith(("local/", "<none>")):  # as pushed to a test's registry
                name = f"{repository}@{digest}" if tag == "<none>" else f"{repository}:{tag}"
                self.docker("rmi", "--force", name, timeout_s=120, check=False)
        self.docker("image", "prune", "--force", timeout_s=120)
        self.docker("volume", "prune", "--force", timeout_s=120)
        self.docker("builder", "prune", "--force", f"--keep-storage={KEPT_LAYERS}", timeout_s=300)

    @staticmethod
    def _child_of(process: subprocess.Popen) -> int | None:
        """nsenter forks into the process namespace: the server is its child."""
        holder = process.pid
        with suppress(FileNotFoundError):
            found = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
            return int(found[0]) if found else None
        return None


@contextmanager
def running_engine(cache: Path) -> Iterator[Engine]:
    """One engine on this cache at a time: another one waits. Raises CannotRun with what the machine lacks."""
    data_dir, config_dir = cache / "docker", cache / "docker-client"
    check_machine(FREE_GB if (data_dir / "image").exists() else FREE_GB_FIRST, cache)
    for folder in (data_dir, config_dir):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        lock = cleanup.enter_context((cache / "engine.lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_leftovers()
        run_dir = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))  # short: a Unix socket's path has 107 bytes
        cleanup.callback(shutil.rmtree, run_dir, ignore_errors=True)
        engine = Engine(run_dir, data_dir, config_dir)
        cleanup.callback(engine._close)
        engine._open()
        yield engine


def check_machine(free_gb: int, cache: Path) -> None:
    """Raises CannotRun."""
    cache.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(cache).free // 10**9) < free_gb:
        raise CannotRun(f"{free} GB are free at {cache}; images and what they are made of need {free_gb}.")
    if os.geteuid():
        raise CannotRun("The container tests start a Docker engine and need root.")
    missing = sorted({package for name, package in PROGRAMS.items() if not shutil.which(name)})
    if missing:
        raise CannotRun(f"Missing: apt-get install -y --no-install-recommends {' '.join(missing)}")
    if not Path("/dev/net/tun").exists():
        raise CannotRun("There is no /dev/net/tun, which slirp4netns needs.")
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise CannotRun("The kernel has no overlay file system; images would be copied whole for every layer.")


def _may_use_more_resources() -> bool:
    """CAP_SYS_RESOURCE, which root lacks in some containers."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    return bool(int(effective, 16) >> 24 & 1)


def top_cgroups() -> Iterator[Path]:
    """Groups right below a hierarchy's root: version 2 has one hierarchy, version 1 one for each controller."""
    unified = (CGROUPS / "cgroup.controllers").exists()
    yield from (path for path in CGROUPS.glob("*/" if unified else "*/*/") if not path.is_symlink())


def _remove_cgroup(top: Path) -> None:
    """As far as nothing runs in it."""
    for folder, _, _ in os.walk(top, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)


def _remove_leftovers() -> None:
    """Of a test run that was killed: its processes are gone with it, its folders are not."""
    for found in [*top_cgroups(), *Path(tempfile.gettempdir()).glob(f"{PREFIX}*")]:
        pid = found.name.removeprefix(PREFIX).split("-")[0]
        if found.name.startswith(PREFIX) and pid.isdigit() and not Path("/proc", pid).exists():
            _remove_cgroup(found) if found.is_relative_to(CGROUPS) else shutil.rmtree(found, ignore_errors=True)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
