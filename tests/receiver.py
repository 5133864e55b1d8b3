"""A receiver of webhooks on 127.0.0.1, which keeps what it hears and answers as a test tells it to."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Heard:
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict:
        """The payload. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """`answers`: statuses, or functions of the handler, for the coming requests; then 204 for all."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None):
        self.heard: list[Heard] = []
        self.answers: list[int | Callable[[BaseHTTPRequestHandler], None]] = []
        self.at_once: Counter[str] = Counter()  # id -> the most requests that were open for it at the same time
        self.go_on = threading.Event()
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver._hear(self, Heard(self.path, {k.lower(): v for k, v in self.headers.items()}, body))

            def do_GET(self) -> None:  # who follows a redirect comes back like this
                receiver._hear(self, Heard(self.path, {"webhook-id": "GET"}, b""))

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                """Clients hang up on purpose."""

        self._server = Server((host, port), Handler)
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def _hear(self, handler: BaseHTTPRequestHandler, heard: Heard) -> None:
        with self._lock:
            self.heard.append(heard)
            answer = self.answers.pop(0) if self.answers else 204
            self._open[heard.id] += 1
            self.at_once[heard.id] = max(self.at_once[heard.id], self._open[heard.id])
        try:
            if callable(answer):
                answer(handler)
            else:
                handler.send_response(answer)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
        finally:
            with self._lock:
                self._open[heard.id] -= 1

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Says nothing until `go_on`."""
        self.go_on.wait(120)
        handler.send_response(204)
        handler.end_headers()

    def redirect_to(self, url: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("Location", url)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return answer

    @staticmethod
    def endless_body(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    @staticmethod
    def endless_head(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            handler.wfile.write(b"X-More: 1\r\n")
            time.sleep(0.05)

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
