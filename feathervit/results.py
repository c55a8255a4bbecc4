"""Defines the schema of result.json: the settings, machine, data and results of one run.

Verbs that measure a model write this file. Studies and tables read it, so every field is checked on reading. Writing is atomic:
a reader sees the complete old or new file, never a part. The JSON is strict: a number that is not finite becomes null. This
module does not import torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import shlex
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .config import RunConfig, from_dict
from .errors import ConfigError, valid
from .files import read_json, write_bytes

SCHEMA = 1

MACHINE_KEYS = ("os", "cpu", "cores", "memory_gib", "gpu")
DATA_KEYS = ("name", "fingerprint", "n_train", "n_val", "n_test", "classes")


@dataclass
class RunResult:
    """Holds the record of one run. Accuracies are fractions. `machine` has MACHINE_KEYS, `data` has DATA_KEYS.

    Newer files also have `data` "fingerprints" and "sources": split -> digest with pixels, and without pixels.
    `command` started the run, and `resumed` lists the different commands that resumed it.
    `epochs` holds the rows of metrics.csv, `best` the row of the selected epoch, `test` and `val` the fields of
    `evaluation.metrics.Metrics` (None: no such split). `config` is the resolved `RunConfig` as JSON. `commit` is the commit
    of the source checkout (None: an installed package, see `version`). `skipped` lists unreadable images. `skipped_steps`
    counts steps whose loss was not finite. `finished` is False for a run that stopped early and can be resumed.
    """

    command: str
    version: str
    commit: str | None
    machine: dict
    python: str
    torch: str
    threads: int
    device: str
    precision: str
    seed: int
    model: str
    parameters: int
    recipe: str
    data: dict
    config: dict
    epochs: list = field(default_factory=list)
    best: dict | None = None
    val: dict | None = None
    test: dict | None = None
    minutes: float | None = None
    images_per_s: float | None = None
    skipped: list = field(default_factory=list)
    skipped_steps: int = 0
    finished: bool = True
    resumed: list = field(default_factory=list)
    schema: int = SCHEMA


def machine() -> dict[str, Any]:
    """Describes this machine: os, cpu (model name), cores (usable by this process), memory_gib, gpu (or None)."""
    import torch

    gpu = None
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        gpu = names[0] if len(names) == 1 else f"{len(names)} x {names[0]}"
    elif torch.backends.mps.is_available():
        gpu = "mps"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "os": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": cores,
        "memory_gib": _memory_gib(),
        "gpu": gpu,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None  # Windows has no sysconf


def commit() -> str | None:
    """Returns the git commit of the source checkout of this package, with "-dirty" if tracked files differ.

    A source tree from `git archive` stores the commit in the file .commit. Returns None without a repository or without git.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        archived = root / ".commit"
        text = archived.read_text().strip() if archived.exists() else "$"
        return None if text.startswith("$") else text  # not a copy from git archive
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, timeout=20, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def name_of(text: str) -> str:
    """Returns the last part of a path, which is safe to publish. Names of datasets and models stay unchanged."""
    if re.fullmatch(r"hf:[\w.-]+/[\w.-]+", text) or not re.search(r"[/\\]", text):
        return text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def public_command(command: str) -> str:
    """Shortens each path in a command line with `name_of`, also after "="."""
    parts = [part.rpartition("=") for part in shlex.split(command)]
    return shlex.join(flag + sign + name_of(value) for flag, sign, value in parts)


