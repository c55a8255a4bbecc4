"""The verb `study`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ..errors import ConfigError
from .flags import JsonFlag, ThreadsFlag
from .printing import new_console, print_json


@dataclass
class StudyFlags(ThreadsFlag, JsonFlag):
    """Run a study: every arm with every seed, in one or more processes, with one table and chart.

    A finished cell (arm, seed) never runs again; a stopped or killed cell resumes. Several processes or machines may work on
    one folder at the same time.
    """

    study: Positional[str] = ""
    """A study's name, or a file FILE.json (docs/studies.md). Without it, the names are listed."""
    out: str = ""
    """Folder of the study: a new folder, or an existing folder of the same study."""
    data: str | None = None
    """A name or folder that replaces the recipe's data; for arms that name datasets, a folder with one folder per dataset."""
    arms: tuple[str, ...] = ()
    """Run only these arms, in this order, and the arms that they start from."""
    epochs: tuple[str, ...] = ()
    """Epochs of an arm that has not started, such as mae-xxs=400; they replace the recipe's."""
    size: str | None = None
    """One of the study's sizes, such as cpu or gpu (the first if not given)."""
    seeds: str | None = None
    """Seeds that replace the study's, such as 0,1,2."""
    minutes: float | None = None
    """Minutes per cell; they replace the study's. The measured speed converts them to epochs once."""
    shard: str | None = None
    """Run only part i of n of the cells, such as 1/3; not needed if the processes share the folder."""
    retry_failed: bool = False
    """Run failed cells again."""
    max_minutes: float | None = None
    """Stop after this many minutes and save the state of the running cell; the same command resumes it."""
    trials: str | None = None
    """The study.json of the trials, which select among the candidates of the arms."""
    plan: bool = False
    """Run nothing: fix the epochs of all cells from speeds measured now (use an idle machine)."""
    list: bool = False
    """Run nothing: print the arms, with the result that a paper reports for each."""
    show: bool = False
    """Run nothing: rewrite the table and chart from the existing results."""

    def execute(self) -> int:
        from ..studies import STUDIES

        if not self.study:
            raise ConfigError(f"no study named: give one of {', '.join(sorted(STUDIES))}, or a FILE.json")
        if self.list:
            return _print_arms(self)
        seeds = seeds_of(self.seeds) if self.seeds is not None else None
        from ..studies import study as named
        from ..studies.report import rebuild, short_table, table

        definition = None if self.show else named(self.study)
        if not self.out:
            raise ConfigError("no folder is given; add --out FOLDER")
        if definition is None:
            result, status = rebuild(Path(self.out)), 0
        else:
            from ..studies.cells import run_study

            console = new_console(self.json)
            ended = run_study(
                definition,
                self.out,
                size=self.size,
                data=self.data,
                arms=self.arms,
                epochs=_epochs_of(self.epochs),
                seeds=seeds,
                minutes=self.minutes,
                shard=self.shard,
                retry_failed=self.retry_failed,
                max_minutes=self.max_minutes,
                trials=self.trials,
                plan_only=self.plan,
                console=console,
                command=shlex.join(["feathervit", *sys.argv[1:]]) if sys.argv[1:2] == ["study"] else "feathervit study",
            )
            result, status = ended.found, 130 if ended.interrupted else 1 if ended.failed else 0
            if ended.left:
                others = f", {ended.elsewhere} of them held by other processes" if ended.elsewhere else ""
                console.print(f"{ended.left} cells have not ended{others}", highlight=False)
        if self.json:
            print_json(result)
        elif sys.stdout.isatty():
            print("\n".join(short_table(result)))
            print(f"The full table: {Path(self.out) / 'table.md'}")
        else:
            print(table(result))
        return status


def _print_arms(args: StudyFlags) -> int:
    from ..studies import study as named

    definition = named(args.study)
    rows = {
        arm: (paper.name, paper.data, paper.value)
        for arm in definition.arms
        if (paper := definition.published.get(arm))
    }
    if args.json:
        names = ("name", "data", "published")
        print_json({"arms": {arm: dict(zip(names, rows.get(arm, ()), strict=False)) for arm in definition.arms}})
    else:
        for arm in definition.arms:
            print(f"{arm:<32} {', '.join(str(word) for word in rows.get(arm, ()) if word is not None)}".rstrip())
    return 0


def _epochs_of(words: tuple[str, ...]) -> dict[str, int]:
    pairs = [word.rpartition("=") for word in words]
    if bad := [word for word, (arm, _, number) in zip(words, pairs, strict=True) if not arm or not number.isdecimal()]:
        raise ConfigError(f"--epochs must be ARM=NUMBER, such as mae-xxs=400; got {bad[0]!r}")
    return {arm: int(number) for arm, _, number in pairs}


def seeds_of(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds must be whole numbers separated by commas, such as 0,1,2; got {text!r}") from None
