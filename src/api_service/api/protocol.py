"""HTTP/1.1 of uvicorn (httptools) with an end to its patience and its memory: request heads, chunk framing, trailers.

Bodies are limited where they are read (`uploads.py`). What is not body nobody reads, so it is limited here: a head must
be whole within HEAD_WITHIN_S, and around a body there may be HEAD_BYTES and FRAMING times its size, which is enough for
chunks of one byte each.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api_service.api.problems import MEDIA_TYPE
from s2s.errors import InputError
from s2s.wire import Problem

HEAD_WITHIN_S = 20.0
HEAD_BYTES = 65_536
FRAMING = 8


class GatewayProtocol(HttpToolsProtocol):
    head_within_s = HEAD_WITHIN_S

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._spare_bytes, self._was_asked = HEAD_BYTES, False  # browsers open connections that they may need
        self._head_timer: asyncio.TimerHandle | None = None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_whole()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._was_asked = True
        self._spare_bytes -= len(data)  # a head's first read is not counted, see on_message_begin
        super().data_received(data)
        if self._spare_bytes < 0:
            self._refuse(InputError("The request's head is too large.", code="head_too_large"))

    def on_message_begin(self) -> None:
        self._spare_bytes = HEAD_BYTES
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_is_whole()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._spare_bytes += FRAMING * len(body)
        super().on_body(body)

    def _expect_head(self) -> None:
        if self._head_timer is None:
            slow = InputError("The request's head did not arrive in time.", code="too_slow")
            self._head_timer = self.loop.call_later(self.head_within_s, self._refuse, slow)

    def _head_is_whole(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: InputError) -> None:
        """Says so, unless nothing was asked or an answer is already on its way, and hangs up."""
        if self.transport.is_closing():
            return
        if self._was_asked and (self.cycle is None or self.cycle.response_complete):
            problem = Problem.from_error(error)
            body = problem.model_dump_json(exclude_none=True).encode()
            head = f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: {MEDIA_TYPE}\r\n"
            self.transport.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def options() -> dict[str, Any]:
    """Keyword arguments of `uvicorn.Config` for a gateway. Whose word on the caller's address is believed is said by
    FORWARDED_ALLOW_IPS, which uvicorn reads itself."""
    return {
        "http": GatewayProtocol,
        "ws": "none",
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": 2,
        "timeout_keep_alive": 75,  # longer than a proxy in front keeps its idle connections
    }
