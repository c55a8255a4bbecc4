"""`feathervit serve`: serves a web page and a JSON endpoint on this machine, with the model in memory.

The page is that of `--to web`, but answers come from the endpoint, so that no browser runtime is needed. The server uses only
the standard library. The size and time of requests are limited. Requests that name another host are refused, so that websites
cannot access the model through the browser of a visitor.
"""

from __future__ import annotations

import email.message
import email.policy
import io
import itertools
import json
import socket
import threading
import time
from dataclasses import asdict
from email.parser import HeaderParser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

from ..data.cache import look
from ..data.scale import faults
from ..errors import ConfigError, FeatherVitError
from ..evaluation.inference import Predictor
from ..results import read_result
from .job import facts
from .pages import page_files, task

MOST_BYTES = 32 * 2**20  # per request
MOST_IMAGES = 64  # per request
MOST_REQUESTS = 16  # at the same time; others wait. They bound the memory together with MOST_BYTES
MOST_HEADERS = 8192  # bytes, per part of a form
SECONDS = 30  # to receive a request, and to send its answer
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
    figures = {}
    if (path := Path(checkpoint) / "result.json").exists():
        result = read_result(path)
        metrics = result.test or result.val or {}
        figures = {name: metrics[name] for name in ("top1", "n") if name in metrics}
    return {
        **facts(predictor),
        "endpoint": True,
        "task": task(predictor.config.data),
        "parameters": sum(p.numel() for p in predictor.model.parameters()),
        "held_out": True,
        **figures,
    }