def write_json(path: str | Path, obj: Any) -> None:
    """Writes `obj` (JSON values, dataclasses, paths, numpy or torch scalars) to `path` atomically.

    Raises RunFolderError, with the folder and its requirements, if the file cannot be written.
    """
    text = json.dumps(_plain(obj), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(Path(path), text.encode(errors="backslashreplace"))  # escapes names that are not valid Unicode


def _plain(obj: Any) -> Any:
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: _plain(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if isinstance(obj, dict):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if hasattr(obj, "item"):  # a numpy or torch scalar
        obj = obj.item()
    return None if isinstance(obj, float) and not math.isfinite(obj) else obj


def read_result(path: str | Path) -> RunResult:
    """Reads the result in file `path` and checks every field. Raises RunFolderError with the file and the error."""
    path = Path(path)
    with valid(f"{path} is not the result of a run", "; run again, or remove it"):
        data = read_json(path)
        _check_keys(data, [f.name for f in dataclasses.fields(RunResult) if f.name != "schema" and _required(f)], "")
        if data.get("schema", SCHEMA) != SCHEMA:
            raise ConfigError(f"its schema is {data['schema']!r:.20}, this version of feathervit reads {SCHEMA}")
        result = from_dict(RunResult, data)
        _check_keys(result.machine, MACHINE_KEYS, "machine.")
        _check_keys(result.data, DATA_KEYS, "data.")
        if not all(isinstance(row, dict) for row in result.epochs):
            raise ConfigError("epochs must be a list of objects")
        for row in [*result.epochs, *([result.best] if result.best is not None else [])]:
            if not isinstance(row.get("epoch"), int) or not all(
                isinstance(v, int | float | None) for v in row.values()
            ):
                raise ConfigError(f"a row of epochs must hold its epoch and numbers, got {row!r:.80}")
    return result


def trained_on(weights: Path) -> frozenset[str]:
    """Returns the sources of the training images, if the file `weights` is in the folder of its run."""
    path = weights.parent / "splits.json"
    return frozenset(read_splits(path)["train"]["sources"]) if path.exists() else frozenset()


def read_splits(path: str | Path) -> dict[str, dict[str, Any]]:
    """Reads and checks the splits in splits.json: name -> "how", "count" and "sources". Raises RunFolderError."""
    path = Path(path)
    with valid(f"{path} cannot be read"):
        splits = read_json(path)["splits"]
        for name, part in splits.items():
            if name not in ("train", "val", "test") or not isinstance(part["how"], str):
                raise ConfigError(f"{name!r:.40} is not a split with a text on how it was made")
            if not all(isinstance(s, str) and not PurePosixPath(s).is_absolute() for s in part["sources"]):
                raise ConfigError(f"splits.{name}.sources must be paths inside the data")
            if any(".." in PurePosixPath(s).parts for s in part["sources"]):
                raise ConfigError(f"splits.{name}.sources point outside the data")
            if part["count"] != len(part["sources"]):
                raise ConfigError(
                    f"splits.{name}.count is {part['count']!r:.40}, but there are {len(part['sources'])} sources"
                )
        sources = [source for part in splits.values() for source in part["sources"]]
        if len(set(sources)) < len(sources):
            raise ConfigError("an image occurs twice")
    return splits


def read_config(place: Path) -> RunConfig:
    """Reads the configuration of a run folder or of a file. Raises RunFolderError if it cannot be read."""
    path = place if place.is_file() else place / "config.json"
    with valid(f"{path} cannot be read"):
        return from_dict(RunConfig, read_json(path))


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _check_keys(data: Any, keys: Any, where: str) -> None:
    missing = [key for key in keys if not isinstance(data, dict) or key not in data]
    if missing:
        raise ConfigError(f"no {', '.join(where + key for key in missing[:5])} in it")


# ---------------------------------------------------------------------------------------------------------------------
# Cells of tables


def spread(values: list[float], form: str = ".2f") -> str:
    """Formats values as mean (range) with the format `form`. One value has no range; an empty list gives ""."""
    if not values:
        return ""
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"


def alike(texts: Iterable[str]) -> str:
    """Joins the distinct texts, in order."""
    return " / ".join(dict.fromkeys(texts))


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]], left: int) -> str:
    """Formats rows of cells as a Markdown table. The first `left` columns are left-aligned, the others right-aligned."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def table_of(rows: Sequence[Mapping[str, str]], left: int) -> str:
    """Formats rows, each a mapping of column -> cell, like `markdown_table`. Returns "" without rows."""
    return markdown_table(tuple(rows[0]), [tuple(row.values()) for row in rows], left) if rows else ""


def collapsed(summary: str, text: str) -> str:
    """Formats Markdown that a click on its summary shows."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
