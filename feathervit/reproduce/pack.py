"""Code and data in parts of at most 60 MB, for a machine without network, and the way back: bit for bit, or an error.

`pack` writes into one folder, per archive (the committed code, each data set), a tar compressed with xz and cut into parts;
manifest.json with the SHA-256 of every part and of every archive's files; and a copy of this file as unpack.py, which needs
Python's standard library alone:

    python unpack.py DEST      checks the parts beside it and unpacks them: DEST/code, DEST/data/cifar100, ...
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path

PART_BYTES = 60_000_000
BLOCK = 1 << 20


def pack(out: Path, root: Path, data: dict[str, Path], part_bytes: int = PART_BYTES) -> list[Path]:
    """Writes the folder `out`; returns its files. `root`: the repository, packed as of its last commit. `data`: name -> folder.

    Raises FileExistsError where `out` is not empty, OSError, subprocess.CalledProcessError where `root` is no repository.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    archive = subprocess.run(["git", "-C", str(root), "archive", "HEAD"], check=True, capture_output=True).stdout
    archives = {"code": _write_parts(out, "code", archive, part_bytes)}
    for name, folder in data.items():
        archives[f"data/{name}"] = _write_parts(out, name, folder, part_bytes)
    (out / "unpack.py").write_bytes(Path(__file__).read_bytes())
    (out / "manifest.json").write_text(json.dumps({"archives": archives}, indent=1) + "\n")
    return sorted(out.iterdir())


class _Parts(io.RawIOBase):
    """A file to write into that becomes OUT/NAME.tar.xz.000, .001, ..., none larger than `limit`."""

    def __init__(self, out: Path, name: str, limit: int):
        self.out, self.name, self.limit = out, name, limit
        self.parts: list[dict] = []
        self._file, self._room, self._digest = None, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, block) -> int:
        rest = memoryview(block)
        while len(rest):
            if not self._room:
                self._end()
                path = self.out / f"{self.name}.tar.xz.{len(self.parts):03}"
                self._file, self._room, self._digest = path.open("wb"), self.limit, hashlib.sha256()
            now = rest[: self._room]
            self._file.write(now)
            self._digest.update(now)
            self._room -= len(now)
            rest = rest[len(now) :]
        return len(block)

    def _end(self) -> None:
        if self._file:
            path = Path(self._file.name)
            self._file.close()
            self.parts.append({"file": path.name, "bytes": path.stat().st_size, "sha256": self._digest.hexdigest()})
            self._file = None

    def close(self) -> None:
        self._end()
        super().close()


def _write_parts(out: Path, name: str, source: Path | bytes, limit: int) -> dict:
    parts = _Parts(out, name, limit)
    with parts, lzma.open(parts, "wb", preset=1) as packed:  # pictures do not shrink, the headers between them do
        if isinstance(source, bytes):
            packed.write(source)
        else:
            with tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                for path in _files(source):
                    info = tarfile.TarInfo(path.relative_to(source).as_posix())
                    info.size = path.stat().st_size
                    with path.open("rb") as file:
                        tar.addfile(info, file)
    if isinstance(source, bytes):
        with tarfile.open(fileobj=io.BytesIO(source)) as tar:
            members = [m for m in tar.getmembers() if m.isfile()]
            files = {m.name: hashlib.sha256(tar.extractfile(m).read()).hexdigest() for m in members}
        tree = _digest(files)
    else:
        tree = tree_digest(source)
    return {"parts": parts.parts, "tree": tree}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def tree_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files in a folder."""
    return _digest(
        {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in _files(folder)}
    )


def _digest(files: dict[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(os.fsencode(lines)).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# The other side


def unpack(folder: Path, dest: Path) -> list[Path]:
    """Unpacks what `pack` wrote into `folder`; returns the folders made. One that is there already is left alone.

    Raises ValueError, naming it, for a part that is missing or damaged, before anything is unpacked.
    """
    archives = json.loads((folder / "manifest.json").read_text())["archives"]
    for archive in archives.values():
        for part in archive["parts"]:
            _check(folder / part["file"], part)
    made = []
    for name, archive in archives.items():
        target, draft = dest / name, dest / f"{name}.partial"
        if not target.exists():
            draft.mkdir(parents=True, exist_ok=True)
            files = [folder / part["file"] for part in archive["parts"]]
            with lzma.open(_Joined(files)) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
                tar.extractall(draft, filter="data")
            if tree_digest(draft) != archive["tree"]:
                raise ValueError(f"{draft} is not what was packed; is it an old one? Remove it and unpack again")
            draft.rename(target)
        made.append(target)
    return made


def _check(path: Path, part: dict) -> None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise ValueError(f"the part {path} cannot be read: {error.strerror}; bring it here") from error
    if digest.hexdigest() != part["sha256"]:
        raise ValueError(f"the part {path} is damaged: its SHA-256 is not that of the manifest; bring it again")


class _Joined(io.RawIOBase):
    """Files read as if they were one."""

    def __init__(self, files: list[Path]):
        self._files, self._open = list(files), None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while True:
            if self._open is None:
                if not self._files:
                    return 0
                self._open = self._files.pop(0).open("rb")
            if count := self._open.readinto(buffer):
                return count
            self._open.close()
            self._open = None


if __name__ == "__main__":
    here, dest = Path(__file__).resolve().parent, Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    try:
        for place in unpack(here, dest):
            print(place)
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
    print(
        f"cd {dest / 'code'} && python -m feathervit results reproduce next --data {(dest / 'data').resolve()} --max-minutes 9"
    )
