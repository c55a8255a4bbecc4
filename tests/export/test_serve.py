"""The server: its answers equal Python's, requests are limited, other hosts are refused, and the page works with it."""

from __future__ import annotations

import http.client
import io
import json
import threading

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


def test_a_form_can_contain_several_images(server, digits):
    parts = [("a.png", digits[0][0]), ("a.png", digits[1][0]), ("b.txt", b"no image")]
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), data)
        for name, data in parts
    )
    status, found = request(server, "/predict", body + b"--x--\r\n", Content_Type="multipart/form-data; boundary=x")
    assert status == 200
    alone = [request(server, "/predict", data)[1]["predictions"][0]["probabilities"] for _, data in parts[:2]]
    assert [row["probabilities"] for row in found["predictions"]] == [pytest.approx(p, abs=1e-6) for p in alone]
    assert len(found["unreadable"]) == 1
    assert "b.txt" in found["unreadable"][0]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/predict", b"no image", {}, 400),
        ("/predict", b"", {}, 400),
        ("/predict?top=0", b"x", {}, 400),
        ("/predict?top=a", b"x", {}, 400),
        ("/predict?min_confidence=nan", b"x", {}, 400),
        ("/other", b"x", {}, 404),
        ("/../config.json", None, {}, 404),
        ("/best.safetensors", None, {}, 404),
        ("/predict", b"x", {"Content_Length": "-1"}, 411),
        ("/predict", b"x", {"Host": "example.org"}, 403),
        ("/", None, {"Host": "example.org:8000"}, 403),
        ("/predict", b"x", {"Origin": "https://example.org"}, 403),
    ],
)
def test_invalid_requests_are_refused(server, path, body, headers, status):
    got, found = request(server, path, body, **headers)
    assert got == status
    assert found["error"]


def test_uploads_are_limited(server, digits, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", len(digits[0][0]))
    monkeypatch.setattr(module, "MOST_IMAGES", 1)
    assert request(server, "/predict", digits[0][0])[0] == 200
    assert request(server, "/predict", digits[0][0] + b"x")[0] == 413
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    form = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx\r\n' * 2 + b"--x--\r\n"
    assert request(server, "/predict", form, Content_Type="multipart/form-data; boundary=x")[0] == 413


def test_the_page_uses_the_server(server, browser, digits, digits_run, tmp_path):
    from .test_web import opened, shown, text

    (tmp_path / "digit.png").write_bytes(digits[0][0])
    opened(browser, server.url)
    rows = shown(browser, tmp_path / "digit.png")
    expected = feathervit.load(digits_run).predict(tmp_path / "digit.png")[0]
    assert rows[0][0] == expected.label
    assert float(rows[0][1].split()[0]) == pytest.approx(100 * expected.probabilities[0], abs=0.06)
    result = json.loads((digits_run / "result.json").read_text())["test"]
    assert f"{100 * result['top1']:.1f}" in text(browser, "facts")
    assert not browser.find_element("id", "sight").is_displayed()
    (tmp_path / "damaged.png").write_bytes(digits[0][0][:60])
    browser.find_element("id", "file").send_keys(str(tmp_path / "damaged.png"))


def test_an_unusable_port_is_an_error(server, digits_run, capsys):
    with pytest.raises(ConfigError, match="port"):
        serve(digits_run, server.predictor, port=server.server_port)
    assert main(["serve", str(digits_run), "--port", "70000"]) == 2
    assert "65535" in capsys.readouterr().err
