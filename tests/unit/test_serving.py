"""What `s2s serve` plans before anything is started."""

import json
import socket
import sys
import time
import zipfile

import pytest

from s2s.config import Settings
from s2s.errors import ArtifactError
from s2s.serving import Child, _plan


@pytest.fixture
def taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_without_an_embedded_worker_the_model_server_may_already_run(tmp_path, taken):
    url = f"http://127.0.0.1:{taken}"
    alone = _plan(Settings(port=0, model_server_url=url, embedded_worker=False), tmp_path, tmp_path, free_ports=False)
    assert alone.model_server_url == alone.settings.model_server_url == url
    with pytest.raises(ArtifactError, match=f"Port {taken} is taken"):
        _plan(Settings(port=0, model_server_url=url, embedded_worker=True), tmp_path, tmp_path, free_ports=False)


def test_an_archive_of_another_name_is_refused_before_anything_starts(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.mar", "w") as archive:
        archive.writestr("bundle/bundle.json", "{}")
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": "other"}}))
    with pytest.raises(ArtifactError, match="a model called 'other'") as told:
        _plan(Settings(archive=tmp_path / "other.mar"), tmp_path, tmp_path, free_ports=True)
    assert "S2S_MODEL_NAME=other" in told.value.hint


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    log = tmp_path / "child.log"
    log.write_text("an old line\n" * 100_000 + "the last words\n")
    child = Child("child", [sys.executable, "-c", ""], {}, log)
    while child.exit_code is None:
        time.sleep(0.01)
    words = child.last_words(1_000_000)
    assert words.endswith("the last words")
    assert len(words) < 70_000
