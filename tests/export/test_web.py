"""The page in headless Chromium: it names the same classes as Python, and contacts no other origin."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import feathervit
from feathervit.errors import ConfigError, DataError, DataWarning
from feathervit.export import runtime


@pytest.fixture(scope="module")
def page(digits_run, web_cache, tmp_path_factory):
    """The folder of a page, with the runtime fetched into a cache of its own. Its model is the one that was checked."""
    from feathervit.export import web

    out, checked, check = tmp_path_factory.mktemp("page") / "out", [], web.check
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATHERVIT_CACHE", str(web_cache))
        patch.setattr(
            web, "check", lambda job, proto, files, *rest: checked.append(files) or check(job, proto, files, *rest)
        )
        report = feathervit.export_model(digits_run, "web", out, samples=12)
    assert report["passed"]
    assert checked[-1]["int8"] == (out / "model.onnx").read_bytes()
    return out


@pytest.fixture(scope="module")
def address(page):
    with served(page) as url:
        yield url


@contextlib.contextmanager
def served(folder):
    """Serves the page with a minimal server."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def wait(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def text(browser, id):
    return browser.find_element("id", id).get_attribute("textContent")


def opened(browser, address):
    browser.get(address)
    wait(lambda: browser.find_element("id", "choose").is_enabled() or text(browser, "error"), "the model loads")
    assert not text(browser, "error")


