"""The verbs of the room `results`: the papers' tables from result files, and the runs that make these."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ..errors import ConfigError, UnknownNameError
from .printing import new_console, print_json, set_threads
from .study import seeds_of


@dataclass
class ResultsTable:
    """The papers' tables with their figures and ours, from the result files in a folder."""

    results: Positional[str] = "results"
    """The folder: reproduce/ROW.json and NAME/seed-N.json in it are read."""
    only: str | None = None
    """One of the tables: pretraining, table-7, table-8, table-9, poorvits, feather, headline, seeds, weights."""
    json: bool = False
    """Print one JSON object on standard output and nothing else: name -> Markdown."""


def results_table(args: ResultsTable, _: dict[str, Any]) -> int:
    from ..reproduce.rows import TABLES
    from ..reproduce.table import tables

    if not Path(args.results).is_dir():
        raise ConfigError(f"{args.results} is no folder; name the one with the result files")
    made = tables(args.results)
    if args.only is not None and args.only not in made:
        raise UnknownNameError("table", args.only, made)
    made = {args.only: made[args.only]} if args.only else made
    if args.json:
        print_json(made)
    else:
        print("\n\n".join(f"## {TABLES.get(name, name)}\n\n{text}" for name, text in made.items()))
    return 0


@dataclass
class ResultsReproduce:
    """Run a row of the papers' tables, or the next ones, for at most --max-minutes; run it again to continue.

    Trains on all of train and reports the last epoch. OUT/results/ROW.json is what `results table` reads, from
    RESULTS/reproduce/ROW.json. A row that starts from pre-training runs that first, once for all rows.
    """

    row: Positional[str]
    """A row's id, as mlit-xxs-cifar100; "next": the unfinished ones in order, as many as there is time for; "list"."""
    out: str = "runs/reproduce"
    """Folder of all rows, with their state: take it along and go on elsewhere."""
    data: str | None = None
    """A folder with folders cifar100, cifar10, ... in it; downloaded if not given."""
    max_minutes: float | None = None
    """Stop after this many minutes with the state saved; the same command goes on. Reading the data for the first time, and
    the last evaluation of a run, may come on top."""
    seeds: str = "0,1,2"
    pretrain_epochs: int | None = None
    """Epochs of pre-training instead of the paper's thousands; the learning rate falls to zero in them."""
    retry_failed: bool = False
    """Start runs anew that failed."""
    threads: int | None = None
    """CPU threads (PyTorch's choice if not given)."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""


def results_reproduce(args: ResultsReproduce, _: dict[str, Any]) -> int:
    from ..reproduce.rows import ORDER, ROWS

    if args.row == "list":
        rows = {name: f"{ROWS[name].name}, {ROWS[name].data}" for name in ORDER}
        if args.json:
            print_json(rows)
        else:
            print("\n".join(f"{name:<32} {text}" for name, text in rows.items()))
        return 0
    if args.row != "next" and args.row not in ORDER:
        raise UnknownNameError("row", args.row, ORDER, "`feathervit results reproduce list` shows them")
    names = ORDER if args.row == "next" else (args.row,)
    from ..reproduce.reproduce import Place, reproduce

    set_threads(args.threads)
    console = new_console(args.json)
    place = Place(
        Path(args.out),
        Path(args.data) if args.data else None,
        seeds_of(args.seeds),
        args.pretrain_epochs,
        args.retry_failed,
        console,
        shlex.join(["feathervit", *sys.argv[1:]]) if sys.argv[1:2] == ["results"] else "feathervit results reproduce",
    )
    found = reproduce(names, place, args.max_minutes)
    if args.json:
        print_json({"rows": args.row, "out": args.out, **asdict(found)})
    else:
        said = []
        if found.failed:
            said.append(f"failed: {', '.join(found.failed)} (--retry-failed starts anew)")
        if found.passed_over:
            said.append(f"{len(found.passed_over)} rows were passed over for want of data or model")
        if found.finished:
            said.append(f"finished; see {args.out}/results")
        elif len(found.passed_over) < len(names):
            said.append("not finished: the same command goes on")
        console.print("; ".join(said), emoji=False, markup=False, highlight=False, soft_wrap=True)
    stuck = found.passed_over and not found.begun
    return 130 if found.interrupted else 1 if found.failed or stuck else 0


@dataclass
class ResultsPack:
    """Code and data in parts of at most 60 MB, to run rows on a machine without network."""

    out: Positional[str]
    """A new folder. Take it along; `python unpack.py DEST` in it checks and unpacks."""
    data: str
    """A folder with a folder for each data set, named as it is."""
    sets: tuple[str, ...] = ("cifar100", "cifar10")
    """Which of them."""


def results_pack(args: ResultsPack, _: dict[str, Any]) -> int:
    import shutil
    import subprocess

    from ..errors import DataError, RunFolderError
    from ..reproduce.pack import pack

    if shutil.which("git") is None:
        raise ConfigError("packing needs git, which is not installed")
    folders = {name: Path(args.data) / name for name in args.sets}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise DataError(f"{args.data} has no folder {name}")
    try:
        files = pack(Path(args.out), Path(__file__).resolve().parents[2], folders)
    except subprocess.CalledProcessError as error:
        raise ConfigError("packing needs a clone of the repository with git; this is none") from error
    except OSError as error:
        raise RunFolderError(f"cannot pack into {args.out}: {error}; name a new folder with room") from error
    for path in files:
        print(f"{path} {path.stat().st_size:,} bytes")
    return 0
