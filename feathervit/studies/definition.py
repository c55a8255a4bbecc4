"""The definition of a study: one question, a base recipe, arms that change its fields, seeds, a budget.

It is a `Study` in Python, or a JSON file with the same names (`read_study`). A cell of a study is (arm, seed). An arm
is one stage, or several that run one after another. A stage maps dotted field names to new values. These names in a stage
are not fields, or have an extra meaning:

    "recipe"   the named recipe is this stage's base instead of the study's
    "share"    this stage's share of the arm's budget (equal shares by default)
    "epochs"   this stage's epochs, for any budget
    "data"     the dataset of this stage instead of the base's
    "{previous}", "{seed}", "{ARM}"  as values: the run folder of the stage before, the cell's seed, and the run folder of
               another arm's last stage. That arm runs once, with the study's first seed, before this one.
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
NAME = re.compile(r"[\w(][\w.,:;=+()\[\] -]*")  # the name of an arm, which is also the name of a folder
PLACE = re.compile(r"\{.*\}")  # a value that is replaced when a cell runs


@dataclass(frozen=True)
class Size:
    """A size at which a study runs: changes common to all stages, seeds, a budget, and the arms (empty: all).

    `epochs` or `minutes` is the budget of one cell, over its stages. Without both, stages run the recipe's epochs. Minutes
    become epochs once, from the speed of each stage's training step.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    fields: Stage = field(default_factory=dict)
    epochs: int | None = None
    minutes: float | None = None
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A paper's figure for an arm: a row of its tables.

    `value`: top-1 in %, or for `figure` "train_loss" the loss of the last epoch; None: not reported. `certainty`:
    printed in an available text, recovered from other sources since the table is lost, or derived from differences in the
    text. `tables`: the names of the tables with this row. `millions`: millions of parameters, as published.
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

    `says`: the claim with the published figures. `above`: pairs of arms, the first of which is claimed to be better.
    `decides`: what would decide the claim, beyond more seeds and epochs.
    """

    number: int
    says: str
    above: tuple[tuple[str, str], ...]
    decides: str


@dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it.

    `question`: one sentence. `arms`: name -> one stage, or a sequence of them; the others are compared with the first.
    `sizes`: name -> `Size`; the first is the default. `published`: arm -> what a paper reports; a name that is not an arm is a
    row that is quoted and not run. `candidates`: arm -> name -> changes to its last stage. The study `trials_of` runs the
    candidates at the size `trials`, and validation chooses one. `flip`: cells also report the test accuracy with the mean
    of an image's logits and those of its mirror image. `statements`: the claims that its arms test.
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
        found = self.arms[arm]
        return (found,) if isinstance(found, Mapping) else tuple(found)

    def needs(self, arm: str) -> tuple[str, ...]:
        """Returns the arms that this one starts from."""
        values = [value for stage in self.stages(arm) for value in stage.values() if isinstance(value, str)]
        return tuple(
            value[1:-1] for value in values if PLACE.fullmatch(value) and value[1:-1] not in ("previous", "seed")
        )

    def shared(self) -> frozenset[str]:
        """Returns the arms that others start from; they run once."""
        return frozenset(itertools.chain.from_iterable(map(self.needs, self.arms)))

    def only(self, arms: Sequence[str]) -> Study:
        """Returns the study with these arms only, each after those that it starts from. Raises UnknownNameError."""
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
        """Returns the size of that name (None: the first). Raises ConfigError."""
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
    """Returns arms of all combinations of values: `grid(**{"optim.name": ["adamw", "muon"], "lr": [1e-3, 3e-3]})`.

    An arm is named "optim.name=adamw,lr=0.001".
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
    """Raises ConfigError, which names the place, for a study that cannot run. Making the plan checks the fields."""
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
            raise ConfigError(f"arms.{arm}: give a share to each stage without epochs of its own, or to none")
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
    """The fields of a study's JSON file."""

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
    """Reads the study in a JSON file, whose name it takes. Raises ConfigError, which names the file and the place in it."""
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
        raise ConfigError("recipe: name the one that the arms change")
    base = recipe(file.recipe)
    return dataclasses.replace(base, data=file.data or base.data)