def shown(browser, image):
    before = text(browser, "time")
    browser.execute_script("document.getElementById('spoken').textContent = ''")
    browser.find_element("id", "file").send_keys(str(image))
    wait(lambda: text(browser, "spoken") or text(browser, "error"), f"{image} after {before}")
    return [row.text.rsplit("\n", 1) for row in browser.find_elements("css selector", "#classes li")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Unchanged digits, one wide and one tall, one with transparency, and a photograph."""
    folder = tmp_path_factory.mktemp("images")
    held_out = feathervit.load_data("digits", img_size=16).test.images
    for i in range(8):
        Image.fromarray(held_out[i, 0].numpy()).save(folder / f"digit-{i}.png")
    large = Image.fromarray(held_out[9, 0].numpy()).resize((120, 120), Image.Resampling.BICUBIC)
    for name, size in (("wide", (201, 120)), ("tall", (120, 155))):
        canvas = Image.new("RGB", size)
        canvas.paste(large, ((size[0] - 120) // 2, (size[1] - 120) // 2))
        canvas.save(folder / f"{name}.png")
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (28, 8, 36, 56))
    clear.save(folder / "clear.png")
    Image.fromarray(load_sample_images().images[0]).save(folder / "photograph.png")
    return sorted(folder.glob("*.png"))


def test_the_page_agrees_with_python_without_other_requests(browser, address, page, images, digits_run):
    from feathervit.export.verify import session

    run = session((page / "model.onnx").read_bytes())
    assert json.loads((page / "model.json").read_text())["precision"] == "int8"
    predictor = feathervit.load(digits_run)
    for log in ("performance", "browser"):  # of earlier tests
        browser.get_log(log)
    opened(browser, address)
    for image in images:
        rows = shown(browser, image)
        pixels = np.asarray(predictor.read(image))[None].transpose(0, 2, 3, 1)
        p_K = run.run(["probabilities"], {"image": pixels})[0][0]  # the same file, with the pixels as Python reads them
        assert rows[0][0] == predictor.class_names[p_K.argmax()], image.name
        assert float(rows[0][1].split()[0]) == pytest.approx(100 * p_K.max(), abs=2), image.name
        if "digit" in image.name:
            assert rows[0][0] == predictor.predict(image)[0].label
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("model.onnx") for url in requested)
    assert [url for url in requested if not url.startswith((address, "blob:", "data:"))] == []
    assert browser.get_log("browser") == []  # no error, and nothing blocked by the page's policy


def test_experts_and_sizes(browser, address, page, images):
    opened(browser, address)
    shown(browser, images[0])
    model = json.loads((page / "model.json").read_text())
    facts = text(browser, "facts").replace("\N{NO-BREAK SPACE}", " ")
    for what in ("model", "runtime", "page"):
        size = model[f"{what}_bytes"]
        assert f"{size / 1e6:.{2 if size < 1e6 else 1}f} MB" in facts
    assert f"{100 * model['agreement']:.1f} % of them" in facts
    assert model["page_bytes"] == sum(
        p.stat().st_size for p in page.iterdir() if p.name not in ("export.json", "model.json")
    )
    wait(lambda: "ms" in text(browser, "time"), "it is timed")
    assert (model["routed"], model["depth"]) == (["experts.1", "experts.2"], 3)
    assert text(browser, "layer-number") == "1 of 3"
    layer = browser.find_element("id", "layer")
    first = [row.text for row in browser.find_elements("css selector", "#experts li")]
    layer.send_keys("\ue010")  # the End key: the last layer
    last = [row.text for row in browser.find_elements("css selector", "#experts li")]
    assert (len(first), len(last)) == (3, 4)  # the last layer computes only the read-out token
    for rows in (first, last):
        assert sum(int(row.split(": ")[1].split()[0]) for row in rows) == pytest.approx(100, abs=3)


def test_samples_and_threshold(browser, address, page, digits_run):
    """The samples are held-out images of all classes. The threshold acts as on the checked images."""
    model = json.loads((page / "model.json").read_text())
    held_out = feathervit.load_data("digits", img_size=16).test
    assert {sample["label"] for sample in model["samples"]} == set(held_out.class_names)
    opened(browser, address)
    buttons = browser.find_elements("css selector", "#samples button")
    assert [button.get_attribute("title") for button in buttons] == [sample["label"] for sample in model["samples"]]
    for button, sample in list(zip(buttons, model["samples"], strict=True))[::6]:
        pixels = np.asarray(Image.open(page / sample["file"]))
        index = next(i for i, image in enumerate(held_out.images) if np.array_equal(image[0].numpy(), pixels))
        assert held_out.class_names[held_out.labels[index]] == sample["label"]
        browser.execute_script("document.getElementById('spoken').textContent = ''; arguments[0].click()", button)
        wait(lambda: text(browser, "spoken"), "the sample is classified")
        assert text(browser, "truth").endswith(sample["label"])
        assert text(browser, "answer") == feathervit.load(digits_run).predict(page / sample["file"])[0].label
    slide = (
        "const t = document.getElementById('threshold'); t.value = arguments[0]; t.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(slide, 100)
    assert text(browser, "answer").startswith("Unsure")
    browser.execute_script(slide, 0)
    assert not text(browser, "answer").startswith("Unsure")
    assert text(browser, "trade").startswith("100 %")
    answered, right = model["thresholds"]["answered"], model["thresholds"]["right"]
    assert answered == sorted(answered, reverse=True)
    assert right[0] == pytest.approx(model["top1"], abs=1e-4)


def test_thresholds():
    from feathervit.export.pages import thresholds

    found = thresholds(np.array([[0.9, 0.1], [0.4, 0.6], [0.25, 0.75]]), np.array([0, 0, 1]))
    assert (found["answered"][0], found["right"][0]) == (1.0, pytest.approx(2 / 3, abs=1e-4))
    assert (found["answered"][700], found["right"][700]) == (pytest.approx(2 / 3, abs=1e-4), 1.0)
    assert (found["answered"][950], found["right"][950]) == (0.0, None)


def test_samples_are_for_the_page_only(digits_run, tmp_path):
    for options in ({"to": "onnx", "samples": 4}, {"to": "web", "samples": -1}):
        with pytest.raises(ConfigError, match="samples"):
            feathervit.export_model(digits_run, out=tmp_path / "out", **options)


def test_a_page_in_colour(browser, photographs_run, photographs, web_cache, tmp_path, monkeypatch):
    """Three channels, class names with HTML syntax, a model in 32 bits, layers without experts."""
    monkeypatch.setenv("FEATHERVIT_CACHE", str(web_cache))

    def impossible(*_):
        raise ConfigError("most weights cannot be had in eight bits")

    messages = []
    monkeypatch.setattr("feathervit.export.web.int8", impossible)
    report = feathervit.export_model(photographs_run, "web", tmp_path / "out", say=messages.append)
    assert (report["passed"], report["precision"]) == (True, "float32")
    assert report["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert "eight bits" in messages[0]
    for name in ("export.json", "model.json"):
        assert str(photographs.parent) not in (tmp_path / "out" / name).read_text()
    predictor = feathervit.load(photographs_run)
    with served(tmp_path / "out") as url:
        opened(browser, url)
        for image in (photographs / "test" / "<b>tall" / "5.jpg", photographs / "test" / "flat" / "0.jpg"):
            expected = predictor.predict(image)[0]
            (name, share), *_ = shown(browser, image)
            assert name == expected.label
            assert float(share.split()[0]) == pytest.approx(100 * expected.probabilities[0], abs=3)
        assert not browser.find_element("id", "shipped").is_displayed()  # samples only on request
        assert text(browser, "layer-number") == "2 of 3"  # the first has one expert
        browser.execute_script("window.Uint8Array = function () { throw new Error('no room') }")
        assert shown(browser, image) is not None
        assert "0.jpg could not be classified: no room" in text(browser, "error")


def test_camera_and_files_that_are_not_images(browser, address, tmp_path):
    opened(browser, address)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    browser.find_element("id", "file").send_keys(str(bad))
    wait(lambda: "bad.png" in text(browser, "error"), "an unreadable file is named")
    camera = browser.find_element("id", "camera")
    wait(camera.is_displayed, "there is a camera")
    camera.click()
    shoot = browser.find_element("id", "shoot")
    wait(
        lambda: shoot.is_displayed() and browser.execute_script("return document.getElementById('video').videoWidth"),
        "it runs",
    )
    shoot.click()
    wait(lambda: text(browser, "spoken"), "its photo is classified")
    camera.click()
    assert not shoot.is_displayed()
    assert browser.find_element("id", "image").is_displayed()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser, address, images, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    opened(browser, address)
    shown(browser, images[-1])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name_and_is_reached_by_keyboard(browser, address, images):
    from selenium.webdriver import ActionChains, Keys

    opened(browser, address)
    shown(browser, images[0])
    reached = set()
    for _ in range(24):  # there are twelve samples
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        if focused.tag_name in ("button", "input"):
            assert focused.accessible_name
            reached.add(focused.get_attribute("id"))
    assert {"choose", "threshold", "layer"} <= reached
    for canvas in browser.find_elements("css selector", "canvas"):
        assert canvas.accessible_name


def test_missing_npm_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="npm"):
        runtime.browser_runtime()


@pytest.mark.skipif(shutil.which("sh") is None, reason="a shell script stands in for npm")
def test_npm_errors_are_shown(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text(
        "#!/bin/sh\necho 'npm error code E404' >&2\necho 'npm error A complete log is in /somewhere' >&2\nexit 1\n"
    )
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(npm))
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"E404; try again"):
        runtime.browser_runtime()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path / "file"))
    with (
        pytest.warns(DataWarning, match="cache"),
        pytest.raises(ConfigError, match="E404"),
    ):  # a temporary cache instead
        runtime.browser_runtime()


def test_an_archive_with_a_wrong_checksum_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path))
    (tmp_path / runtime.PACKAGE).write_bytes(b"something else")
    with pytest.raises(DataError, match="checksum"):
        runtime.browser_runtime()
    assert not (tmp_path / runtime.PACKAGE).exists()
