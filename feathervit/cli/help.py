"""The short help of the training verbs: the flags that people use, in groups, with the defaults of the recipe."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import typing
from typing import Any, Literal

from ..config import RunConfig
from ..recipes import ADAPTIVE

WIDTH = 80
COLUMN = 26  # where the descriptions begin
FLAGS = {
    "data": ("data", "classes", "img-size"),
    "model": ("model", "from", "pretrained", "recipe"),
    "training": ("epochs", "minutes", "batch-size", "lr", "optim.name", "seed"),
    "run": ("out", "resume", "overwrite", "max-minutes", "config"),
    "machine": ("device", "threads"),
}
BY_THE_IMAGES = ("model", "img_size", "patch_size", "epochs")  # what a recipe that looks at the images chooses
FIELDS = {"from": "start_from", "classes": "reading.classes", "config": "config_file"}


def short_help(verb: str, flags: Any) -> str:
    """The help of `flags`, an instance of the verb's dataclass whose `config` is the recipe's configuration."""
    lines = [
        f"usage: feathervit {verb} --data FOLDER --out RUN [FLAGS]",
        "",
        *textwrap.wrap(inspect.getdoc(type(flags)).partition("\n\n")[0], WIDTH),
    ]
    for group, names in FLAGS.items():
        lines += ["", f"{group}:"]
        for name in names:
            lines += _lines(name, flags)
    recipe = flags.config.recipe
    more = (
        f"Defaults are those of the recipe {recipe}. Any field of the recipe is a flag: feathervit {verb} --help-all shows "
        "all, with --recipe NAME or --model NAME before it those of another. feathervit recipes and feathervit models list "
        "them."
    )
    return "\n".join([*lines, "", *textwrap.wrap(more, WIDTH, break_on_hyphens=False)])


def _lines(name: str, flags: Any) -> list[str]:
    """A flag: its name and kind of value, what it does, its default."""
    field = FIELDS.get(name, name.replace("-", "_"))
    owner: Any = flags if hasattr(flags, field) else flags.config
    *path, last = field.split(".")
    for part in path:
        owner = getattr(owner, part)
    value, kind = getattr(owner, last), typing.get_type_hints(type(owner))[last]
    text = _descriptions(type(owner))[last]
    if choices := _choices(kind):
        text += f" One of {', '.join(choices)}."
    if isinstance(owner, RunConfig) and owner.recipe in ADAPTIVE and last in BY_THE_IMAGES:
        default = "chosen by the images"
    else:
        default = "" if value is None or value is False or value in ("", ()) else str(value)
    text += f" (default: {default})" if default else ""
    head = f"  --{name}{'' if kind is bool else ' ' + _word(kind, choices)}"
    lines = textwrap.wrap(text, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False)
    first = [f"{head:<{COLUMN - 1}} {lines[0]}"] if len(head) < COLUMN else [head, " " * COLUMN + lines[0]]
    return first + [" " * COLUMN + line for line in lines[1:]]


def _choices(kind: Any) -> tuple[str, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _word(kind: Any, choices: tuple[str, ...]) -> str:
    """What stands for a flag's value: N, X (a number), NAME."""
    kinds = {kind, *typing.get_args(kind)}
    if float in kinds:
        return "X"
    return "N" if int in kinds and not choices else "NAME"


def _descriptions(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass, its bases' among them."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for field, below in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(below.value.value).split())
    return found
