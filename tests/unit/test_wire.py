"""Promises of the protocol between gateway and model server."""

import base64
import json

import pytest

from s2s import wire
from s2s.config import Limits, Settings
from s2s.errors import Canceled, InputError, ProcessingError, S2SError, UpstreamError
from s2s.events import Moment, Progress, Stage

LIMITS = Limits(max_bytes=1000, max_duration_s=10)
VIDEO = b"\0\0\0\x18ftypisom" + bytes(range(200))
BODY = {"file": base64.b64encode(VIDEO).decode(), "seed": 4, "category": "drum"}


@pytest.mark.parametrize(("body", "headers"), [
    (BODY, {"Content-Type": "application/json"}),
    ([BODY], {}),
    (json.dumps(BODY), {"content-type": "text/plain"}),
    (bytearray(json.dumps([BODY]).encode()), {"content-type": "application/json; charset=utf-8"}),
    (b"  " + json.dumps(BODY).encode(), {}),
    (bytearray(VIDEO), {"Content-Type": "video/mp4", "X-S2S-Seed": "4", "X-S2S-Category": "drum"}),
])
def test_every_form_means_the_same(body, headers):
    request = wire.parse_prediction(body, headers, LIMITS)
    assert (request.file, request.wishes) == (VIDEO, wire.Wishes(seed=4, category="drum"))


def test_a_stream_can_be_asked_for_in_two_ways():
    assert wire.parse_prediction(BODY | {"stream": True}, {}, LIMITS).stream
    assert wire.parse_prediction(BODY, {"Accept": wire.NDJSON}, LIMITS).stream
    assert not wire.parse_prediction(BODY, {"Accept": "*/*"}, LIMITS).stream


WISHES = [
    wire.Wishes(),
    wire.Wishes(seed=2**63 - 1, category="große Trommel %", offset_ms=-12.5, gain_db=3),
    wire.Wishes(events=(Moment(0.25), Moment(1.5, 0.3)), seed=4, category="große Trommel %"),
    wire.Wishes(events=()),
]


@pytest.mark.parametrize("wishes", WISHES)
@pytest.mark.parametrize("extra", range(3))
def test_what_the_gateway_sends_is_what_the_model_server_reads(wishes, extra, tmp_path):
    video = tmp_path / "clip.mp4"
    video.write_bytes(VIDEO + bytes(extra))
    headers, parts = wire.request_parts(video, wishes, "job.1")
    body = b"".join(parts)
    assert all(value.isascii() for value in headers.values())
    assert int(headers["content-length"]) == len(body)
    request = wire.parse_prediction(body, headers, LIMITS)
    assert request == wire.Prediction(video.read_bytes(), wishes, stream=True, request_id="job.1")


@pytest.mark.parametrize(("body", "headers", "code"), [
    (b"", {}, "bad_request"), (b"{", {}, "bad_request"), (b"[" * 100_000, {}, "bad_request"), (5, {}, "bad_request"),
    ([BODY, BODY], {}, "bad_request"), ({}, {}, "bad_request"), (BODY | {"extra": 1}, {}, "bad_request"),
    (BODY | {"seed": -1}, {}, "bad_request"), (BODY | {"seed": 2**63}, {}, "bad_request"),
    (BODY | {"events": [{"time_s": -1}]}, {}, "bad_request"), (BODY | {"events": [{"at": 1}]}, {}, "bad_request"),
    (BODY | {"events": [{"time_s": 1, "strength": 0}]}, {}, "bad_request"),
    (BODY | {"events": [{"time_s": 1, "loud": 1}]}, {}, "bad_request"),
    (BODY | {"events": [{"time_s": 1e999}]}, {}, "bad_request"), (BODY | {"gain_db": 100}, {}, "bad_request"),
    (BODY | {"events": [{"time_s": 1}] * 2001}, {}, "bad_request"), (VIDEO, {"x-s2s-gain-db": "nan"}, "bad_request"),
    (BODY | {"file": "AAA"}, {}, "bad_base64"), (BODY | {"file": "AA AA"}, {}, "bad_base64"),
    (BODY | {"file": "A" * 2000}, {}, "too_large"), (b"\0" * 1001, {}, "too_large"),
    (VIDEO, {"x-s2s-seed": "one"}, "bad_request"), (VIDEO, {"x-s2s-request-id": "../x"}, "bad_request"),
    (VIDEO, {"x-s2s-request-id": ".."}, "bad_request"), (VIDEO, {"content-type": "application/json"}, "bad_request"),
])
def test_bad_requests_are_the_senders_fault(body, headers, code):
    with pytest.raises(InputError) as told:
        wire.parse_prediction(body, headers, LIMITS)
    assert told.value.code == code
    assert 400 <= wire.STATUS_OF_CODE[code] < 500


def test_the_largest_clip_with_the_most_events_fits_in_one_request():
    limits = Settings().http_limits
    moments = [{"time_s": 100 + i / 1000, "strength": 0.123456789, "confidence": 0.123456789} for i in range(2000)]
    body = json.dumps({"file": "", "seed": 2**63 - 1, "category": "drum", "events": moments})
    assert len(body) + 4 * -(-limits.max_bytes // 3) < limits.max_request_bytes


def test_a_video_survives_the_stream():
    video = bytes(range(256)) * 9000
    lines = list(wire.chunk_lines(video))
    assert len(lines) == 4
    assert all(len(line) <= 1_001_000 and line.endswith("\n") for line in lines)
    events = [wire.parse_line(line) for line in lines]
    assert b"".join(base64.b64decode(event.data["data"]) for event in events) == video
    done = wire.parse_line(wire.done_line({"seed": 1}, video, "mp4"))
    assert (done.event, done.data["video_bytes"], done.data["container"]) == ("done", len(video), "mp4")


def test_progress_survives_the_stream():
    progress = Progress(Stage.MEL, 3, 8)
    event = wire.parse_line(wire.progress_line(progress))
    assert (event.event, event.data) == ("progress", progress.to_dict())


@pytest.mark.parametrize("line", ["", "hello", "5", "[]", '["event"]', "{}", '{"event": "surprise"}', "[" * 100_000])
def test_other_words_are_not_believed(line):
    with pytest.raises(UpstreamError):
        wire.parse_line(line)


def test_only_messages_for_people_are_told():
    told = wire.Problem.from_error(InputError("Too long.", code="too_long", hint="Cut it."), "id")
    assert (told.status, told.detail, told.hint, told.request_id) == (422, "Too long.", "Cut it.", "id")
    for secret in (ProcessingError("secret"), ValueError("secret"), MemoryError("secret")):
        assert "secret" not in wire.Problem.from_error(secret).model_dump_json()
        assert wire.Problem.from_error(secret).status == 500


def test_every_default_code_has_a_status():
    def tree(kind: type[S2SError]):
        yield kind
        for child in kind.__subclasses__():
            yield from tree(child)

    assert {kind.default_code for kind in tree(S2SError)} <= set(wire.STATUS_OF_CODE)
    assert wire.STATUS_OF_CODE[Canceled.default_code] == 409
