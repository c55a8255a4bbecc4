"""A row of the table: the name of the malformed input, how to make it, the command, and the expected message."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feathervit import checkpoint

Make = Callable[[Path, Path], None]  # (here, world): writes the malformed input into the folder `here`


@dataclass(frozen=True)
class Case:
    """`argv` may contain {here}, the case's own folder, and {world}, the folder of intact inputs that all cases share.

    The message must contain each of `texts`, in upper or lower case.
    """

    name: str
    argv: str | Sequence[str]
    texts: Sequence[str]
    make: Make = lambda here, world: None
    status: int = 2

    def command(self, here: Path, world: Path) -> list[str]:
        arguments = self.argv.split() if isinstance(self.argv, str) else list(self.argv)
        return [word.replace("{here}", str(here)).replace("{world}", str(world)) for word in arguments]


def file(name: str, content: bytes | str) -> Make:
    """Writes a file with this content."""

    def make(here: Path, world: Path) -> None:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def copy(folder: str, change: Callable[[Path], Any] = lambda copied: None) -> Make:
    """Copies one of the world's folders and changes the copy."""

    def make(here: Path, world: Path) -> None:
        shutil.copytree(world / folder, here / folder)
        change(here / folder)

    return make


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Changes a JSON file; `change` works on the value in place, or returns another."""
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed))


def damaged_json(name: str, write: Callable[[bytes], Make]) -> list[tuple[str, Make, str]]:
    """Rows (what, make, text) of a JSON file that is not what it should be. `write(data)` makes one with this content."""
    contents = {"half": b'{"recipe": "folder", "arm', "of random bytes": bytes(range(256)), "a list": b"[]"}
    contents["nested deeply"] = b"[" * 100_000
    return [(what, write(data), name) for what, data in contents.items()]


def put(value: Any, dotted: str, new: Any) -> None:
    """Sets a value inside JSON by its dotted path."""
    *parents, last = dotted.split(".")
    for part in parents:
        value = value[part]
    value[last] = new


def raw_safetensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def forged(change: Callable[[dict[str, Any], dict[str, Any]], Any], of: str = "run/best.safetensors") -> Make:
    """Writes w.safetensors: weights or a state after `change(tensors, meta)`, with a correct checksum."""

    def make(here: Path, world: Path) -> None:
        tensors, meta = checkpoint._read(world / of)
        change(tensors, meta)
        (here / "w.safetensors").write_bytes(checkpoint._pack(tensors, meta))

    return make
