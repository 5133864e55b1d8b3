"""The error tree. An error is named by whose fault it is.

S2SError
|-- InputError        the person's file or request; the message is shown to them; exit code 2; HTTP 4xx
|-- ArtifactError     a bundle or an install that cannot be used; found at start-up
|-- ProcessingError   our fault; details go to the log only; HTTP 500
|-- Canceled          somebody asked for the work to stop
`-- UpstreamError     a part we depend on (the model server) failed; HTTP 502, 503 or 504
    |-- UpstreamBusy
    |-- UpstreamUnavailable
    `-- UpstreamTimeout

Every error has a stable `code` (snake_case, part of the API), a `message` that says what is wrong, and a `hint` that
says what to do about it. HTTP status numbers live in `s2s.wire.STATUS_OF_CODE` and nowhere else.
"""

from __future__ import annotations


class S2SError(Exception):
    """Base of everything this project raises on purpose."""

    default_code = "internal"

    def __init__(self, message: str, *, code: str | None = None, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(S2SError):
    default_code = "bad_input"


class ArtifactError(S2SError):
    default_code = "bad_artifact"


class ProcessingError(S2SError):
    default_code = "processing_failed"


class Canceled(S2SError):
    default_code = "canceled"


class UpstreamError(S2SError):
    default_code = "upstream_failed"


class UpstreamBusy(UpstreamError):
    default_code = "upstream_busy"


class UpstreamUnavailable(UpstreamError):
    default_code = "upstream_unavailable"


class UpstreamTimeout(UpstreamError):
    default_code = "upstream_timeout"
