"""Images are decoded once, completely or not at all: keys, damage, races, memory, disk errors."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from feathervit.cli import main
from feathervit.data import cache
from feathervit.data.cache import FileImages, clear_cache
from feathervit.data.image import to_stored
from feathervit.errors import DataError, DataWarning
from feathervit.files import _temporary_cache, cache_folder, downloads


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Forty images of many sizes."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(40):
        paths.append(tmp_path / f"{i:02d}.png")
        Image.fromarray(rng.integers(0, 256, (20 + i, 50 - i, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def listed(paths: list[Path], root: str = "root") -> FileImages:
    stats = [path.stat() for path in paths]
    labels = np.zeros(len(paths), np.int64)
    return FileImages(paths, labels, [p.name for p in paths], [cache.stamp(s) for s in stats], root)


def store(paths: list[Path], size: int = 24, channels: int = 3, fit: str = "crop", progress=None):
    return listed(paths).store(size, channels, fit, progress)


def stored_files() -> list[Path]:
    return sorted(cache_folder().glob("decoded/*.npy"))


@pytest.fixture
def decodings(monkeypatch) -> list:
    """Records every image that is decoded from now on."""
    seen = []

    def counting(source, *args):
        seen.append(source)
        return to_stored(source, *args)

    monkeypatch.setattr(cache, "to_stored", counting)
    return seen


@pytest.mark.parametrize(("channels", "fit"), [(3, "crop"), (1, "pad"), (3, "stretch")])
def test_cached_pixels_equal_the_images_in_order(files, channels, fit):
    images, skipped = store(files, 24, channels, fit)
    assert images.dtype == torch.uint8
    assert skipped == []
    assert torch.equal(images, torch.stack([to_stored(f, 24, channels, fit) for f in files]))


def test_images_are_decoded_once_then_mapped(files, decodings):
    first, _ = store(files)
    assert len(decodings) == 40
    again, _ = store(files)
    assert len(decodings) == 40
    assert torch.equal(first, again)
    again[0] = 0  # copy on write: a mistake in training never changes the file
    assert torch.equal(store(files)[0], first)


def test_progress_is_complete_and_threads_are_restored(files):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    calls = []
    store(files, progress=lambda done, total: calls.append((done, total)))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert calls == [(16, 40), (32, 40), (40, 40)]
    calls.clear()
    store(files, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(40, 40)]


def test_changed_files_or_settings_make_another_cache(files, decodings):
    def count(images, size=24, channels=3, fit="crop") -> int:
        decodings.clear()
        images.store(size, channels, fit, None)
        return len(decodings)

    assert count(listed(files)) == 40
    assert count(listed(files)) == 0
    assert count(listed(files), size=25) == 40
    assert count(listed(files), channels=1) == 40
    assert count(listed(files), fit="pad") == 40
    assert count(listed(files, root="other")) == 40
    assert count(listed(files[1:])) == 39
    os.utime(files[3], ns=(1, 1))
    assert count(listed(files)) == 40
    files[3].write_bytes(files[4].read_bytes())
    os.utime(files[3], ns=(1, 1))  # the same time, another size
    assert count(listed(files)) == 40
    files[5] = files[5].rename(files[5].with_name("renamed.png"))
    assert count(listed(files)) == 40
    assert count(listed(files)) == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no record", "other shape", "garbage record"])
def test_damaged_caches_are_rebuilt(files, decodings, damage):
    want, _ = store(files)
    want = want.clone()
    (array,) = stored_files()
    record = array.with_suffix(".json")
    data = bytearray(array.read_bytes())
    if damage == "truncated":
        array.write_bytes(data[:-1000])
    elif damage == "flipped":
        data[5000] ^= 1
        array.write_bytes(data)
    elif damage == "no record":
        record.unlink()
    elif damage == "other shape":
        record.write_text(json.dumps(json.loads(record.read_text()) | {"shape": [39, 3, 24, 24]}))
    else:
        record.write_text("[1, 2")
    decodings.clear()
    got, _ = store(files)
    assert len(decodings) == 40
    assert torch.equal(got, want)


def test_a_pickled_array_in_the_cache_is_never_loaded(files, tmp_path):
    store(files)
    (array,) = stored_files()
    marker = tmp_path / "marker"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (marker,)

    np.save(array, np.array([Hostile()], dtype=object), allow_pickle=True)
    images, _ = store(files)
    assert not marker.exists()
    assert images.shape == (40, 3, 24, 24)


def test_unreadable_images_leave_no_gap(files):
    whole, _ = store(files)
    for i in (0, 7, 39):
        files[i].write_bytes(files[i].read_bytes()[:100])
    images, skipped = store(files)
    kept = [i for i in range(40) if i not in (0, 7, 39)]
    assert [i for i, _ in skipped] == [0, 7, 39]
    assert all("truncated" in why for _, why in skipped)
    assert torch.equal(images, whole[kept])
    again, skipped_again = store(files)
    assert torch.equal(again, images)
    assert skipped_again == skipped


def test_an_image_that_became_readable_is_used(files):
    files[4].chmod(0)
    data = files[4].read_bytes() if os.access(files[4], os.R_OK) else None
    if data is not None:  # root reads everything: break the file instead, the key stays the same
        files[4].write_bytes(b"broken")
    images = listed(files)
    assert [i for i, _ in images.store(8, 3, "crop", None)[1]] == [4]
    files[4].chmod(0o600)
    if data is not None:
        files[4].write_bytes(data)
    pixels, skipped = images.store(8, 3, "crop", None)
    assert skipped == []
    assert len(pixels) == 40


def test_no_readable_image_is_an_error(files):
    for path in files:
        path.write_bytes(b"no")
    with pytest.raises(DataError, match="none of the 40 images can be read"):
        store(files, 8)
    assert list(cache_folder().glob("decoded/*")) == []


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """An empty folder in which temporary folders are made."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    _temporary_cache.cache_clear()
    yield tmp_path / "temporary"
    _temporary_cache.cache_clear()


