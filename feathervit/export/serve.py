"""`feathervit serve`: serves a web page and a JSON endpoint on this machine, with the model in memory.

The page is that of `--to web`, but answers come from the endpoint, so that no browser runtime is needed. The server uses only
the standard library. The size and time of requests are limited. Requests that name another host are refused, so that websites
cannot access the model through the browser of a visitor.
"""

from __future__ import annotations

import email.policy
import json
import threading
from email.parser import BytesParser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

from ..errors import ConfigError, FeatherVitError
from ..evaluation.inference import Predictor
from ..results import read_result
from .pages import page_files, task

MOST_BYTES = 32 * 2**20  # per request
MOST_IMAGES = 64  # per request
SECONDS = 30  # timeout of a connection
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".json": "application/json"}


class Refused(Exception):
    """Raised for a request that is answered with an error. Holds the status and the reason."""

    def __init__(self, status: HTTPStatus, why: str):
        super().__init__(why)
        self.status = status


def serve(checkpoint: str | Path, predictor: Predictor, host: str = "127.0.0.1", port: int = 8000) -> Server:
    """Returns a server, bound to its address and warmed up. `serve_forever()` starts it.

    `port` 0: any free port. Raises ConfigError if the address is not available.
    """
    try:
        server = Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot serve on {host}, port {port}: {why}; choose another with --port") from error
    server.files = {"/" + name: data for name, data in page_files().items()}
    server.files["/"] = server.files["/index.html"]
    server.files["/model.json"] = json.dumps(describe(checkpoint, predictor)).encode()
    server.predictor = predictor
    side = predictor.config.img_size
    predictor.probabilities(torch.zeros(1, predictor.in_chans, side, side, dtype=torch.uint8))
    return server


def describe(checkpoint: str | Path, predictor: Predictor) -> dict[str, Any]:
    """Returns the description of the model for the page. The accuracy is that of result.json, if it exists."""
    config, figures = predictor.config, {}
    if (path := Path(checkpoint) / "result.json").exists():
        result = read_result(path)
        metrics = result.test or result.val or {}
        figures = {name: metrics[name] for name in ("top1", "n") if name in metrics}
    return {
        "endpoint": True,
        "task": task(config.data),
        "model": config.model,
        "class_names": list(predictor.class_names),
        "img_size": config.img_size,
        "channels": predictor.in_chans,
        "scale": config.images.scale,
        "parameters": sum(p.numel() for p in predictor.model.parameters()),
        "held_out": True,
        "threshold": predictor.other.threshold if predictor.other else None,
        **figures,
    }


class Server(ThreadingHTTPServer):
    daemon_threads = True
    files: dict[str, bytes]
    predictor: Predictor

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]):
        super().__init__(address, handler)
        self.lock = threading.Lock()  # the model processes one request at a time

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors: a closed connection is not an error of the server."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = SECONDS
    server_version, sys_version = "feathervit", ""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        try:
            self._check_host()
            if path not in self.server.files:
                raise Refused(
                    HTTPStatus.NOT_FOUND, f"there is no {path} here; the page is at /, POST images to /predict"
                )
        except Refused as refused:
            return self._answer(refused.status, {"error": str(refused)})
        kind = KINDS[Path(path).suffix or ".html"]
        self._send(HTTPStatus.OK, self.server.files[path], kind)

    def do_POST(self) -> None:
        try:
            self._check_host()
            place = urlsplit(self.path)
            if place.path != "/predict":
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no {place.path} here; POST images to /predict")
            top, least = _numbers(parse_qs(place.query))
            images = _images(self.headers.get("Content-Type", ""), self._body())
            self._answer(HTTPStatus.OK, predictions(self.server, images, top, least))
        except Refused as refused:
            self._answer(refused.status, {"error": str(refused)})

    def _check_host(self) -> None:
        """Raises Refused if the request names another host, for example from a website whose name resolves to this machine."""
        if self.server.server_address[0] in LOOPBACK:
            for name in filter(None, (self.headers.get("Host"), urlsplit(self.headers.get("Origin", "")).netloc)):
                if urlsplit(f"//{name}").hostname not in LOOPBACK:
                    raise Refused(HTTPStatus.FORBIDDEN, "the request names another machine; --host allows that")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the request needs a Content-Length")
        if int(length) > MOST_BYTES:
            left = min(int(length), 2 * MOST_BYTES)  # clients read the answer only after sending the body
            while left > 0 and (part := self.rfile.read(min(left, 2**16))):
                left -= len(part)
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may hold {MOST_BYTES // 2**20} MiB")
        return self.rfile.read(int(length))

    def _answer(self, status: HTTPStatus, found: dict[str, Any]) -> None:
        self._send(status, json.dumps(found).encode(), KINDS[".json"])

    def _send(self, status: HTTPStatus, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Does not log requests."""


def predictions(server: Server, images: list[tuple[str, bytes]], top: int, least: float | None) -> dict[str, Any]:
    """Returns predictions in the format of `predict --json`. Raises Refused if no image can be read."""
    squares, failures = {}, []
    for name, data in images:
        try:
            squares[name] = server.predictor.read(data)
        except FeatherVitError as error:
            failures.append(f"{name}: {' '.join(str(error).split())}")
    if not squares:
        raise Refused(HTTPStatus.BAD_REQUEST, "; ".join(failures) or "no images in the request")
    with server.lock:
        results = server.predictor.classify(list(squares.values()), list(squares), top, least)
    return {"predictions": [prediction.to_dict() for prediction in results], "unreadable": failures}


def _numbers(query: dict[str, list[str]]) -> tuple[int, float | None]:
    """Parses `top` and `min_confidence` of a query (None: the threshold of the calibration). Raises Refused."""
    try:
        top = int(query.get("top", ["3"])[-1])
        least = float(query["min_confidence"][-1]) if "min_confidence" in query else None
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"top and min_confidence must be numbers: {error}") from error
    if top < 1 or not 0 <= (least or 0) <= 1:
        raise Refused(HTTPStatus.BAD_REQUEST, f"top must be at least 1, min_confidence from 0 to 1; got {top}, {least}")
    return top, least


def _images(kind: str, body: bytes) -> list[tuple[str, bytes]]:
    """Returns (name, bytes) of each image of a request: its body, or the files of a form. Raises Refused."""
    if not kind.lower().startswith("multipart/form-data"):
        return [("image", body)] if body else []
    message = BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + body
    )
    parts = [part for part in message.iter_parts() if part.get_filename()]
    if len(parts) > MOST_IMAGES:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may hold {MOST_IMAGES} images; got {len(parts)}")
    images: dict[str, bytes] = {}
    for part in parts:
        name = part.get_filename()
        images[name if name not in images else f"{name} ({len(images) + 1})"] = part.get_payload(decode=True) or b""
    return list(images.items())
