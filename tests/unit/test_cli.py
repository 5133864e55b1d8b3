"""The command line as a person meets it: real processes, exit codes, one clear line."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from s2s.cli import app
from s2s.errors import InputError, ProcessingError
from s2s.pipeline import GeneratedSound


def s2s(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "s2s.cli", *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, cwd=cwd)


@pytest.mark.parametrize("command", ["", "generate", "serve", "bundle", "evaluate", "payload", "demo"])
def test_help_reads_well(command):
    answer = CliRunner().invoke(app, [*command.split(), "--help"])
    assert answer.exit_code == 0
    assert "Usage" in answer.stdout


@pytest.mark.parametrize(("name", "content", "says"), [
    ("missing.mp4", None, "does not exist"),
    ("notes.mp4", b"Dear diary, this is no video.\n" * 40, "not a video"),
    ("empty.mp4", b"", "empty"),
])
def test_a_bad_file_is_one_clear_line_exit_code_2_and_nothing_left(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    answer = s2s("generate", tmp_path / name, "-o", tmp_path / "out.mp4")
    assert answer.returncode == 2
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, answer.stderr
    assert says in lines[0].lower()
    assert sorted(p.name for p in tmp_path.iterdir()) == ([name] if content is not None else [])


def test_one_clip_that_cannot_be_worked_on_does_not_stop_the_others(tmp_path, monkeypatch):
    class Generator:
        def generate_file(self, video, target, **_):
            raise ProcessingError("The encoder ended.") if video.stem == "a" else InputError("No video.")

    monkeypatch.setattr("s2s.pipeline.SoundGenerator.from_bundle", lambda *_, **__: Generator())
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
    answer = CliRunner().invoke(app, ["generate", str(tmp_path), "--json"])
    assert answer.exit_code == 2
    assert [row["error"] for row in json.loads(answer.stdout)] == ["The encoder ended.", "No video."]


def test_names_with_brackets_and_colons_are_told_as_they_are(tmp_path, monkeypatch):
    folder, name = tmp_path / ("long enough to be broken in two" * 3), "Drum [abc_XYZ] :cat:.mp4"
    folder.mkdir()
    (folder / name).write_bytes(b"x")
    made = GeneratedSound(np.zeros(0), 22_050, np.zeros((80, 0)), [], None, 0.0, 1.0, 0, ["A [note]."])

    class Generator:
        def generate_file(self, video, target, **_):
            if target.parent != folder:
                raise InputError(f"{video.name} is [red]bad[/red].")
            return made

    monkeypatch.setattr("s2s.pipeline.SoundGenerator.from_bundle", lambda *_, **__: Generator())
    monkeypatch.setattr("s2s.media.gate.check_container", lambda *_: None)
    told = CliRunner().invoke(app, ["generate", str(folder / name)]).stdout
    assert f"{folder}/Drum [abc_XYZ] :cat:.sound.mp4" in told
    assert "A [note]." in told
    monkeypatch.setattr("s2s.cli.out._width", 200)  # as on a wide terminal
    table = CliRunner().invoke(app, ["generate", str(folder)]).stdout
    assert table.count(name) == 2
    assert "is [red]bad[/red]." in table
    assert f"{name} does not exist" in s2s("generate", name, cwd=tmp_path).stderr


@pytest.mark.parametrize("option", ["--wav", "--picture"])
def test_a_folder_is_refused_where_one_video_is_asked_for_even_when_it_holds_one(tmp_path, option):
    (tmp_path / "one.mp4").write_bytes(b"x")
    answer = CliRunner().invoke(app, ["generate", str(tmp_path), option, str(tmp_path / "file")])
    assert isinstance(answer.exception, InputError)
    assert "not a folder" in str(answer.exception)


def test_json_is_json_for_a_set_that_is_evaluated(tmp_path, monkeypatch):
    study = {"clips": 1, "means": {"ours": {"f1_50ms": 0.5}}, "kinds": None, "rows": [{"name": "a"}]}
    monkeypatch.setattr("s2s.bundle.load_bundle", lambda *_: SimpleNamespace(manifest=SimpleNamespace(name="b")))
    monkeypatch.setattr("s2s.evaluation.study.clips_of_folder", lambda *_: [])
    monkeypatch.setattr("s2s.evaluation.study.run_study", lambda *_, **__: study)
    monkeypatch.setattr("s2s.evaluation.report.write_report", lambda *_: tmp_path / "index.html")
    asked = ["evaluate", "--set", str(tmp_path), "--report", str(tmp_path), "--no-kinds", "--json"]
    told = json.loads(CliRunner().invoke(app, asked).stdout)
    assert told == {"report": str(tmp_path / "index.html"), "clips": 1, "means": study["means"], "kinds": None}


@pytest.mark.parametrize(("names", "targets"), [
    (["a.webm", "b.MOV"], ["a.mp4", "b.MOV"]), (["a.mkv", "a.mp4"], ["a.mkv.mp4", "a.mp4"]),
    (["a.webm"], ["a.sound.mp4"]), (["a.mkv", "a.webm"], ["a.mp4", "a.webm.mp4"]),
    (["a.mkv", "a.mkv.mp4", "a.mp4"], ["a.mkv.mp4.mp4", "a.mkv.mp4", "a.mp4"]),
    (["b.MP4", "b.webm"], ["b.MP4", "b.webm.mp4"]),
])
def test_a_reencoded_result_has_a_name_that_can_hold_it(tmp_path, monkeypatch, names, targets):
    clips, told = tmp_path / "clips", []
    clips.mkdir()
    for name in names:
        (clips / name).write_bytes(b"x")

    class Generator:
        def generate_file(self, video, target, **_):
            told.append(target.name)
            return GeneratedSound(np.zeros(0), 22_050, np.zeros((80, 0)), [], None, 0.0, 1.0, 0, [])

    monkeypatch.setattr("s2s.pipeline.SoundGenerator.from_bundle", lambda *_, **__: Generator())
    monkeypatch.setattr("s2s.media.gate.check_container", lambda *_: None)
    source = clips if len(names) > 1 else clips / names[0]
    assert CliRunner().invoke(app, ["generate", str(source), "--reencode", "-q"]).exit_code == 0
    assert told == targets


def test_a_name_that_is_too_long_is_one_clear_line(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"x")
    for arguments in ([tmp_path / ("x" * 300)], [clip, "-o", tmp_path / ("y" * 300 + ".mp4")]):
        answer = s2s("generate", *arguments)
        assert answer.returncode == 2
        assert "File name too long" in answer.stderr
        assert "Traceback" not in answer.stderr


def test_an_empty_folder_is_a_clear_error(tmp_path):
    answer = s2s("generate", tmp_path)
    assert (answer.returncode, "holds no video" in answer.stderr) == (2, True)


def test_the_clip_itself_is_never_overwritten(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"precious")
    answer = s2s("generate", clip, "-o", clip)
    assert (answer.returncode, clip.read_bytes()) == (2, b"precious")


def test_payload_is_what_the_prediction_endpoint_takes(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(bytes(range(256)) * 10)
    answer = s2s("payload", clip, "--seed", "3")
    body = json.loads(answer.stdout)
    assert base64.b64decode(body["file"], validate=True) == clip.read_bytes()
    assert body["seed"] == 3
    assert "category" not in body


def test_a_bundle_that_is_not_there_is_our_fault_and_says_so(tmp_path):
    answer = s2s("bundle", "verify", tmp_path / "nothing")
    assert answer.returncode == 1
    assert "no bundle" in answer.stderr
    assert "Traceback" not in answer.stderr
