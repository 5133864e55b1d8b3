"""TorchServe's door to the generator: one request in, one clip with sound out.

TorchServe loads the only class that this module defines. The request formats and the streamed answer are
`s2s.wire`'s; the streaming itself is in `model_deployment.stream`.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from ts.handler_utils.utils import send_intermediate_predict_response

from model_deployment.folders import remove_leftovers, request_folder
from model_deployment.stream import CancelFlag, LineStream
from s2s import wire
from s2s.config import settings
from s2s.errors import Canceled, InputError
from s2s.events import Progress
from s2s.media.gate import Container, check_container
from s2s.media.mux import WEBM_CODECS
from s2s.pipeline import Options, SoundGenerator

log = logging.getLogger(__name__)


class S2SHandler:
    """`self` holds what is loaded once; a request's state is local to `handle`."""

    def initialize(self, context) -> None:
        """Raises ArtifactError when the bundle cannot be used: the worker then never becomes READY."""
        remove_leftovers()
        self.settings = settings()
        # An absolute path stands for itself; a relative one is inside the archive.
        bundle = Path(context.system_properties["model_dir"], context.model_yaml_config["handler"]["bundle"])
        self.generator = SoundGenerator.from_bundle(bundle, device=self.settings.device)

    def handle(self, data: list[dict], context) -> list[str]:
        """`data`: one request (batchSize is 1). Every error becomes a problem: its own status before the first streamed
        part, an `error` line after it. Nothing escapes, because TorchServe would then hide the reason."""
        started = time.monotonic()
        headers = context.get_all_request_header(0)
        request_id = context.get_request_id(0)
        lines = LineStream(
            lambda line: send_intermediate_predict_response([line], context.request_ids, "ok", 200, context),
            keep_alive_s=self.settings.response_timeout_s / 3,
            stall_s=self.settings.stall_timeout_s,
        )
        status, outcome = 200, "done"
        try:
            request = wire.parse_prediction(_body(data[0]), headers, self.settings.http_limits)
            request_id = request.request_id or request_id
            context.set_response_content_type(0, wire.NDJSON if request.stream else "application/json")
            answer = self._generate(request, lines)
        except Exception as exc:
            problem = wire.Problem.from_error(exc, request_id)
            status, outcome = problem.status, problem.code
            if not isinstance(exc, InputError | Canceled):
                log.exception("request %s failed", request_id)
            if lines.started:
                answer = wire.error_line(problem)
            else:
                context.set_response_content_type(0, "application/problem+json")
                context.set_response_status(code=status, phrase=problem.title, idx=0)
                answer = problem.model_dump_json(exclude_none=True)
        finally:
            lines.close()
        log.info("request %s: %s, %d, %.2f s", request_id, outcome, status, time.monotonic() - started)
        return [answer]

    def _generate(self, request: wire.Prediction, lines: LineStream) -> str:
        """The last part of the answer, or the whole of it when not streamed. No file of the request is left."""
        cancel = CancelFlag(self.settings.cancel_dir, request.request_id)
        with request_folder() as folder, cancel:
            upload = Path(folder, "upload")
            upload.write_bytes(request.file)
            found = check_container(upload, self.settings.http_limits)
            container, reencode = _target(found)
            output = Path(folder, f"out.{container}")

            def on_progress(progress: Progress) -> None:
                if request.stream:
                    lines.progress(progress)

            sound = self.generator.generate_file(
                upload,
                output,
                limits=self.settings.http_limits,
                on_progress=on_progress,
                should_stop=cancel.is_set,
                options=Options(**dict(request.wishes), reencode=reencode),
            )
            video = output.read_bytes()
        if not request.stream:
            return json.dumps({"status": "success", "video": wire.encode_file(video), **sound.report()})
        for line in wire.chunk_lines(video):
            lines.send(line)
        return wire.done_line(sound.report(), video, container)


def _body(row: dict) -> object:
    """The request's body: TorchServe calls it `body`, or `file` where a form was posted."""
    return row.get("body", row.get("file", b""))


def _target(found: Container) -> tuple[str, bool]:
    """The container that comes back, and whether the picture is re-encoded: only where neither of the two holds it."""
    if found.family == "webm" and found.video_codec in WEBM_CODECS:
        return "webm", False
    return "mp4", found.family == "webm" or found.video_codec == "prores" or found.n_edits > 1
