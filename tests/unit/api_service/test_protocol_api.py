"""What is not body is limited too: heads that never end, in size or in time, chunk framing, trailers."""

import asyncio

import pytest

from api_service.api.protocol import HEAD_BYTES, GatewayProtocol

HEAD = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
CHUNKED = (
    b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


async def answer(gateway, *parts: bytes, within_s: float = 60.0) -> bytes:
    """All that comes back for these bytes until the gateway hangs up; nothing where it does so amid our words."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.base_url.port)
    told = asyncio.create_task(reader.read())
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
    except ConnectionError:
        pass  # it has hung up already
    try:
        return await asyncio.wait_for(told, within_s)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(GatewayProtocol, "head_within_s", 0.5)


async def test_a_head_that_never_ends_is_given_up_and_disturbs_nobody(impatient, gateway):
    slow = [asyncio.create_task(answer(gateway, HEAD + b"X-More: ")) for _ in range(50)]
    await asyncio.sleep(0)
    assert (await gateway.get("/livez")).status_code == 200
    for said in await asyncio.gather(*slow):
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"too_slow"' in said


async def test_a_connection_that_asks_nothing_is_closed_without_a_word(impatient, gateway):
    assert await answer(gateway) == b""


async def test_the_second_head_of_a_connection_is_awaited_no_longer_than_the_first(impatient, gateway):
    said = await answer(gateway, HEAD + b"\r\n" + HEAD)
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


async def test_a_head_may_not_be_large(gateway):
    line = b"X-Many: " + b"a" * 8000 + b"\r\n"
    said = await answer(gateway, HEAD, *[line] * (20 * HEAD_BYTES // len(line)))
    assert said == b"" or (said.startswith(b"HTTP/1.1 431 ") and b'"code":"head_too_large"' in said)
    assert (await gateway.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    "endless",
    [b"5;" + b"x" * 8000, b"0\r\nX-Trailer: " + b"a" * 8000, b"0\r\n" + b"X-Trailer: a\r\n" * 600],
    ids=["chunk extension", "trailer", "trailers"],
)
async def test_framing_and_trailers_may_not_be_large(gateway, endless):
    said = await answer(gateway, CHUNKED, endless, *[endless[-8000:]] * 40)
    assert b"202" not in said.split(b"\r\n")[0]
    assert (await gateway.get("/livez")).status_code == 200


async def test_chunks_of_one_byte_are_taken(gateway, clip):
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + clip + b"\r\n--b--\r\n"
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in form) + b"0\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.base_url.port)
    writer.write(CHUNKED + body)
    assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 202 ")
    writer.close()
