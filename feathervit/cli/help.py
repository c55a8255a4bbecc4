"""Formats the help at 80 columns: the flags of a verb, with descriptions and defaults.

For the training verbs it shows the most used flags, in groups, with the defaults of the recipe.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal

from tyro.conf import Positional

from ..config import RunConfig
from .flags import ReadingFlags

WIDTH = 80
COLUMN = 26  # start of the descriptions
FLAGS = {  # flags of the training verbs, by group
    "data": ("data", "classes", "img-size"),
    "model": ("model", "from", "pretrained", "recipe"),
    "training": ("epochs", "minutes", "batch-size", "lr", "optim.name", "seed"),
    "run": ("out", "resume", "overwrite", "max-minutes", "config"),
    "machine": ("device", "threads"),
}
BY_THE_IMAGES = {  # adaptive recipe -> fields that it chooses
    "folder": ("img_size", "patch_size", "epochs", "batch_size"),
    "mae_folder": ("model", "img_size", "patch_size", "epochs"),
}
FIELDS = {"from": "start_from", "classes": "reading.classes", "config": "config_file"}
POSITIONAL = typing.get_args(Positional[int])[1]  # tyro's marker of a positional argument


def overview(verbs: Mapping[str, type], room: str = "") -> str:
    """Returns the help of the command, or of the group of verbs `room`: each verb with the summary of its description."""
    lines = [
        "feathervit: ultra-light vision models for small images",
        "",
        f"usage: feathervit {room or 'VERB'} ...",
        "",
    ]
    for name, kind in verbs.items():
        if name.startswith(room):
            lines += _item(f"  {name}", _summary(kind))
    return "\n".join(
        [*lines, "", *_wrapped("feathervit VERB --help shows the flags of a verb; --debug shows tracebacks.")]
    )


def verb_help(verb: str, kind: type) -> str:
    """Returns the help of a verb. `kind`: the dataclass of its flags."""
    hints, texts = typing.get_type_hints(kind, include_extras=True), descriptions(kind)
    places = positionals(kind)
    common = {f.name for f in fields(ReadingFlags)} if issubclass(kind, ReadingFlags) else set()
    by_name = {f.name: f for f in fields(kind)}
    named = [by_name[name] for name in texts if name not in places]
    words = [name.upper() + "..." * (typing.get_origin(typing.get_args(hints[name])[0]) is tuple) for name in places]
    words = [word if places[name].default is MISSING else f"[{word}]" for name, word in zip(places, words, strict=True)]
    text = inspect.getdoc(kind) or ""
    lines = [" ".join(["usage: feathervit", verb, *words, "[FLAGS]"])]
    for paragraph in text.split("\n\n"):
        lines += ["", *_wrapped(" ".join(paragraph.split()))]
    groups = {
        "arguments": list(places.values()),
        "flags": [f for f in named if f.name not in common],
        "how data is read": [f for f in named if f.name in common],
    }
    for group, members in groups.items():
        if members or group == "flags":
            lines += ["", f"{group}:"]
            for f in members:
                lines += _field(f, hints[f.name], texts[f.name], f.name in places)
            if group == "flags":
                lines += _item("  --help", "Show this help.")
    return "\n".join(lines)


def positionals(kind: type) -> dict[str, Field]:
    """Returns the positional arguments of a verb, by name."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: f for f in fields(kind) if POSITIONAL in typing.get_args(hints[f.name])}


def _field(f: Field, hint: Any, text: str, positional: bool) -> list[str]:
    plain = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    value, default = f.default, ""
    if not (value is None or value is False or value is MISSING or value in ("", (), 0)):
        default = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    name = f.name.upper() if positional else "--" + f.name.replace("_", "-")
    return _described(name, plain, text, default, positional or plain is bool)


def _described(name: str, kind: Any, text: str, default: str, bare: bool) -> list[str]:
    """Returns the lines of a flag. `bare`: without a placeholder."""
    if choices := _choices(kind):
        text += f" One of {', '.join(choices)}."
    text += f" (default: {default})" if default else ""
    return _item(f"  {name}{'' if bare else ' ' + _word(kind, choices)}", text)


def short_help(verb: str, flags: Any) -> str:
    """Returns the short help of a training verb. `flags`: its dataclass, with the recipe's configuration in `config`."""
    lines = [f"usage: feathervit {verb} --data FOLDER --out RUN [FLAGS]", "", *_wrapped(_summary(type(flags)))]
    for group, names in FLAGS.items():
        lines += ["", f"{group}:"]
        for name in names:
            lines += _lines(name, flags)
    recipe = flags.config.recipe
    more = (
        f"Defaults are those of the recipe {recipe}. Any field of the recipe is a flag: feathervit {verb} --help-all shows "
        "all fields. Put --recipe NAME or --model NAME before it to see other defaults. feathervit recipes and feathervit "
        "models list the names."
    )
    return "\n".join([*lines, "", *_wrapped(more)])


def _lines(name: str, flags: Any) -> list[str]:
    """Returns the lines of a flag: its name, placeholder, description and default."""
    field = FIELDS.get(name, name.replace("-", "_"))
    owner: Any = flags if hasattr(flags, field) else flags.config
    *path, last = field.split(".")
    for part in path:
        owner = getattr(owner, part)
    value, kind = getattr(owner, last), typing.get_type_hints(type(owner))[last]
    if isinstance(owner, RunConfig) and last in BY_THE_IMAGES.get(owner.recipe, ()):
        default = "chosen from the images"
    else:
        default = "" if value is None or value is False or value in ("", ()) else str(value)
    return _described(f"--{name}", kind, descriptions(type(owner))[last], default, kind is bool)


def _summary(kind: type) -> str:
    """Returns the first paragraph of a verb's description."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def _wrapped(text: str, width: int = WIDTH) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _item(head: str, text: str) -> list[str]:
    """Returns a name and its description, wrapped with a hanging indent."""
    lines = _wrapped(text, WIDTH - COLUMN) or [""]
    first = [f"{head:<{COLUMN - 1}} {lines[0]}"] if len(head) < COLUMN else [head, " " * COLUMN + lines[0]]
    return first + [" " * COLUMN + line for line in lines[1:]]


def _choices(kind: Any) -> tuple[str, ...]:
    """Returns the values of a Literal or an optional Literal."""
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    return next((typing.get_args(part) for part in typing.get_args(kind) if typing.get_origin(part) is Literal), ())


def _word(kind: Any, choices: tuple[str, ...]) -> str:
    """Returns the placeholder of a flag's value: N (whole number), X (number) or NAME, followed by ... for several values."""
    kinds = {kind, *typing.get_args(kind)}
    word = "X" if float in kinds else "N" if int in kinds and not choices else "NAME"
    return word + "..." * (typing.get_origin(kind) is tuple)


def descriptions(kind: type) -> dict[str, str]:
    """Returns the string below each field of a dataclass, by name. Fields of the class come before those of its bases."""
    found: dict[str, str] = {}
    for owner in kind.__mro__[:-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for field, below in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found.setdefault(field.target.id, " ".join(str(below.value.value).split()))
    return found
