"""schemathesis against a running gateway: is every answer as the OpenAPI document says, along its links too?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
from tests.chaos import GATEWAY, INSTANT_MODEL, QUICK, Member, free_port, until_alive
from tests.clips import film

from s2s.config import REPO_ROOT, Settings

LEFT_OUT = {
    "unsupported_method": "the framework's 405 for a method that the document does not name lists no Allow for HEAD",
    "positive_data_acceptance": "what is sound by the document may still be no video, no known job, no known cursor",
    "negative_data_rejection": "the document says less than we check: forms name types, their text is read leniently",
    "missing_required_header": "no header is required",
    "ignored_auth": "on loopback no key is asked for; test_access_api holds who may do what",
}
SCHEMATHESIS = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]


def run_contract(folder: Path, phases: str, max_examples: int, within_s: float) -> str:
    """What schemathesis printed; AssertionError with that where an answer is not as it is described."""
    port, model_port = free_port(), free_port()
    config = Settings(
        **{**QUICK, "max_queued": 100_000, "lease_s": 30.0},
        data_dir=folder / "var",
        model_server_url=f"http://127.0.0.1:{model_port}",
        model_workers=3,
        port=port,
    )
    environment = {**os.environ, **config.environment()}
    members = [
        Member("gateway", GATEWAY, environment, folder),
        Member("model", [*INSTANT_MODEL, str(model_port)], environment, folder),
    ]
    url = f"http://127.0.0.1:{port}"
    try:
        until_alive(url)
        clip = film(folder / "clip.mp4", seconds=0.6, sound=True)  # the stand-in's result has the clip's own
        command = [*SCHEMATHESIS, "run", f"{url}/openapi.json", "--phases", phases]
        command += ["--exclude-checks", ",".join(LEFT_OUT), "--max-examples", str(max_examples), "--seed", "1"]
        command += ["--generation-database", "none", "--request-timeout", "60", "--continue-on-failure", "--no-color"]
        hooks = {"SCHEMATHESIS_HOOKS": "tests.contract_hooks", "CONTRACT_CLIP": str(clip), "COLUMNS": "150",
                 "PYTHONPATH": str(REPO_ROOT)}  # fmt: skip
        done = subprocess.run(command, env={**environment, **hooks}, cwd=folder, timeout=within_s,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert httpx.get(f"{url}/readyz", timeout=30, trust_env=False).status_code == 200
        return done.stdout
    finally:
        for member in members:
            member.kill()
