"""What `tests.load` lets locust do, one class for each run. Every time it measured goes to LOAD_OUT, unrounded."""

import json
import os
import random
import time
from pathlib import Path

from locust import FastHttpUser, constant_throughput, events, poisson, task

JOBS = os.environ["LOAD_JOBS"].split()
CLIP = Path(os.environ["LOAD_CLIP"]).read_bytes()
HEAD = b'--load\r\nContent-Disposition: form-data; name="file"; filename="clip.mp4"\r\nContent-Type: video/mp4\r\n\r\n'
BODY = HEAD + CLIP + b"\r\n--load--\r\n"  # built once: the client's own work is not measured
times_ms: list[float] = []
failures: list[str] = []
started_s = time.perf_counter()


@events.request.add_listener
def note(response_time: float, exception: Exception | None, **_: object) -> None:
    times_ms.append(response_time)
    if exception:
        failures.append(str(exception))


@events.quitting.add_listener
def tell(**_: object) -> None:
    told = {"times_ms": times_ms, "failures": failures[:5], "seconds": time.perf_counter() - started_s}
    Path(os.environ["LOAD_OUT"]).write_text(json.dumps(told))


class Reader(FastHttpUser):
    abstract = True

    @task
    def read(self) -> None:
        self.client.get(f"/v1/jobs/{random.choice(JOBS)}", name="status")


class FullReader(Reader):
    pass


class SteadyReader(Reader):
    wait_time = poisson(10.5)  # callers who know nothing of each other; 20 of them make about 200 reads/s


class Sender(FastHttpUser):
    wait_time = constant_throughput(2)

    @task
    def send(self) -> None:
        kind = {"Content-Type": "multipart/form-data; boundary=load"}
        with self.client.post("/v1/jobs", data=BODY, name="create", headers=kind, catch_response=True) as answer:
            if answer.status_code != 202:
                answer.failure(f"{answer.status_code} {answer.text[:200]}")
