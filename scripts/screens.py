"""Takes screenshots of the user interfaces: python scripts/screens.py OUT --run RUN --page FOLDER --site site

The pages are the report of a run, an exported page (`feathervit export RUN --to web`), the built documentation (`make docs`),
and the help at 80 columns. Each is shown on a desktop and a phone, light and dark. Parts without a flag are skipped. It needs
Chromium, its driver and the extra `dev`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import html
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver

SCREENS = {"desktop": (1280, 800), "phone": (390, 844)}
HELP = ("--help", "train --help", "predict --help", "study --help")
LONGEST = 9000  # px, maximum height of a screenshot


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", type=Path, help="a run folder with report.html")
    parser.add_argument("--page", type=Path, help="an exported page")
    parser.add_argument("--site", type=Path, help="the built documentation")
    parser.add_argument("--help-pages", action="store_true", help="the help at 80 columns")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        if args.run:
            take(driver, (args.run / "report.html").resolve().as_uri(), args.out / "report")
        for folder, name in ((args.page, "page"), (args.site, "docs")):
            if folder:
                with served(folder) as address:
                    take(driver, address, args.out / name)
        if args.help_pages:
            take_help(driver, args.out)
    return 0


@contextlib.contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder on this machine only. Yields the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def take(driver: webdriver.Chrome, address: str, path: Path) -> None:
    """Writes PATH-desktop-light.png and so on. On an exported page, classifies the first sample image before."""
    for screen, (width, height) in SCREENS.items():
        for scheme in ("light", "dark"):
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": screen == "phone"}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            driver.get(address)
            driver.execute_script("localStorage.clear()")  # the documentation stores the scheme of the first visit
            driver.refresh()
            if driver.find_elements("id", "classes"):
                classify_sample(driver)
            time.sleep(0.5)  # wait for fonts and for elements that fade in
            high = driver.execute_script("return document.documentElement.scrollHeight")
            clip = {"x": 0, "y": 0, "width": width, "height": min(high, LONGEST), "scale": 1}
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
            path.with_name(f"{path.name}-{screen}-{scheme}.png").write_bytes(b64decode(shot["data"]))


def classify_sample(driver: webdriver.Chrome, seconds: float = 60) -> None:
    """Clicks the first sample image of the page and waits for the result."""
    end = time.monotonic() + seconds
    while not (samples := driver.find_elements("css selector", "#samples button:enabled")):
        if time.monotonic() > end:
            return  # a page without samples
        time.sleep(0.1)
    samples[0].click()
    while "ms" not in driver.find_element("id", "time").text and time.monotonic() < end:
        time.sleep(0.1)


def take_help(driver: webdriver.Chrome, out: Path) -> None:
    """Writes help-*.png: the output of `--help` in a terminal of 80 columns."""
    text = ""
    for arguments in HELP:
        command = [sys.executable, "-m", "feathervit", *arguments.split()]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}, check=True)
        text += f"$ feathervit {arguments}\n{done.stdout}\n"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "help.html"
        style = "margin:1em;font:14px/1.35 monospace;width:80ch;border-right:1px solid red;white-space:pre"
        page.write_text(f'<meta charset="utf-8"><pre style="{style}">{html.escape(text)}</pre>', encoding="utf-8")
        take(driver, page.as_uri(), out / "help")


if __name__ == "__main__":
    sys.exit(main())
