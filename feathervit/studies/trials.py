"""Runs trials: short runs of candidates, such as learning rates, that select one candidate per arm of a study.

The trials of the study NAME are the study NAME-trials (`trials_of`). Its study.json holds the validation accuracy of each
candidate, and is an input of NAME.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, valid
from ..files import read_json
from .definition import Stage, Study

Tried = dict[str, float | None]  # candidate -> validation accuracy, None if its run failed


def rates(lr: float) -> dict[str, Stage]:
    """Returns three candidates for an arm: a third of the learning rate, the rate, and three times the rate."""
    return {f"lr {rate:.2g}": {"lr": float(f"{rate:.2g}")} for rate in (lr / 3, lr, 3 * lr)}


def trials_of(study: Study) -> Study:
    """Returns the study of the candidates of `study`, with one arm per candidate."""
    arms = {
        _named(arm, name): _changed(study, arm, change)
        for arm, candidates in study.candidates.items()
        for name, change in candidates.items()
    }
    question = f"Which candidates are best on validation images, for the study {study.name}?"
    return Study(f"{study.name}-trials", question, study.base, arms, {"": study.trials})


def with_choices(study: Study, path: Path | None) -> tuple[Study, dict[str, Tried]]:
    """Returns the study with the best candidate of each arm, and the results of the trials by arm.

    `path`: the study.json of the trials. Raises ConfigError if required trials are missing, or if trials are given but not
    required. Raises RunFolderError for a file that is not the result of the trials.
    """
    chosen = {arm: candidates for arm, candidates in study.candidates.items() if arm in study.arms}
    if not chosen:
        if path is not None:
            raise ConfigError("trials are given, and no arm has candidates to choose from; leave them out")
        return study, {}
    name = f"{study.name}-trials"
    run = f"feathervit study {name} --out FOLDER"
    if path is None:
        raise ConfigError(
            f"validation chooses one of the candidates of {next(iter(chosen))}; run {run} first, and give --trials "
            "FOLDER/study.json"
        )
    record = _read(path, name)
    trials = {arm: _trial(record, arm, candidates, path) for arm, candidates in chosen.items()}
    arms = {
        arm: _changed(study, arm, chosen[arm][_best(trials[arm])]) if arm in chosen else stages
        for arm, stages in study.arms.items()
    }
    return replace(study, arms=arms), trials


def _named(arm: str, candidate: str) -> str:
    return f"{arm}, {candidate}"


def _changed(study: Study, arm: str, change: Stage) -> tuple[Stage, ...]:
    *before, last = study.stages(arm)
    return (*before, {**last, **change})


def _read(path: Path, name: str) -> dict[str, Any]:
    with valid(f"{path} is not a result of the study {name}"):
        record = read_json(path)
        if record["name"] != name:
            raise ValueError(f"it is of the study {record['name']!r:.80}")
        return record


def _trial(found: dict[str, Any], arm: str, candidates: Mapping[str, Stage], path: Path) -> Tried:
    tried: Tried = {}
    for name in candidates:
        cells = [c for c in found["cells"] if c["arm"] == _named(arm, name) and c["status"] in ("finished", "failed")]
        if not cells:
            raise ConfigError(f"{path}: the trial {_named(arm, name)!r} has not ended; run it first")
        tops = [cell["val_top1"] for cell in cells if cell["status"] == "finished"]
        tried[name] = statistics.mean(tops) if tops else None
    if all(top1 is None for top1 in tried.values()):
        raise ConfigError(f"{path}: all trials of {arm!r} failed; choose other candidates")
    return tried


def _best(tried: Tried) -> str:
    return max((name for name, top1 in tried.items() if top1 is not None), key=lambda name: tried[name])