def unknown_user(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}[0])
    for name in ("FEATHERVIT_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def file_in_the_way(monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path / "file" / "cache"))


def read_only(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    monkeypatch.delenv("FEATHERVIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "there"))


@pytest.mark.skipif(os.name != "posix", reason="users and modes")
@pytest.mark.parametrize("fault", [unknown_user, file_in_the_way, read_only])
def test_a_temporary_cache_replaces_an_unusable_one(files, tmp_path, temporary, monkeypatch, capsys, fault):
    fault(monkeypatch, tmp_path)
    with pytest.warns(DataWarning, match=f"the cache is {temporary}"):
        stored, _ = store(files, 8)
    assert len(stored) == len(files) and list(temporary.glob("*/decoded/*.npy"))
    assert main(["data", "cache"]) == 0 and str(temporary) in capsys.readouterr().out
    (private,) = temporary.iterdir()
    assert private.stat().st_mode & 0o077 == 0
    shutil.rmtree(private)
    private.symlink_to(tmp_path)  # as another user may leave it
    monkeypatch.setattr(os, "getuid", lambda: -1)
    _temporary_cache.cache_clear()
    with pytest.warns(DataWarning):
        assert private.name != cache_folder().name


def test_downloads_in_a_read_only_cache_are_used(tmp_path, temporary, monkeypatch):
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path / "shared"))
    (tmp_path / "shared" / "downloads" / "cifar10").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert downloads("cifar10") == tmp_path / "shared" / "downloads" / "cifar10"
    with pytest.warns(DataWarning):
        assert downloads("svhn").is_relative_to(temporary)


def test_an_interruption_leaves_no_files(files):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store(files, progress=stop)
    assert list(cache_folder().glob("decoded/*")) == []


SCRIPT = """
import sys, time
from pathlib import Path
from feathervit.data.cache import FileImages
files = sorted(Path(sys.argv[1]).glob("*.png"))
unknown = [""] * len(files)
print("ready", flush=True)
images = FileImages(files, None, unknown, unknown, "root")
images, skipped = images.store(24, 3, "crop", lambda done, total: time.sleep(float(sys.argv[2])))
print(int(images.long().sum()), flush=True)
"""


def start(folder: Path, pause: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(pause)], stdout=subprocess.PIPE, text=True)


def test_concurrent_builds_survive_a_killed_process(files):
    killed = start(files[0].parent, 60)
    assert killed.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 60
    while not list(cache_folder().glob("decoded/*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (left,) = cache_folder().glob("decoded/*.tmp")
    assert stored_files() == []  # half of the cache exists, under a name that is never read

    both = [start(files[0].parent, 0.2) for _ in range(2)]
    sums = [process.communicate(timeout=120)[0].split()[1] for process in both]
    want = sum(int(to_stored(f, 24, 3, "crop").long().sum()) for f in files)
    assert sums == [str(want)] * 2
    assert len(stored_files()) == 1
    os.utime(left, (0, 0))  # a day later the next build removes it
    store(files)
    assert list(cache_folder().glob("decoded/*.tmp")) == []


def test_clear_cache_removes_decoded_images_but_keeps_downloads(files):
    assert clear_cache() == 0
    store(files)
    download = cache_folder() / "downloads" / "set.tar"
    download.parent.mkdir()
    download.write_bytes(bytes(10))
    assert clear_cache() >= 40 * 3 * 24 * 24
    assert stored_files() == []
    assert download.exists()


def test_cache_folder_of_each_platform(monkeypatch):
    monkeypatch.delenv("FEATHERVIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == Path("/somewhere/feathervit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_folder() == Path("/home/ada/.cache/feathervit")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path("/home/ada/Library/Caches/feathervit")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_folder() == Path("/local/feathervit")


def test_native_side_and_scan(tmp_path):
    def make(name, *sizes, mode="RGB"):
        paths = []
        for i, size in enumerate(sizes):
            paths.append(tmp_path / f"{name}{i}.png")
            Image.new(mode, size).save(paths[-1])
        return listed(paths)

    assert make("a", (96, 96), (96, 96)).scan().native_side == 96
    for name, *sizes in (("b", (97, 97), (97, 97)), ("c", (32, 32), (32, 33)), ("d", (32, 32), (40, 40))):
        assert make(name, *sizes).scan().native_side is None
    broken = make("e", (32, 32), (32, 32), (32, 32))
    broken.items[0].write_bytes(b"no")
    assert broken.scan().native_side == 32
    scan = make("f", (10, 60), (50, 20), (30, 30), mode="L").scan()
    assert (scan.median_short_side, scan.modes) == (20, {"L": 3})
    again = make("f", (10, 60), (50, 20), (30, 30), mode="L").scan()
    assert again == scan


def test_values_need_a_writable_cache(tmp_path, monkeypatch):
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "a.png")
    monkeypatch.setenv("FEATHERVIT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "file")  # as with a disk that became full
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        listed([tmp_path / "a.png"]).values()
    (tmp_path / "b.png").write_text("not an image")
    assert listed([tmp_path / "b.png"]).values().tops == {}
