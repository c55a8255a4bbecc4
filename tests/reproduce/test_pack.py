"""Code and data taken to another machine: what comes out is what went in, or an error says which part is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feathervit.cli import main
from feathervit.data import load_data
from feathervit.reproduce.pack import pack, unpack

from ..conftest import write_pictures

ROOT = Path(__file__).resolve().parents[2]


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path) -> Path:
    """A package with what says its commit, as ours has it."""
    root = tmp_path / "repository"
    (root / "feathervit").mkdir(parents=True)
    for name in (".gitattributes", ".commit", "feathervit/results.py"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    (root / "not-committed.txt").write_text("")
    return root


@pytest.fixture
def sets(tmp_path) -> dict[str, Path]:
    """Pictures, and bytes that no compression makes smaller, under odd names."""
    odd = tmp_path / "data" / "odd"
    (odd / "train" / "a class").mkdir(parents=True)
    (odd / "train" / "a class" / "ü.bin").write_bytes(np.random.default_rng(0).bytes(25_000))
    (odd / "train" / "empty").touch()
    (odd / ("long" * 40)).touch()
    return {"pets": write_pictures(tmp_path / "data" / "pets" / "train", 4).parent, "odd": odd}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_there_and_back(tmp_path, repository, sets):
    files = pack(tmp_path / "pack", repository, sets, part_bytes=9_000)
    assert max(p.stat().st_size for p in files if ".tar.xz." in p.name) == 9_000
    assert sum(p.name.startswith("odd.") for p in files) == 3
    script = [sys.executable, "-I", str(tmp_path / "pack" / "unpack.py"), str(tmp_path / "there")]
    said = subprocess.run(script, check=True, capture_output=True, text=True, cwd="/").stdout  # needs nothing of ours
    assert "results reproduce next" in said
    for name, folder in sets.items():
        assert tree(tmp_path / "there" / "data" / name) == tree(folder)
    code = tree(tmp_path / "there" / "code")
    assert set(code) == {".gitattributes", ".commit", "feathervit/results.py"}
    assert code["feathervit/results.py"] == (repository / "feathervit" / "results.py").read_bytes()
    one, other = (load_data(str(p), img_size=16).train for p in (sets["pets"], tmp_path / "there" / "data" / "pets"))
    assert one.fingerprint() == other.fingerprint()
    assert unpack(tmp_path / "pack", tmp_path / "there") == [
        tmp_path / "there" / name for name in ("code", "data/pets", "data/odd")
    ]


def test_unpacked_code_knows_its_commit(tmp_path, repository, monkeypatch):
    from feathervit import results

    pack(tmp_path / "pack", repository, {})
    unpack(tmp_path / "pack", tmp_path / "there")
    monkeypatch.setattr(results, "__file__", str(tmp_path / "there" / "code" / "feathervit" / "results.py"))
    assert results.commit() == git(repository, "rev-parse", "HEAD").strip()
    (tmp_path / "there" / "code" / ".commit").write_bytes((ROOT / ".commit").read_bytes())
    assert results.commit() is None
    monkeypatch.setattr(results, "__file__", str(tmp_path / "nowhere" / "feathervit" / "results.py"))
    assert results.commit() is None


@pytest.mark.parametrize("harm", ["missing", "damaged", "short"])
def test_a_part_that_is_wrong_is_named_and_nothing_is_unpacked(tmp_path, repository, sets, harm):
    pack(tmp_path / "pack", repository, sets, part_bytes=9_000)
    part = tmp_path / "pack" / "odd.tar.xz.001"
    whole = part.read_bytes()
    if harm == "missing":
        part.unlink()
    else:
        part.write_bytes(whole[:-1] if harm == "short" else whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(ValueError, match=r"odd\.tar\.xz\.001"):
        unpack(tmp_path / "pack", tmp_path / "there")
    assert not (tmp_path / "there").exists()
    script = [sys.executable, str(tmp_path / "pack" / "unpack.py"), str(tmp_path / "there")]
    failed = subprocess.run(script, capture_output=True, text=True)
    assert failed.returncode == 1 and "odd.tar.xz.001" in failed.stderr and "Traceback" not in failed.stderr


def test_a_half_unpacked_folder_is_no_folder(tmp_path, repository, sets):
    pack(tmp_path / "pack", repository, sets)
    (tmp_path / "there" / "data" / "pets.partial").mkdir(parents=True)
    (tmp_path / "there" / "data" / "pets.partial" / "strange").touch()
    with pytest.raises(ValueError, match="not what was packed"):
        unpack(tmp_path / "pack", tmp_path / "there")
    assert not (tmp_path / "there" / "data" / "pets").exists()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="packs the last commit of a clone")
def test_the_verb(tmp_path, sets, capsys):
    data = sets["pets"].parent
    assert main(["results", "pack", str(tmp_path / "pack"), "--data", str(data), "--sets", "pets"]) == 0
    assert "pets.tar.xz.000" in capsys.readouterr().out
    unpack(tmp_path / "pack", tmp_path / "there")
    assert (tmp_path / "there" / "code" / "feathervit" / "reproduce" / "pack.py").exists()
    assert tree(tmp_path / "there" / "data" / "pets") == tree(sets["pets"])
    assert main(["results", "pack", str(tmp_path / "pack"), "--data", str(data), "--sets", "pets"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["results", "pack", str(tmp_path / "other"), "--data", str(data), "--sets", "no-such"]) == 2
    assert "no folder no-such" in capsys.readouterr().err
