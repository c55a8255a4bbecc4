"""Standard streams that a shell closed, broke or filled. Work continues, and results are complete or an error."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import feathervit
from feathervit.cli import main
from feathervit.streams import Words

from .conftest import write_images
from .data.commands import SMALL

pytestmark = pytest.mark.skipif(os.name != "posix", reason="streams are closed by a POSIX shell")
FEATHERVIT = f"{sys.executable} -m feathervit"


def shell(line: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with pets/ (two classes), new/ (a damaged TIFF, a text named text.jpg, a dark PNG), and the run `done`."""
    root = tmp_path_factory.mktemp("streams")
    write_images(root / "pets", 6, classes=("flat", "tall"))
    feathervit.train(data=root / "pets", out=root / "done", img_size=16, patch_size=4, model="mlit_nano", epochs=1)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        buffer, "TIFF", compression="tiff_lzw"
    )
    data = buffer.getvalue()
    (root / "new").mkdir()
    (root / "new" / "half.tif").write_bytes(data[:5000] + bytes(900) + data[5900:])  # libtiff prints its own warning
    (root / "new" / "text.jpg").write_text("no image")
    Image.fromarray(np.full((16, 16), 900, np.uint16)).save(root / "new" / "dark.png")
    return root


def train_command(root: Path, out: Path) -> str:
    return f"{FEATHERVIT} train --data {root / 'pets'} --out {out} {' '.join(SMALL)}"


@pytest.mark.parametrize(
    "ends",
    [">&- 2>&-", *(pytest.param(ends, marks=pytest.mark.slow) for ends in ("> /dev/full 2> /dev/full", "| true"))],
)
def test_training_continues_without_streams(root, tmp_path, ends):
    """Both streams closed, on a full disk, or without a reader: the run is complete, and its files hold no messages."""
    shell(f"{train_command(root, tmp_path / 'run')} {ends}")
    end = time.monotonic() + 120
    while not (tmp_path / "run" / "report.html").exists() and time.monotonic() < end:
        time.sleep(0.1)  # after `| true` the shell does not wait for training
    assert feathervit.load(tmp_path / "run").predict(next((root / "pets" / "flat").iterdir()))
    for name in ("config.json", "result.json", "splits.json"):
        json.loads((tmp_path / "run" / name).read_text())


@pytest.mark.slow
def test_training_does_not_wait_for_a_reader(root, tmp_path):
    """The pipe is full, and nobody reads it."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    os.set_blocking(write, True)
    done = subprocess.run(["sh", "-c", train_command(root, tmp_path / "run")], stdout=write, stderr=write, timeout=300)
    os.close(read), os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "run" / "result.json").exists()


def test_a_result_is_complete_or_an_error(root):
    """With standard error closed, its text does not enter the output. Standard output on a full disk is an error."""
    predict = f"{FEATHERVIT} predict {root / 'done'} {root / 'new'} {root / 'pets' / 'flat'}"
    done = shell(f"{predict} --json 2>&-")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert len(found["predictions"]) == 7 and len(found["unreadable"]) == 2
    assert "nearly black" in found["warnings"][0]
    done = shell(f"{predict} --json > /dev/full")
    assert done.returncode == 2 and "cannot write to standard output: No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_do_not_enter_closed_output(tmp_path):
    done = shell(f"{FEATHERVIT} predict {tmp_path / 'none'} a.png --json 2>&-")
    assert (done.returncode, done.stdout) == (2, "")


def test_unread_lines_are_dropped_and_counted():
    read, write = os.pipe()
    writer = Words(os.fdopen(write, "w"))
    for i in range(4000):  # far more than a pipe holds
        writer.write(f"line {i} {'x' * 40}\n")
    assert writer.dropped > 100
    first = os.read(read, 1 << 20)
    writer.write("after\n")
    text = os.read(read, 1 << 20).decode()
    assert first.startswith(b"line 0 ") and first.endswith(b"\n")
    assert "lines were dropped" in text and text.endswith("after\n")
    os.close(read)
    writer.write("nobody\n")
    writer.write("nobody\n")
    writer.stream.close()


def test_main_restores_the_streams(capsys):
    before = sys.stdout, sys.stderr
    assert main(["models", "--nonsense"]) == 2
    assert (sys.stdout, sys.stderr) == before
    assert "nonsense" in capsys.readouterr().err
