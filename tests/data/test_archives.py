"""Data in .zip and .tar files."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from feathervit.files import cache_folder

from .commands import paint


def archive(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """A .zip or a .tar of any compression, with these members."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in files.items():
                out.writestr(name, content)
            for name, target in (links or {}).items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                out.writestr(info, target)
        return path
    compression = {".tgz": "gz", ".gz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{compression}") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            out.addfile(info)
    return path


@pytest.fixture
def members(tmp_path) -> dict[str, bytes]:
    """The files of pets/cat and pets/dog."""
    root = paint(
        tmp_path / "made", "pets/cat/1.png pets/cat/2.png pets/dog/3.png pets/__MACOSX/cat/._1.png pets/read.me"
    )
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["PETS.ZIP", "pets.tar", "pets.tar.gz", "pets.tar.bz2", "pets.tar.xz"])
def test_an_archive_is_unpacked_once(command, tmp_path, members, name, monkeypatch):
    path = archive(tmp_path / name.lower(), members).rename(tmp_path / name)
    counts, line = command.counts(path)
    assert counts == {"train": {"cat": 2, "dog": 1}}
    assert f"unpacked from {name} into {cache_folder() / 'unpacked'}" in line
    assert (tmp_path / name).exists() and sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "made", "runs"])
    run = command.out / "1"
    assert json.loads((run / "splits.json").read_text())["splits"]["train"]["sources"][0] == "pets/cat/1.png"
    written = {p: p.stat().st_mtime_ns for p in (cache_folder() / "unpacked").rglob("*.png")}
    assert json.loads(command("evaluate", run, "--json")[1])["n"] == 3
    assert {p: p.stat().st_mtime_ns for p in (cache_folder() / "unpacked").rglob("*.png")} == written
    next(iter(written)).unlink()  # as a cache cleaner does
    assert json.loads(command("evaluate", run, "--json")[1])["n"] == 3
    other = archive(
        tmp_path / f"other{Path(name).suffix.lower()}", {"pets/x/4.png": members["pets/cat/1.png"], **members}
    )
    other.replace(path)
    assert json.loads(command("data", "check", path, "--json")[1])["counts"] == {"train": {"cat": 2, "dog": 1, "x": 1}}
    assert command("data", "cache", "--clear")[0] == 0
    assert not (cache_folder() / "unpacked").exists()


EVIL = ["../out.png", "a/../../out.png", "/tmp/out.png", "C:\\out.png", "..\\out.png", "a\\..\\..\\out.png"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("evil", EVIL)
def test_no_file_is_written_outside_the_folder(command, tmp_path, members, kind, evil):
    path = archive(tmp_path / f"set.{kind}", {**members, evil: b"x"})
    before = sorted(tmp_path.rglob("*"))
    assert "leads outside" in command.refusal(path)
    assert sorted(p for p in tmp_path.rglob("*") if "runs" not in p.parts) == before
    assert not [p for p in (cache_folder() / "unpacked").rglob("*") if p.suffix == ".png"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_links_are_skipped(command, tmp_path, members, kind):
    path = archive(tmp_path / f"set.{kind}", members, {"pets/dog/up": "../../..", "pets/dog/9.png": "/etc/passwd"})
    counts, line = command.counts(path)
    assert counts == {"train": {"cat": 2, "dog": 1}} and "2 links and devices" in line


def test_a_member_below_a_link_stays_inside(command, tmp_path, members):
    with tarfile.open(tmp_path / "set.tar", "w") as out:
        link = tarfile.TarInfo("pets/way")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        out.addfile(link)
        for name, content in {**members, "pets/way/out.png": members["pets/cat/1.png"]}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    assert command.counts(tmp_path / "set.tar")[0] == {"train": {"cat": 2, "dog": 1, "way": 1}}
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_archives_that_grow_too_large_are_refused(command, tmp_path, members, kind, monkeypatch):
    monkeypatch.setattr("feathervit.data.archive._SMALL", 1_000_000)
    path = archive(tmp_path / f"set.{kind}", {**members, "pets/dog/bomb.bmp": bytes(5_000_000)})
    assert "unpacks to more than" in command.refusal(path)
    monkeypatch.setattr("feathervit.data.archive._FILES", 3)
    assert "more than 3 files" in command.refusal(archive(tmp_path / f"many.{kind}", members))
    assert not list((cache_folder() / "unpacked").rglob("*.bmp"))


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tgz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped"])
def test_damaged_archives_are_refused(command, tmp_path, members, name, damage):
    path = archive(tmp_path / name, members)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.find(b"IDAT") + 20 if name == "set.tar" else len(whole) // 3] ^= 0xFF
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"x", "flipped": bytes(flipped)}[damage])
    if name == "set.tar" and damage == "flipped":  # a tar has no checksum, so the image is found to be damaged
        assert command("data", "check", path)[0] == 1
    else:
        assert "cannot unpack" in command.refusal(path)
