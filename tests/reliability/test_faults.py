"""Files that grow too large, read-only folders, and files that disappear or change during a run: one clear line, and finished
work is kept. After the fault is fixed, the run ends with the weights of an undisturbed run. test_changes.py fills the disk."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feathervit.results import read_result

from ..conftest import same_weights, write_images
from .commands import POSIX, SMALL, Command, Ended, run
from .faults import drafts, rows

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not POSIX, reason="limits, mounts and signals are POSIX's")]

MODEL = [*SMALL, "--batch-size", "32"]
TRAIN = ["train", "--threads", "1", "--epochs", "4", *MODEL]
DIGITS = [*TRAIN, "--data", "digits", "--split.train-per-class", "20"]
MOMENT = ["--max-minutes", "0.00001"]


@pytest.fixture
def log(tmp_path) -> Path:
    """The file for the output of a command."""
    return tmp_path / "output.txt"


@pytest.fixture
def whole(tmp_path, log) -> Path:
    assert run([*DIGITS, "--out", tmp_path / "whole"], log).status == 0
    return tmp_path / "whole"


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """disk(options): mounts a file system in memory with these options, or remounts it."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if mount_point.is_mount() else ""
        arguments = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(mount_point)]
        try:
            subprocess.run(arguments, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"cannot mount a file system: {getattr(error, 'stderr', error)}")
        return mount_point

    yield mount
    if mount_point.is_mount():
        subprocess.run(["umount", "--lazy", str(mount_point)], check=True)


def refused(ended: Ended, *texts: str) -> None:
    """One clear line and status 2."""
    assert ended.status == 2, ended.output
    assert "Traceback" not in ended.output
    last = ended.output.strip().splitlines()[-1]
    assert last.startswith("feathervit: ")
    assert all(text in last for text in texts), last


def same_end(whole: Path, out: Path) -> None:
    for name in ("last", "best"):
        assert same_weights(whole / f"{name}.safetensors", out / f"{name}.safetensors")
    assert rows(whole) == rows(out)
    assert read_result(out / "result.json").test == read_result(whole / "result.json").test
    assert drafts(out) == []


# --- file size limits


@pytest.mark.parametrize("limit", [5_000, 20_000, 50_000])
def test_a_file_size_limit_is_reported(limit, whole, tmp_path, log):
    """The limit is too small for splits.json, for the weights, or for the state."""
    sizes = {name: (whole / name).stat().st_size for name in ("splits.json", "best.safetensors", "state.safetensors")}
    assert any(size > limit for size in sizes.values())
    out = tmp_path / "run"
    refused(run([*DIGITS, "--out", out], log, limit=limit), "File too large", "KiB")
    assert run(["train", "--resume", "--threads", "1", "--out", out], log).status == 0
    same_end(whole, out)


def test_an_oversized_state_keeps_the_previous_one(whole, tmp_path, log):
    out = tmp_path / "run"
    assert run([*DIGITS, *MOMENT, "--out", out], log).status == 0
    before = (out / "state.safetensors").read_bytes()
    resume = ["train", "--resume", "--threads", "1", "--out", out]
    refused(run(resume, log, limit=len(before) - 1000), "File too large")
    assert (out / "state.safetensors").read_bytes() == before
    assert run(resume, log).status == 0
    same_end(whole, out)


# --- read-only folders


def test_a_read_only_disk(whole, tmp_path, log, disk, monkeypatch):
    mount_point = disk("size=16m,rw")
    out = mount_point / "run"
    assert run([*DIGITS, *MOMENT, "--out", out], log).status == 0
    shutil.copytree(whole, mount_point / "whole")
    disk("ro")
    before = (out / "state.safetensors").read_bytes()
    resume = ["train", "--resume", "--threads", "1", "--out", out]
    refused(run(resume, log), "Read-only file system")
    refused(run([*DIGITS, "--out", mount_point / "new"], log), "Read-only file system")
    refused(run(["export", mount_point / "whole", "--to", "huggingface"], log), "Read-only file system")
    refused(run(["study", "sharing", "--data", "digits", "--out", mount_point / "study"], log), "Read-only file system")
    assert run(["evaluate", mount_point / "whole"], log).status == 0  # reading still works
    monkeypatch.setenv("FEATHERVIT_CACHE", str(mount_point / "cache"))
    images = write_images(tmp_path / "set", 6)
    ended = run([*TRAIN, "--data", images, "--out", tmp_path / "x"], log)
    assert ended.status == 0 and "FEATHERVIT_CACHE" in ended.output  # a temporary cache is used
    disk("rw")
    assert (out / "state.safetensors").read_bytes() == before
    assert run(resume, log).status == 0
    same_end(whole, out)


# --- data that disappears or changes


@pytest.fixture
def images(tmp_path) -> Path:
    return write_images(tmp_path / "set", 24)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def begun(arguments: list, out: Path, log: Path) -> Command:
    """Starts the command and waits until it trains."""
    command = Command(arguments, log)
    while command.status is None and not (out / "metrics.csv").exists():
        time.sleep(0.001)
    assert command.status is None
    return command


@pytest.fixture
def long_run(images, cache, tmp_path, log) -> tuple[Path, list]:
    """A complete run on the images, and its command without --out."""
    arguments = [*TRAIN, "--data", images, "--epochs", "30"]
    assert run([*arguments, "--out", tmp_path / "whole"], log).status == 0
    return tmp_path / "whole", arguments


def test_images_and_cache_removed_during_a_run(long_run, images, cache, tmp_path, log):
    whole, arguments = long_run
    command = begun([*arguments, "--out", tmp_path / "run"], tmp_path / "run", log)
    shutil.rmtree(images)
    shutil.rmtree(cache)
    assert command.end().status == 0
    same_end(whole, tmp_path / "run")


def test_a_cache_truncated_during_a_run(long_run, cache, tmp_path, log):
    """The cache is memory-mapped, so the process may die. The run is then resumed."""
    whole, arguments = long_run
    command = begun([*arguments, "--out", tmp_path / "run"], tmp_path / "run", log)
    for path in cache.glob("decoded/*.npy"):
        with path.open("r+b") as file:
            file.truncate(100)
    assert command.end().status in (0, -signal.SIGBUS)
    assert run(["train", "--resume", "--threads", "1", "--out", tmp_path / "run"], log).status == 0
    same_end(whole, tmp_path / "run")


@pytest.mark.parametrize("change", ["other pixels", "one less", "one more", "unreadable"])
def test_data_changed_between_runs(change, long_run, images, tmp_path, log):
    whole, arguments = long_run
    out, image = tmp_path / "run", images / "flat" / "3.png"
    assert run([*arguments, *MOMENT, "--out", out], log).status == 0
    before, added = image.read_bytes(), images / "flat" / "more.png"
    if change == "one less":
        image.unlink()
    elif change == "one more":
        added.write_bytes(before)
    else:
        image.write_bytes((images / "tall" / "4.png").read_bytes() if change == "other pixels" else b"broken")
    resume = ["train", "--resume", "--threads", "1", "--out", out]
    ended = run(resume, log)
    assert ended.status == 2 and "Traceback" not in ended.output
    assert "data has changed" in ended.output
    image.write_bytes(before)
    added.unlink(missing_ok=True)
    assert run(resume, log).status == 0
    same_end(whole, out)
