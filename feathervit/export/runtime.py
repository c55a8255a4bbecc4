"""Fetches ONNX Runtime Web: downloads it once with npm, verifies a pinned checksum, and stores it in the cache.

Downloaded code is not executed: three files are read from the archive by name.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ..errors import ConfigError, DataError, explained
from ..files import cache_folder, write_bytes

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web-{VERSION}.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# Name in the page -> name in the archive. Some static servers have no media type for .mjs.
FILES = {
    "ort.js": "package/dist/ort.wasm.min.mjs",
    "ort-wasm.js": "package/dist/ort-wasm-simd-threaded.mjs",
    "ort-wasm.wasm": "package/dist/ort-wasm-simd-threaded.wasm",
}
NOTICE = f"""ort.js, ort-wasm.js and ort-wasm.wasm are ONNX Runtime Web {VERSION}.
Copyright (c) Microsoft Corporation. MIT License: https://github.com/microsoft/onnxruntime/blob/main/LICENSE
"""


def browser_runtime() -> dict[str, bytes]:
    """Returns the files of FILES by name. Raises ConfigError if npm is missing or fails, DataError for a wrong checksum."""
    path = cache_folder() / PACKAGE
    if not path.exists():
        _fetch(path)
    data = path.read_bytes()
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != SHA512:
        path.unlink()
        raise DataError(f"{PACKAGE} does not have the expected checksum and was removed from {path.parent}; try again")
    with tarfile.open(path) as archive:
        return {name: archive.extractfile(member).read() for name, member in FILES.items()}


def _fetch(path: Path) -> None:
    instead = f"or put {PACKAGE} into {path.parent} yourself"
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(f"--to web uses npm once to download onnxruntime-web {VERSION}; install Node.js, {instead}")
    with explained(f"cannot keep {PACKAGE} in {path.parent}", "set FEATHERVIT_CACHE to another folder", ConfigError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        options = ["--loglevel", "error", "--ignore-scripts", "--pack-destination", folder]
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"npm did not fetch onnxruntime-web {VERSION}: {error}; try again, {instead}") from error
        if done.returncode or not (Path(folder) / PACKAGE).exists():
            # The line "complete log" contains a path, not a reason.
            lines = [line for line in done.stderr.splitlines() if "complete log" not in line]
            why = " ".join(" ".join(lines).split())[:300]
            raise ConfigError(
                f"npm did not fetch onnxruntime-web {VERSION}: {why or 'it wrote no file'}; try again, {instead}"
            )
        write_bytes(path, (Path(folder) / PACKAGE).read_bytes())
