"""Defines studies: one question, a base recipe, arms that change its fields, seeds, and a budget.

A study is a `Study` in Python, or a JSON file with the same names (`read_study`). A cell of a study is (arm, seed). An arm
consists of one or several stages, which run in order. A stage maps dotted field names to new values. The following names in a
stage are not fields, or have a special meaning:

    "recipe"   the base of this stage, which replaces the base of the study
    "share"    share of this stage in the budget of the arm (equal shares by default)
    "epochs"   epochs of this stage, for any budget
    "data"     the dataset of this stage, which replaces that of the base
    "{previous}", "{seed}", "{ARM}"  as values: the run folder of the previous stage, the seed of the cell, and the run folder
               of the last stage of another arm. That arm runs once, with the first seed of the study, before this arm.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..config import RunConfig, from_dict, kind_of
from ..errors import ConfigError, UnknownNameError
from ..recipes import recipe

Stage = Mapping[str, Any]
NAME = re.compile(r"[\w(][\w.,:;=+()\[\] -]*")  # name of an arm, also used as folder name
PLACE = re.compile(r"\{.*\}")  # a placeholder that is replaced when a cell runs


@dataclass(frozen=True)
class Size:
    """The size of a study: changes common to all stages, seeds, a budget, and the arms (empty: all).

    `epochs` or `minutes` is the budget of one cell, for all its stages. Without a budget, stages run the epochs of the
    recipe. Minutes are converted to epochs once, from the speed of the training step of each stage.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    fields: Stage = field(default_factory=dict)
    epochs: int | None = None
    minutes: float | None = None
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """The published result of an arm: a row in the tables of a paper.

    `value`: top-1 in %, or for `figure` "train_loss" the loss of the last epoch; None: not reported. `certainty`:
    printed in an available text, recovered from other sources because the table is not available, or derived from
    differences in the text. `tables`: names of the tables with this row. `millions`: published millions of parameters.
    """

    name: str
    data: str
    value: float | None
    tables: tuple[str, ...]
    figure: Literal["test_top1", "train_loss"] = "test_top1"
    certainty: Literal["printed", "recovered", "derived"] = "printed"
    millions: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Statement:
    """A claim of a paper, as comparisons of arms.

    `says`: the claim with the published results. `above`: pairs of arms; the first arm is claimed to be better. `decides`:
    experiments, beyond more seeds and epochs, that would decide the claim.
    """

    number: int
    says: str
    above: tuple[tuple[str, str], ...]
    decides: str


@dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it.

    `question`: one sentence. `arms`: name -> one stage, or a sequence of stages; all arms are compared with the first arm.
    `sizes`: name -> `Size`; the first is the default. `published`: arm -> published result; a name without an arm is a row
    that is quoted and not run. `candidates`: arm -> name -> changes to its last stage. The study `trials_of` runs the
    candidates at the size `trials`, and the validation accuracy selects one. `flip`: cells also report the test accuracy with
    logits averaged over each image and its mirror image. `statements`: the claims tested by the arms.
    """

    name: str
    question: str
    base: RunConfig
    arms: Mapping[str, Stage | Sequence[Stage]]
    sizes: Mapping[str, Size]
    published: Mapping[str, Published] = field(default_factory=dict)
    candidates: Mapping[str, Mapping[str, Stage]] = field(default_factory=dict)
    trials: Size | None = None
    flip: bool = False
    statements: tuple[Statement, ...] = ()

    def stages(self, arm: str) -> tuple[Stage, ...]:
        """Returns the stages of an arm, in order."""
        stages = self.arms[arm]
        return (stages,) if isinstance(stages, Mapping) else tuple(stages)

    def needs(self, arm: str) -> tuple[str, ...]:
        """Returns the arms that an arm starts from."""
        values = [value for stage in self.stages(arm) for value in stage.values() if isinstance(value, str)]
        return tuple(
            value[1:-1] for value in values if PLACE.fullmatch(value) and value[1:-1] not in ("previous", "seed")
        )

    def shared(self) -> frozenset[str]:
        """Returns the arms that other arms start from. They run only once."""
        return frozenset(itertools.chain.from_iterable(map(self.needs, self.arms)))

    def only(self, arms: Sequence[str]) -> Study:
        """Returns the study with these arms and the arms that they start from, in order. Raises UnknownNameError."""
        chosen: dict[str, Stage | Sequence[Stage]] = {}

        def take(arm: str) -> None:
            if arm not in self.arms:
                hint = "it is quoted as published and not run here" if arm in self.published else ""
                raise UnknownNameError(f"arm of {self.name!r}", arm, self.arms, hint)
            for needed in self.needs(arm):
                take(needed)
            chosen.setdefault(arm, self.arms[arm])

        for arm in arms:
            take(arm)
        return dataclasses.replace(self, arms=chosen)

    def size(self, name: str | None) -> Size:
        """Returns the size with this name (None: the first). Raises ConfigError."""
        if name is None:
            return next(iter(self.sizes.values()))
        if name not in self.sizes:
            known = ", ".join(n for n in self.sizes if n)
            raise ConfigError(
                f"study {self.name!r} has "
                + (f"the sizes {known}, not {name!r}" if known else "one size; leave --size out")
            )
        return self.sizes[name]


def grid(**fields: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Returns arms for all combinations of values: `grid(**{"optim.name": ["adamw", "muon"], "lr": [1e-3, 3e-3]})`.

    Arms are named like "optim.name=adamw,lr=0.001".
    """
    combinations = [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]
    arms = {",".join(f"{name}={_word(value)}" for name, value in c.items()): c for c in combinations}
    if len(arms) < len(combinations):
        raise ConfigError("grid: two combinations have the same name; write them as arms with different names")
    return arms


