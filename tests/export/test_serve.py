"""The server: its answers equal Python's, requests are limited, other hosts are refused, and the page works with it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import select
import socket
import threading
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import feathervit
from feathervit.cli import main
from feathervit.errors import ConfigError
from feathervit.export import serve as module
from feathervit.export.serve import serve


@pytest.fixture(scope="module")
def server(digits_run):
    with serve(digits_run, feathervit.load(digits_run), port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def digits():
    """(PNG, pixels) of two held-out digits."""
    images = feathervit.load_data("digits", img_size=16).test.images[:2, 0].numpy()
    return [(png(pixels), pixels) for pixels in images]


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def request(server, path: str, body: bytes | None = None, **headers: str):
    """Returns (status, answer). Posts the body if there is one."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", path, body, headers)
    response = connection.getresponse()
    text = response.read()
    return response.status, json.loads(text) if response.getheader("Content-Type") == "application/json" else text


def test_predictions_equal_pythons(server, digits, digits_run):
    for data, pixels in digits:
        status, found = request(server, "/predict?top=10", data)
        (expected,) = feathervit.load(digits_run).predict(pixels, top=10)
        assert status == 200
        (row,) = found["predictions"]
        assert row["classes"] == list(expected.classes)
        assert row["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
        assert row["label"] == expected.label
    assert request(server, "/predict?min_confidence=1", digits[0][0])[1]["predictions"][0]["label"] == "other"


def form(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """Returns body and headers of a form with parts of (parameters of the header, content)."""
    lines = (b"--x\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (p.encode(), data) for p, data in parts)
    return b"".join(lines) + b"--x--\r\n", {"Content_Type": "multipart/form-data; boundary=x"}


def test_a_form_can_contain_several_images(server, digits):
    """Also with equal names, which are numbered, and without file names."""
    (first, _), (second, _) = digits
    names = ("a.png", "a.png", "a.png (3)", "a.png (2)", "a.png", "é.png")
    parts = [(f'name="f"; filename="{name}"', (first, second)[i % 2]) for i, name in enumerate(names)]
    body, headers = form(*parts, ('name="plain"', second), ('name="f"; filename="b.txt"', b"no image"))
    status, found = request(server, "/predict", body, **headers)
    assert status == 200
    alone = [request(server, "/predict", data)[1]["predictions"][0]["probabilities"] for data in (first, second)]
    assert [row["probabilities"] for row in found["predictions"]] == [
        pytest.approx(alone[i], abs=1e-6) for i in (0, 1, 0, 1, 0, 1, 1)
    ]
    files = [row["file"] for row in found["predictions"]]
    assert len(set(files)) == 7
    assert (files[0], files[5:]) == ("a.png", ["é.png", "plain"])
    assert len(found["unreadable"]) == 1
    assert "b.txt" in found["unreadable"][0]


def test_answers_have_the_fields_of_predict(server, digits, digits_run, tmp_path, capsys):
    Image.fromarray(np.full((16, 16), 300, np.uint16)).save(tmp_path / "dark.png")
    assert main(["predict", str(digits_run), str(tmp_path / "dark.png"), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    found = request(server, "/predict", (tmp_path / "dark.png").read_bytes())[1]
    assert found.keys() == expected.keys()
    assert found["warnings"] == expected["warnings"] != []


def test_a_form_needs_little_memory(server, monkeypatch):
    """Also one of many short lines, or of many parts."""
    from feathervit.export.serve import _images

    kind = "multipart/form-data; boundary=x"
    lines, _ = form(('name="f"; filename="a"', b"\r\n" * 1_000_000))
    tracemalloc.start()
    try:
        assert len(_images(kind, lines)) == 1
        for body in (b"--x\r\n" * 400_000, b"--x\r\n" + b"a:\r\n" * 500_000):
            with pytest.raises(module.Refused):
                _images(kind, body)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(lines)
    finally:
        tracemalloc.stop()


def test_slow_requests_end_at_a_deadline(server, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.6)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    for start, answer in ((head + b"\r\n", b" 408 "), (head, b"")):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as slow:
            slow.sendall(start)
            begin = time.monotonic()
            with contextlib.suppress(OSError):  # the server has closed the connection
                while time.monotonic() < begin + 15 and not select.select([slow], [], [], 0.1)[0]:
                    slow.sendall(b"x")
            with contextlib.suppress(ConnectionError):
                assert answer in slow.recv(1000)
            assert time.monotonic() < begin + 10


def test_requests_at_the_same_time_are_limited(digits_run, digits, monkeypatch):
    """A further request waits until another one ends."""
    monkeypatch.setattr(module, "SECONDS", 0.6)
    monkeypatch.setattr(module, "MOST_REQUESTS", 2)
    with serve(digits_run, feathervit.load(digits_run), port=0) as limited:
        threading.Thread(target=limited.serve_forever, daemon=True).start()
        before = threading.active_count()
        idle = [socket.create_connection(("127.0.0.1", limited.server_port)) for _ in range(4)]
        time.sleep(0.2)
        assert threading.active_count() <= before + 2
        assert request(limited, "/predict", digits[0][0])[0] == 200
        for connection in idle:
            connection.close()
        limited.shutdown()


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/predict", b"no image", {}, 400),
        ("/predict", b"", {}, 400),
        ("/predict?top=0", b"x", {}, 400),
        ("/predict?top=a", b"x", {}, 400),
        ("/predict?min_confidence=nan", b"x", {}, 400),
        ("/predict?min_confidence=b", b"x", {}, 400),
        ("/predict?best=1", b"x", {}, 400),
        ("/predict", None, {}, 405),
        ("/other", b"x", {}, 404),
        ("/../config.json", None, {}, 404),
        ("/best.safetensors", None, {}, 404),
        ("/predict", b"x", {"Content_Length": "-1"}, 411),
        ("/predict", b"x", {"Host": "example.org"}, 403),
        ("/", None, {"Host": "example.org:8000"}, 403),
        ("/predict", b"x", {"Origin": "https://example.org"}, 403),
        ("/predict", b"x", {"Origin": "null"}, 403),
        ("/predict", b"x", {"Content_Type": "multipart/form-data"}, 400),
    ],
)
def test_invalid_requests_are_refused(server, path, body, headers, status):
    got, found = request(server, path, body, **headers)
    assert got == status
    assert found["error"]


def test_other_methods(server):
    """HEAD has the headers of GET without its content. Other methods are refused in JSON, as other faults are."""
    for method, status in (("HEAD", 200), ("DELETE", 501)):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request(method, "/")
        response = connection.getresponse()
        body = response.read()
        assert response.status == status
        if method == "HEAD":
            assert body == b""
            assert int(response.getheader("Content-Length")) == len(server.files["/"])
        else:
            assert json.loads(body)["error"]


def test_uploads_are_limited(server, digits, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", len(digits[0][0]))
    monkeypatch.setattr(module, "MOST_IMAGES", 1)
    assert request(server, "/predict", digits[0][0])[0] == 200
    assert request(server, "/predict", digits[0][0] + b"x")[0] == 413
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    body, headers = form(('name="f"', b"x"), ('name="f"', b"x"))
    assert request(server, "/predict", body, **headers)[0] == 413


def test_the_page_uses_the_server(server, browser, digits, digits_run, tmp_path, monkeypatch):
    from .test_web import opened, shown, text, wait

    (tmp_path / "digit.png").write_bytes(digits[0][0])
    opened(browser, server.url)
    rows = shown(browser, tmp_path / "digit.png")
    expected = feathervit.load(digits_run).predict(tmp_path / "digit.png")[0]
    assert rows[0][0] == expected.label
    assert float(rows[0][1].split()[0]) == pytest.approx(100 * expected.probabilities[0], abs=0.06)
    result = json.loads((digits_run / "result.json").read_text())["test"]
    assert f"{100 * result['top1']:.1f}" in text(browser, "facts")
    assert not browser.find_element("id", "sight").is_displayed()
    for difference, unsure in ((1e-5, True), (-1e-5, False)):  # the page uses the exact threshold, like the server
        model = json.loads(server.files["/model.json"]) | {"threshold": expected.probabilities[0] + difference}
        monkeypatch.setitem(server.files, "/model.json", json.dumps(model).encode())
        opened(browser, server.url)
        shown(browser, tmp_path / "digit.png")
        assert text(browser, "answer").startswith("Unsure") == unsure
    # A refused image is not left beside the old answer.
    assert browser.find_element("id", "image").is_displayed()
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    browser.find_element("id", "file").send_keys(str(tmp_path / "digit.png"))
    wait(lambda: "digit.png" in text(browser, "error"), "the image is refused")
    assert not browser.find_element("id", "image").is_displayed()
    assert (text(browser, "classes"), text(browser, "spoken"), text(browser, "time")) == ("", "", "")
    assert expected.label not in text(browser, "answer")


def test_an_unusable_port_is_an_error(server, digits_run, capsys):
    with pytest.raises(ConfigError, match="port"):
        serve(digits_run, server.predictor, port=server.server_port)
    assert main(["serve", str(digits_run), "--port", "70000"]) == 2
    assert "65535" in capsys.readouterr().err
