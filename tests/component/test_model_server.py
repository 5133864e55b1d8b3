"""Promises of the handler, through the real TorchServe."""

import base64
import json
import time
from pathlib import Path

import av
import httpx
import numpy as np
import psutil
import pytest
from tests.clips import edited, film, heard, packets, seen

from s2s import wire

PREDICT = "/predictions/s2s"


def payload(clip: Path, **fields) -> dict:
    return {"file": base64.b64encode(clip.read_bytes()).decode(), **fields}


def answered(answer: httpx.Response, folder: Path, name: str = "answer.mp4") -> tuple[dict, Path]:
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["status"] == "success"
    path = folder / name
    path.write_bytes(base64.b64decode(told.pop("video"), validate=True))
    return told, path


def test_every_form_of_request_gives_the_same_clip_with_sound(model_server, clip, tmp_path):
    body = json.dumps(payload(clip))
    forms = {
        "an object": {"content": body, "headers": {"content-type": "application/json"}},
        "a list": {"content": f"[{body}]", "headers": {"content-type": "application/json; charset=utf-8"}},
        "no content type": {"content": body},
        "raw bytes": {"content": clip.read_bytes(), "headers": {"content-type": "video/mp4"}},
        "a form": {"files": {"file": ("a.mp4", clip.read_bytes(), "video/mp4")}},
    }
    results = set()
    for name, form in forms.items():
        told, video = answered(model_server.post(PREDICT, **form), tmp_path)
        assert told["duration_s"] == pytest.approx(1.0, abs=0.05), name
        assert packets(video) == packets(clip), "the picture is untouched"
        sound = heard(video, 22_050)
        assert len(sound) == pytest.approx(22_050, abs=2048)
        assert np.abs(sound).max() > 1e-4
        results.add(video.read_bytes())
    assert len(results) == 1, "the same clip and seed give the same bytes"


def test_another_seed_is_another_take_and_the_kind_can_be_chosen(stack, model_server, clip, tmp_path):
    takes = {answered(model_server.post(PREDICT, json=payload(clip, seed=seed)), tmp_path)[1].read_bytes()
             for seed in (0, 1)}
    assert len(takes) == 2
    kind = json.loads((stack.settings.bundle / "bundle.json").read_text())["categories"][-1]
    told, _ = answered(model_server.post(PREDICT, json=payload(clip, category=kind)), tmp_path)
    assert (told["category"], told["category_confidence"]) == (kind, 1.0)


def test_a_webm_comes_back_as_webm(model_server, tmp_path):
    clip = film(tmp_path / "clip.webm", seconds=0.6, codec="vp8")
    _, video = answered(model_server.post(PREDICT, json=payload(clip)), tmp_path, "answer.webm")
    assert packets(video) == packets(clip)
    with av.open(str(video)) as file:
        assert file.format.name == "matroska,webm"
        assert file.streams.audio[0].codec_context.name in ("opus", "libopus")


def test_a_picture_that_no_browser_plays_as_it_is_comes_back_as_an_mp4_that_plays(model_server, tmp_path):
    whole = film(tmp_path / "whole.mp4", seconds=2)
    for clip in (film(tmp_path / "clip.mkv", seconds=0.6), film(tmp_path / "clip.mov", seconds=0.6, codec="prores"),
                 edited(whole, tmp_path / "strung.mp4", (0, 0.5), (1.5, 0.5))):
        _, video = answered(model_server.post(PREDICT, json=payload(clip)), tmp_path)
        assert [time_s for time_s, _ in seen(video)] == pytest.approx([time_s for time_s, _ in seen(clip)], abs=0.002)
        with av.open(str(video)) as file:
            assert [stream.codec_context.name for stream in file.streams] == ["h264", "aac"]


def test_a_stream_tells_true_progress_and_ends_with_done(model_server, clip, tmp_path):
    lines, arrived = [], []
    with model_server.stream("POST", PREDICT, json=payload(clip, stream=True)) as answer:
        assert answer.headers["content-type"] == wire.NDJSON
        for line in answer.iter_lines():
            lines.append(wire.parse_line(line))
            arrived.append(time.monotonic())
    names = [line.event for line in lines]
    assert names == sorted(names, key=["progress", "chunk", "done"].index)
    assert names[-1] == "done"
    assert arrived[-1] - arrived[0] > 0.05, "lines come while the work goes on"
    stages = list(dict.fromkeys(line.data["stage"] for line in lines if line.event == "progress"))
    assert stages == ["frames", "features", "events", "mel", "vocode", "mux"]
    fractions = [line.data["fraction"] for line in lines if line.event == "progress"]
    assert fractions == sorted(fractions)
    video = b"".join(base64.b64decode(line.data["data"]) for line in lines if line.event == "chunk")
    assert lines[-1].data["video_bytes"] == len(video)
    (tmp_path / "streamed.mp4").write_bytes(video)
    assert packets(tmp_path / "streamed.mp4") == packets(clip)