class Server(ThreadingHTTPServer):
    daemon_threads = True
    files: dict[str, bytes]
    predictor: Predictor

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]):
        super().__init__(address, handler)
        self.lock = threading.Lock()  # the model processes one request at a time
        self.slots = threading.BoundedSemaphore(MOST_REQUESTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.slots.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # the thread was not started
            self.slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.release()

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors: a closed connection is not an error of the server."""


class UntilDeadline(io.RawIOBase):
    """Reads from a connection until `seconds` after its creation, and then raises TimeoutError.

    The timeout of a socket starts again with each byte, so that a slow client could keep its connection for ever.
    """

    def __init__(self, connection: socket.socket, seconds: float):
        self.connection, self.end = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "feathervit", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(UntilDeadline(self.connection, SECONDS))

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        try:
            self._check_host()
            if path == "/predict":
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "POST images to /predict")
            if path not in self.server.files:
                raise Refused(
                    HTTPStatus.NOT_FOUND, f"there is no {path} here; the page is at /, POST images to /predict"
                )
        except Refused as refused:
            return self._answer(refused.status, {"error": str(refused)})
        kind = KINDS[Path(path).suffix or ".html"]
        self._send(HTTPStatus.OK, self.server.files[path], kind)

    do_HEAD = do_GET

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
        """Raises Refused if the request names another host, for example from a website whose name resolves to this machine.

        An origin without a host ("null") is refused: browsers send it for local files and sandboxed pages.
        """
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        addresses = [address for address in (host and f"//{host}", origin) if address is not None]
        if self.server.server_address[0] in LOOPBACK and not all(map(_is_local, addresses)):
            raise Refused(HTTPStatus.FORBIDDEN, "the request names another machine; --host allows that")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the request needs a Content-Length")
        try:
            if int(length) > MOST_BYTES:
                left = min(int(length), 2 * MOST_BYTES)  # clients read the answer only after sending the body
                while left > 0 and (part := self.rfile.read(min(left, 2**16))):
                    left -= len(part)
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may hold {MOST_BYTES // 2**20} MiB")
            return self.rfile.read(int(length))
        except TimeoutError as error:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, f"the request took over {SECONDS} s to arrive") from error

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers a request that the base class refuses, such as one with another method."""
        status = HTTPStatus(code)
        self._answer(status, {"error": message or status.phrase})

    def _answer(self, status: HTTPStatus, found: dict[str, Any]) -> None:
        self._send(status, json.dumps(found).encode(), KINDS[".json"])

    def _send(self, status: HTTPStatus, data: bytes, kind: str) -> None:
        self.connection.settimeout(SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "POST")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Does not log requests."""


def predictions(server: Server, images: list[tuple[str, bytes]], top: int, least: float | None) -> dict[str, Any]:
    """Returns predictions in the format of `predict --json`. Raises Refused if no image can be read."""
    predictor = server.predictor
    squares, failures = {}, []
    for name, data in images:
        try:
            squares[name] = predictor.read(data)
        except FeatherVitError as error:
            failures.append(f"{name}: {' '.join(str(error).split())}")
    if not squares:
        raise Refused(HTTPStatus.BAD_REQUEST, "; ".join(failures) or "no images in the request")
    values = look([data for _, data in images], predictor.config.reading.max_image_gib)
    with server.lock:
        results = predictor.classify(list(squares.values()), list(squares), top, least)
    return {
        "predictions": [prediction.to_dict() for prediction in results],
        "other": asdict(predictor.other) if predictor.other and least is None else None,
        "unreadable": failures,
        "warnings": list(faults(values, predictor.config.images.scale)),
    }


def _is_local(address: str) -> bool:
    try:
        return urlsplit(address).hostname in LOOPBACK
    except ValueError:  # not an address
        return False


def _numbers(query: dict[str, list[str]]) -> tuple[int, float | None]:
    """Parses `top` and `min_confidence` of a query (None: the threshold of the calibration). Raises Refused."""
    if unknown := query.keys() - {"top", "min_confidence"}:
        raise Refused(HTTPStatus.BAD_REQUEST, f"unknown in the query: {min(unknown)}; it takes top and min_confidence")
    values = query.get("top", ["3"])[-1], query.get("min_confidence", [None])[-1]
    try:
        top, least = int(values[0]), None if values[1] is None else float(values[1])
    except ValueError:
        top, least = 0, None
    if top < 1 or not 0 <= (least or 0) <= 1:
        raise Refused(
            HTTPStatus.BAD_REQUEST,
            f"top must be a whole number of at least 1, min_confidence a number from 0 to 1; got {values[0]}, {values[1]}",
        )
    return top, least


def _images(kind: str, body: bytes) -> list[tuple[str, bytes]]:
    """Returns (name, bytes) of each image of a request: its body, or the parts of a form. Names are unique. Raises Refused.

    The form is split by hand, because the parser of `email` needs many times the memory of the body.
    """
    if not kind.lower().startswith("multipart/form-data"):
        return [("image", body)] if body else []
    boundary = _headers(f"Content-Type: {kind}").get_boundary("").encode("latin-1", "replace")
    if not boundary:
        raise Refused(HTTPStatus.BAD_REQUEST, "the form has no boundary in its Content-Type")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MOST_IMAGES + 2)[1:]  # the rest is too much
    parts = list(itertools.takewhile(lambda part: not part.startswith(b"--"), parts))
    if len(parts) > MOST_IMAGES:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may hold {MOST_IMAGES} images")
    images: dict[str, bytes] = {}
    for part in parts:
        start = part.find(b"\r\n\r\n", 0, MOST_HEADERS)
        if start < 0:
            raise Refused(HTTPStatus.BAD_REQUEST, "a part of the form has no headers, or too long ones")
        headers = _headers(part[:start].decode("utf-8", "replace").lstrip())
        name = str(headers.get_filename() or headers.get_param("name", "image", "Content-Disposition"))
        names = (name, *(f"{name} ({number})" for number in range(2, MOST_IMAGES + 1)))
        images[next(name for name in names if name not in images)] = part[start + 4 :]
    return list(images.items())


def _headers(text: str) -> email.message.Message:
    return HeaderParser(policy=email.policy.HTTP).parsestr(text)
