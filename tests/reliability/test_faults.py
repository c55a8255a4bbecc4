"""Full disks, read-only folders, and files that disappear or change during a run: one clear line, and finished work stays.
After the fault is fixed, the run ends with the weights of an undisturbed run."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feathervit.results import read_result

from ..conftest import write_images
from .commands import POSIX, SMALL, Command, Ended, run
from .faults import drafts, rows, same_weights

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not POSIX, reason="limits, mounts and signals are POSIX's")]

MODEL = [*SMALL, "--batch-size", "32"]
TRAIN = ["train", "--threads", "1", "--epochs", "4", *MODEL]
DIGITS = [*TRAIN, "--data", "digits", "--split.train-per-class", "20"]
MOMENT = ["--max-minutes", "0.00001"]


@pytest.fixture
def said(tmp_path) -> Path:
    """The file for the output of a command."""
    return tmp_path / "said.txt"


@pytest.fixture
def whole(tmp_path, said) -> Path:
    assert run([*DIGITS, "--out", tmp_path / "whole"], said).status == 0
    return tmp_path / "whole"


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """disk(options): mounts a file system in memory with these options, or remounts it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if place.is_mount() else ""
        words = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(place)]
        try:
            subprocess.run(words, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"nothing may be mounted here: {getattr(error, 'stderr', error)}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def refused(ended: Ended, *words: str) -> None:
    """One clear line and status 2."""
    assert ended.status == 2, ended.said
    assert "Traceback" not in ended.said
    last = ended.said.strip().splitlines()[-1]
    assert last.startswith("feathervit: ")
    assert all(word in last for word in words), last


def same_end(whole: Path, out: Path) -> None:
    for name in ("last", "best"):
        assert same_weights(whole / f"{name}.safetensors", out / f"{name}.safetensors")
    assert rows(whole) == rows(out)
    assert read_result(out / "result.json").test == read_result(whole / "result.json").test
    assert drafts(out) == []


# --- no room


@pytest.mark.parametrize("limit", [5_000, 20_000, 50_000])
def test_files_may_not_grow(limit, whole, tmp_path, said):
    """The limit is too small for splits.json, for the weights, or for the state."""
    sizes = {name: (whole / name).stat().st_size for name in ("splits.json", "best.safetensors", "state.safetensors")}
    assert any(size > limit for size in sizes.values())
    out = tmp_path / "run"
    refused(run([*DIGITS, "--out", out], said, limit=limit), "File too large", "KiB")
    assert run(["train", "--resume", "--threads", "1", "--out", out], said).status == 0
    same_end(whole, out)


def test_a_state_that_does_not_fit_leaves_the_one_before(whole, tmp_path, said):
    out = tmp_path / "run"
    assert run([*DIGITS, *MOMENT, "--out", out], said).status == 0
    before = (out / "state.safetensors").read_bytes()
    resume = ["train", "--resume", "--threads", "1", "--out", out]
    refused(run(resume, said, limit=len(before) - 1000), "File too large")
    assert (out / "state.safetensors").read_bytes() == before
    assert run(resume, said).status == 0
    same_end(whole, out)


def test_a_small_disk(whole, tmp_path, said, disk):
    """The disk is full in the middle of a run; its report and log are on the same disk."""
    state = (whole / "state.safetensors").stat().st_size
    out = disk(f"size={2 * state // 1024}k") / "run"
    refused(run([*DIGITS, "--out", out], said), "No space left on device", "KiB")
    disk("size=16m")
    assert run(["train", "--resume", "--threads", "1", "--out", out], said).status == 0
    same_end(whole, out)


def test_a_small_disk_under_a_study_an_export_and_a_cache(whole, tmp_path, said, disk, monkeypatch):
    place = disk("size=16k")
    study = tmp_path / "study.json"
    study.write_text(
        '{"question": "?", "recipe": "digits", "arms": {"a": {}, "b": {"lr": 0.001}}, "seeds": [0], "epochs": 1, "fields": '
        '{"arch.depth": 1, "arch.dim": 16, "split.train_per_class": 20}}'
    )
    command = ["study", study, "--threads", "1", "--out", place / "study"]
    for size in ("16k", "64k", "160k"):
        disk(f"size={size}")
        refused(run(command, said), "No space left on device")
    disk("size=16m")
    done = run(command, said)
    assert done.status == 0 and "another process" not in done.said, done.said
    shutil.rmtree(place / "study")
    disk("size=16k")
    export = ["export", whole, "--to", "huggingface", "--out", place / "export"]
    refused(run(export, said), "No space left on device")
    assert not (place / "export").exists()
    monkeypatch.setenv("FEATHERVIT_CACHE", str(place / "cache"))
    images = write_images(tmp_path / "set", 40)
    refused(
        run([*TRAIN, "--data", images, "--out", tmp_path / "run"], said), "no space left on device", "MB are needed"
    )
    disk("size=16m")
    assert run(export, said).status == 0
    assert run([*TRAIN, "--data", images, "--out", tmp_path / "run"], said).status == 0


# --- folders that take nothing


def test_a_read_only_disk(whole, tmp_path, said, disk, monkeypatch):
    place = disk("size=16m,rw")
    out = place / "run"
    assert run([*DIGITS, *MOMENT, "--out", out], said).status == 0
    shutil.copytree(whole, place / "whole")
    disk("ro")
    before = (out / "state.safetensors").read_bytes()
    resume = ["train", "--resume", "--threads", "1", "--out", out]
    refused(run(resume, said), "Read-only file system")
    refused(run([*DIGITS, "--out", place / "new"], said), "Read-only file system")
    refused(run(["export", place / "whole", "--to", "huggingface"], said), "Read-only file system")
    refused(run(["study", "sharing", "--data", "digits", "--out", place / "study"], said), "Read-only file system")
    assert run(["evaluate", place / "whole"], said).status == 0  # what only reads goes on
    monkeypatch.setenv("FEATHERVIT_CACHE", str(place / "cache"))
    images = write_images(tmp_path / "set", 6)
    ended = run([*TRAIN, "--data", images, "--out", tmp_path / "x"], said)
    assert ended.status == 0 and "FEATHERVIT_CACHE" in ended.said  # a temporary cache serves
    disk("rw")
    assert (out / "state.safetensors").read_bytes() == before
    assert run(resume, said).status == 0
    same_end(whole, out)


# --- data that goes away or changes


@pytest.fixture
def images(tmp_path) -> Path:
    return write_images(tmp_path / "set", 24)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def begun(words: list, out: Path, said: Path) -> Command:
    """Starts the command and waits until it trains."""
    command = Command(words, said)
    while command.status is None and not (out / "metrics.csv").exists():
        time.sleep(0.001)
    assert command.status is None
    return command


@pytest.fixture
def long(images, cache, tmp_path, said) -> tuple[Path, list]:
    """A complete run on the images, and its command without --out."""
    words = [*TRAIN, "--data", images, "--epochs", "30"]
    assert run([*words, "--out", tmp_path / "whole"], said).status == 0
    return tmp_path / "whole", words


def test_images_and_cache_removed_in_mid_run(long, images, cache, tmp_path, said):
    whole, words = long
    command = begun([*words, "--out", tmp_path / "run"], tmp_path / "run", said)
    shutil.rmtree(images)
    shutil.rmtree(cache)
    assert command.end().status == 0
    same_end(whole, tmp_path / "run")


def test_a_cache_cut_off_in_mid_run(long, cache, tmp_path, said):
    """The cache is memory-mapped, so the process may die; the run is then resumed."""
    whole, words = long
    command = begun([*words, "--out", tmp_path / "run"], tmp_path / "run", said)
    for path in cache.glob("decoded/*.npy"):
        with path.open("r+b") as file:
            file.truncate(100)
    assert command.end().status in (0, -signal.SIGBUS)
    assert run(["train", "--resume", "--threads", "1", "--out", tmp_path / "run"], said).status == 0
    same_end(whole, tmp_path / "run")


@pytest.mark.parametrize("change", ["other pixels", "one less", "one more", "unreadable"])
def test_data_changed_between_runs(change, long, images, tmp_path, said):
    whole, words = long
    out, image = tmp_path / "run", images / "flat" / "3.png"
    assert run([*words, *MOMENT, "--out", out], said).status == 0
    before, added = image.read_bytes(), images / "flat" / "more.png"
    if change == "one less":
        image.unlink()
    elif change == "one more":
        added.write_bytes(before)
    else:
        image.write_bytes((images / "tall" / "4.png").read_bytes() if change == "other pixels" else b"broken")
    resume = ["train", "--resume", "--threads", "1", "--out", out]
    ended = run(resume, said)
    assert ended.status == 2 and "Traceback" not in ended.said
    assert ("unreadable images" if change == "unreadable" else "data has changed") in ended.said
    image.write_bytes(before)
    added.unlink(missing_ok=True)
    assert run(resume, said).status == 0
    same_end(whole, out)