def bad_requests(clip: Path) -> dict[str, tuple[dict, str]]:
    as_json = {"headers": {"content-type": "application/json"}}
    as_video = {"headers": {"content-type": "video/mp4"}}
    return {
        "malformed JSON": ({"content": '{"file": "AAAA', **as_json}, "bad_request"),
        "deep JSON": ({"content": "[" * 100_000, **as_json}, "bad_request"),
        "no file": ({"json": {"seed": 1}}, "bad_request"),
        "an unknown field": ({"json": payload(clip, sed=1)}, "bad_request"),
        "a seed that is no number": ({"json": payload(clip, seed="x")}, "bad_request"),
        "a list of two": ({"json": [payload(clip)] * 2}, "bad_request"),
        "an empty body": ({"content": b"", **as_video}, "bad_request"),
        "junk in base64": ({"json": {"file": "####"}}, "bad_base64"),
        "text": ({"json": {"file": base64.b64encode(b"hello" * 99).decode()}}, "not_a_video"),
        "a playlist": ({"content": b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", **as_video}, "not_a_video"),
        "a picture": ({"content": b"\x89PNG\r\n\x1a\n" + b"\0" * 64, **as_video}, "not_a_video"),
        "half a file": ({"content": clip.read_bytes()[: clip.stat().st_size // 2], **as_video}, "truncated"),
        "an unknown kind": ({"json": payload(clip, category="unicorn")}, "unknown_category"),
        "an unknown kind, streamed": ({"json": payload(clip, category="unicorn", stream=True)}, "unknown_category"),
        "a path as request id": ({"json": payload(clip), "headers": {"x-s2s-request-id": "../../x"}}, "bad_request"),
    }


def test_bad_input_is_a_clear_4xx_and_leaves_nothing_behind(stack, model_server, clip):
    before = stack.ready_workers()
    for name, (request, code) in bad_requests(clip).items():
        answer = model_server.post(PREDICT, **request)
        assert 400 <= answer.status_code < 500, (name, answer.text)
        problem = wire.Problem.model_validate_json(answer.content)
        assert (problem.code, problem.status) == (code, answer.status_code), name
        assert problem.detail
        assert problem.hint
    assert stack.ready_workers() == before, "the worker is the same as before"
    assert not list(stack.run_dir.glob("s2s-request-*")), "no file of a request is left"
    assert model_server.post(PREDICT, json=payload(clip)).status_code == 200


def test_a_busy_worker_says_so_at_once(model_server, stack, long_clip, clip):
    headers, body = wire.request_parts(long_clip, wire.Wishes(), "busy.1")
    with model_server.stream("POST", PREDICT, content=body, headers=headers) as first:
        lines = first.iter_lines()
        assert wire.parse_line(next(lines)).event == "progress", "the only worker is at it"
        started = time.monotonic()
        second = httpx.post(stack.model_server_url + PREDICT, json=payload(clip), timeout=120, trust_env=False)
        took_s = time.monotonic() - started
        last = [wire.parse_line(line) for line in lines][-1]
    assert second.status_code == 503
    assert took_s < 10.0
    assert last.event == "done"


def test_a_request_can_be_stopped_by_a_flag(model_server, stack, long_clip):
    flag = stack.settings.cancel_dir / "stop-me.1"
    headers, body = wire.request_parts(long_clip, wire.Wishes(), "stop-me.1")
    with model_server.stream("POST", PREDICT, content=body, headers=headers) as answer:
        lines = answer.iter_lines()
        assert wire.parse_line(next(lines)).event == "progress"
        flag.touch()
        started = time.monotonic()
        last = [wire.parse_line(line) for line in lines][-1]
    assert (last.event, last.data["code"]) == ("error", "canceled")
    assert time.monotonic() - started < 20.0
    assert not flag.exists()


def test_nothing_of_the_model_server_is_open_to_the_network(stack, model_server):
    jvm = psutil.Process(stack.children["model server"].pid)
    family = [jvm, *jvm.children(recursive=True)]
    listening = [c.laddr for process in family for c in process.net_connections("inet") if c.status == "LISTEN"]
    assert listening
    assert all(address.ip.removeprefix("::ffff:") in ("127.0.0.1", "::1") for address in listening)
    for address in listening:  # management, which could load other code, answers on none of them
        for method, path in (("GET", "/models"), ("POST", "/workflows?url=http://127.0.0.1:9/x.war"),
                             ("POST", "/models?url=x.mar"), ("GET", "/workflows")):
            try:
                status = httpx.request(method, f"http://127.0.0.1:{address.port}{path}", timeout=5).status_code
            except httpx.HTTPError:
                continue  # gRPC
            assert status >= 400, (address, path)


def test_the_management_socket_loads_nothing_from_elsewhere(stack):
    transport = httpx.HTTPTransport(uds=str(stack.management_socket))
    with httpx.Client(transport=transport, base_url="http://management", timeout=10) as management:
        assert management.post("/models?url=http://127.0.0.1:9/x.mar").status_code >= 400
        assert management.post("/workflows?url=http://127.0.0.1:9/x.war").status_code == 404
        assert management.delete("/models/s2s").status_code >= 400