def _word(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(map(_word, value))
    if isinstance(value, Mapping):
        return str(value.get("kind", "-".join(map(_word, value.values()))))
    return kind_of(type(value)) if dataclasses.is_dataclass(value) else str(value)


def check_study(study: Study, size: Size) -> None:
    """Raises ConfigError with the location for an invalid study. `make_plan` checks the fields."""
    if not study.arms:
        raise ConfigError("arms: a study needs at least one")
    before: set[str] = set()
    for arm in study.arms:
        if unknown := [name for name in study.needs(arm) if name not in before]:
            raise ConfigError(f"arms.{arm}: {{{unknown[0]}}} must name an arm that comes before this one")
        before.add(arm)
        if not NAME.fullmatch(arm) or len(arm.encode()) > 200:
            raise ConfigError(
                f"arms: the name {arm!r:.80} cannot name a folder; use letters, digits and . , = + - _ ( )"
            )
        if not study.stages(arm):
            raise ConfigError(f"arms.{arm}: an arm needs at least one stage")
        shares = [stage.get("share") for stage in study.stages(arm) if "epochs" not in stage]
        if any(share is not None and not _positive(share) for share in shares):
            raise ConfigError(f"arms.{arm}: share must be a number above 0, got {shares}")
        if len({share is None for share in shares}) > 1:
            raise ConfigError(f"arms.{arm}: give a share to all stages without epochs, or to none")
        if None not in shares and shares and not math.isclose(sum(shares), 1):
            raise ConfigError(f"arms.{arm}: the shares must add up to 1, got {shares}")
        for stage in study.stages(arm):
            if "seed" in stage:
                raise ConfigError(f"arms.{arm}.seed: the study's seeds set it; leave it out")
    for name in ("seed", "epochs", "recipe", "data"):
        if name in size.fields:
            raise ConfigError(f"fields.{name}: the study sets it outside of fields; leave it out")
    if not size.seeds or len(set(size.seeds)) < len(size.seeds) or min(size.seeds) < 0:
        raise ConfigError(f"seeds must be different whole numbers from 0, got {list(size.seeds)}")
    if size.epochs is not None and size.minutes is not None:
        raise ConfigError("epochs and minutes are two budgets; give one")
    if size.epochs is not None and size.epochs < 1:
        raise ConfigError(f"epochs must be at least 1, got {size.epochs}")
    if size.minutes is not None and not _positive(size.minutes):
        raise ConfigError(f"minutes must be above 0, got {size.minutes}")


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


# ---------------------------------------------------------------------------------------------------------------------
# Studies in files


@dataclass(frozen=True)
class _File:
    """The fields of the JSON file of a study."""

    recipe: str = ""
    question: str = ""
    data: str = ""
    fields: dict = field(default_factory=dict)
    arms: dict = field(default_factory=dict)
    grid: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int | None = None
    minutes: float | None = None


def read_study(path: str | Path) -> Study:
    """Reads a study from a JSON file, named after the file. Raises ConfigError with the file and the location."""
    path = Path(path)
    try:
        file = from_dict(_File, json.loads(path.read_text(encoding="utf-8")))
        base = _base(file)
        if bool(file.arms) == bool(file.grid):
            raise ConfigError("give either arms or grid")
        for name, values in file.grid.items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"grid.{name} must be a list of values, got {values!r:.80}")
        for name, arm in file.arms.items():
            if not all(isinstance(stage, dict) for stage in (arm if isinstance(arm, list) else [arm])):
                raise ConfigError(
                    f"arms.{name} must be an object of fields, or a list of such objects, got {arm!r:.80}"
                )
        size = Size(file.seeds, file.fields, file.epochs, file.minutes)
        study = Study(path.stem, file.question, base, file.arms or grid(**file.grid), {"": size})
        check_study(study, size)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (ConfigError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a study: {error}") from error
    return study


def _base(file: _File) -> RunConfig:
    if not file.recipe:
        raise ConfigError("recipe: name the recipe that the arms change")
    base = recipe(file.recipe)
    return dataclasses.replace(base, data=file.data or base.data)
