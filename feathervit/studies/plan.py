"""Makes the plan of a study folder, plan.json: the definition and the epochs of each stage, fixed once for all processes.

A budget in minutes is converted to epochs. The time of an epoch is the number of training images divided by the measured speed
of the training step of the stage (`benchmark.train`). With one thread on a CPU, CPU time is used, so that a study can be
planned while other programs run. Validation and the final evaluation are not included. Later calls, on any machine, read the
epochs without measuring.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..benchmark.train import run as measure_step
from ..config import RunConfig, changed, from_dict, to_dict
from ..data import load_run_data
from ..data.loader import Sampler
from ..errors import ConfigError, FeatherVitError, RunFolderError, valid
from ..files import read_json
from ..recipes import recipe
from ..recipes.planning import of_the_weights, planned
from ..results import commit, machine, write_json
from .claim import claim
from .definition import NAME, Published, Stage, Study, check_study
from .trials import Tried

STEPS, ROUNDS = 5, 5  # per measurement; the first steps of a process are slower
WORDS = ("recipe", "share", "data")  # names in a stage that are not fields


@dataclass
class Plan:
    """The content of plan.json.

    `budget`: {"epochs": n}, {"minutes": m} or {}. `epochs`: arm -> one number per stage. `images_per_s`: arm -> one number
    per stage, measured only for a budget in minutes. `measured_on`: arm -> the machine of the measurement. `published`: arm
    -> published result. `trials`: arm -> candidate -> validation accuracy.
    """

    name: str
    question: str
    base: dict
    fields: dict
    budget: dict
    arms: dict
    seeds: list
    command: str = ""
    commit: str | None = None
    epochs: dict = field(default_factory=dict)
    images_per_s: dict = field(default_factory=dict)
    measured_on: dict | None = None
    published: dict = field(default_factory=dict)
    trials: dict = field(default_factory=dict)


def stage_run(
    study: Study, fields: Stage, stage: Stage, seed: int, folders: Mapping[str, str], epochs: int | None
) -> tuple[RunConfig, str, dict[str, Any]]:
    """Returns (base, data, changes) for the run of a stage, as arguments of `train`. `epochs` None: the recipe's.

    `folders`: "previous" or the name of an arm -> the run folder for a value "{previous}" or "{ARM}". A warm-up that the
    stage does not set keeps its share of the run, as in the recipe.
    """
    stage = {**fields, **stage}
    base = recipe(stage["recipe"]) if "recipe" in stage else study.base
    placeholders = {"{seed}": seed, **{f"{{{name}}}": folder for name, folder in folders.items()}}
    changes = {
        name: placeholders.get(value, value) if isinstance(value, str) else value
        for name, value in stage.items()
        if name not in WORDS
    }
    if epochs is not None:
        changes["epochs"] = epochs
        if base.optim.warmup_epochs and epochs != base.epochs:
            changes.setdefault("optim.warmup_epochs", base.optim.warmup_epochs * epochs / base.epochs)
    return base, stage.get("data", study.base.data), {**changes, "seed": seed}


def make_plan(
    study: Study,
    size_name: str | None,
    out: Path,
    command: str,
    say: Callable[[str], None],
    trials: Mapping[str, Tried] = MappingProxyType({}),
) -> Plan:
    """Reads or creates the plan of folder `out` for this study, and adds new arms and seeds to it.

    `trials`: the results of the trials, by arm. Raises RunFolderError with the differences if the folder holds another
    study, and ConfigError with the arm for an invalid study.
    """
    size = study.size(size_name)
    check_study(study, size)
    budget = {name: value for name in ("epochs", "minutes") if (value := getattr(size, name)) is not None}
    arms = {arm: [_json(stage) for stage in study.stages(arm)] for arm in study.arms}
    requested = Plan(
        study.name, study.question, to_dict(study.base), _json(size.fields), budget, arms, list(size.seeds), command
    )
    requested.trials = {arm: trials[arm] for arm in study.arms if arm in trials}
    requested.published = {arm: to_dict(paper) for arm in study.arms if (paper := study.published.get(arm))}
    path = out / "plan.json"
    while True:
        stored = read_plan(out) if path.exists() else None
        if stored:
            _require_same(stored, requested, out)
            if set(requested.arms) <= set(stored.epochs) and set(requested.seeds) <= set(stored.seeds):
                return stored
        for arm in requested.arms:  # check all arms before writing
            if not stored or arm not in stored.epochs:
                _stage_configs(study, size.fields, arm, requested.seeds[0])
        speeds: dict[str, float] = {}
        if owned := claim(out / "plan"):
            with owned:
                stored = read_plan(out) if path.exists() else None  # another process may have written it
                plan = _merged(stored, requested, out)
                for arm in requested.arms:
                    if arm not in plan.epochs:
                        _settle(study, size.fields, arm, plan, say, speeds)
                        write_json(path, plan)  # so that arms are not measured again after a stop
                write_json(path, plan)
            continue
        say("another process is planning this study; waiting")
        time.sleep(2)


def read_plan(out: Path) -> Plan:
    """Reads the plan of a study folder. Raises RunFolderError if it is missing or cannot be read."""
    path = out / "plan.json"
    if not path.exists():
        raise RunFolderError(f"{out} holds no study")
    with valid(f"{path} cannot be read"):
        plan = from_dict(Plan, read_json(path))
        if not plan.arms or not all(
            isinstance(stages, list) and NAME.fullmatch(arm) for arm, stages in plan.arms.items()
        ):
            raise ConfigError("arms must name at least one arm, each with a name for a folder and a list of stages")
        if not all(isinstance(seed, int) for seed in plan.seeds):
            raise ConfigError(f"seeds must be whole numbers, got {plan.seeds!r:.80}")
        for arm, own in plan.published.items():
            from_dict(Published, own, f"published.{arm}")
        if not all(isinstance(own, list) for own in plan.epochs.values()):
            raise ConfigError(f"epochs must hold a list for each arm, got {plan.epochs!r:.80}")
        return plan


# ---------------------------------------------------------------------------------------------------------------------


def _json(stage: Stage) -> dict[str, Any]:
    return {name: to_dict(value) for name, value in stage.items()}


def _moved(stage: Any) -> Any:
    """Returns the stage with only the name of its dataset, because the path may change."""
    if isinstance(stage, dict) and isinstance(data := stage.get("data"), str):
        return {**stage, "data": Path(data).name}
    return stage


def _require_same(stored: Plan, asked: Plan, out: Path) -> None:
    """Raises RunFolderError for another study. Seeds and arms may be added, and the path of the data may change."""
    before, now = (from_dict(RunConfig, plan.base) for plan in (stored, asked))
    differ = {f"base.{k}": v for k, v in changed(before, now).items() if k not in ("data", "device")}
    differ |= changed(
        {"name": stored.name, "fields": stored.fields, "budget": stored.budget, "data": Path(before.data).name},
        {"name": asked.name, "fields": asked.fields, "budget": asked.budget, "data": Path(now.data).name},
    )
    both = [arm for arm in stored.arms if arm in asked.arms]
    stages = {arm: tuple(list(map(_moved, plan.arms[arm])) for plan in (stored, asked)) for arm in both}
    differ |= {f"arms.{arm}": pair for arm, pair in stages.items() if pair[0] != pair[1]}
    if differ:
        texts = [f"{name} was {before!r:.200}, now {now!r:.200}" for name, (before, now) in differ.items()]
        raise RunFolderError(
            f"{out} holds another study: {'; '.join(texts[:5])}; name another folder. Only seeds and arms can be added"
        )


def _merged(stored: Plan | None, asked: Plan, out: Path) -> Plan:
    if stored is None:
        asked.commit = commit()
        return asked
    _require_same(stored, asked, out)
    seeds = [*stored.seeds, *(seed for seed in asked.seeds if seed not in stored.seeds)]
    published = {**stored.published, **asked.published}
    tried = {**stored.trials, **asked.trials}
    return replace(stored, arms={**stored.arms, **asked.arms}, seeds=seeds, published=published, trials=tried)


def _stage_configs(study: Study, fields: Stage, arm: str, seed: int) -> list[RunConfig]:
    """Returns the resolved configuration of each stage of an arm. Raises ConfigError with the stage."""
    configs = []
    nowhere = dict.fromkeys(("previous", *study.needs(arm)), "")
    for number, stage in enumerate(study.stages(arm), 1):
        try:
            base, data, changes = stage_run(study, fields, stage, seed, nowhere, None)
            start = str(stage.get("start_from", ""))
            before = configs if start == "{previous}" else []
            if start[1:-1] in study.needs(arm):
                before = _stage_configs(study, fields, start[1:-1], seed)
            if before:  # the weights do not exist yet, but their model is known
                changes = {**of_the_weights(before[-1], base, changes), **changes}
            configs.append(planned(base, None, data, changes)[0])
        except FeatherVitError as error:
            raise ConfigError(f"arms.{arm}, stage {number}: {error}") from error
    return configs


def _settle(
    study: Study,
    fields: Stage,
    arm: str,
    plan: Plan,
    say: Callable[[str], None],
    measured: dict[str, float],
) -> None:
    """Checks the fields of all stages of an arm, and adds their epochs to the plan.

    `measured`: speeds of this call by configuration, so that arms that differ only in the learning rate are measured once.
    """
    stages = study.stages(arm)
    minutes = plan.budget.get("minutes")
    epochs, speeds = [], []
    configs = _stage_configs(study, fields, arm, plan.seeds[0])
    for number, (stage, config) in enumerate(zip(stages, configs, strict=True), 1):
        share = stage.get("share", 1 / sum("epochs" not in s for s in stages) if "epochs" not in stage else 0)
        try:
            count, speed = stage.get("epochs"), None
            if count is None and "epochs" in plan.budget:
                count = max(1, round(share * plan.budget["epochs"]))
            if count is None and minutes:
                speed, images = _speed(config, measured)
                count = max(1, round(share * 60 * minutes * speed / images))
                say(f"{arm}, stage {number}: {speed:,.0f} images/s, {images / speed:.1f} s per epoch: {count} epochs")
        except FeatherVitError as error:
            raise ConfigError(f"arms.{arm}, stage {number}: {error}") from error
        epochs.append(count or config.epochs)
        speeds.append(speed)
    plan.epochs[arm] = epochs
    if minutes:
        plan.images_per_s[arm] = speeds
        environment = {**machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        plan.measured_on = {**(plan.measured_on or {}), arm: environment}


def _speed(config: RunConfig, measured: dict[str, float]) -> tuple[float, int]:
    """Returns (images per second of a training step, images per epoch) of a resolved configuration on this machine.

    `measured`: speeds by configuration; a new speed is added.
    """
    labelled = config.objective != "reconstruction"
    data = load_run_data(config)
    sampler = Sampler(len(data.train), config.batch_size, 0, repeats=config.augment.repeats)
    images = sampler.steps_per_epoch * min(config.batch_size, len(data.train) * config.augment.repeats)
    if config.objective == "distillation" and not config.teacher:  # the teacher is an earlier stage
        config = replace(config, objective="classification")
    key = json.dumps(to_dict(replace(config, lr=0.0)), sort_keys=True)
    if key not in measured:
        names = {"class_names": data.train.class_names} if labelled else {}
        config = replace(config, images=replace(config.images, channels=data.train.images.shape[1]))
        result = measure_step(config, STEPS, ROUNDS, **names)
        by_cpu = result["images_per_cpu_s"] if torch.get_num_threads() == 1 else None
        measured[key] = by_cpu or result["images_per_s"]
    return measured[key], images
