"""Converts configurations to and from JSON, compares them, and sets fields by dotted name."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from dataclasses import replace
from typing import Any, Literal, get_args

from ..errors import ConfigError
from .parts import Attention, FeedForward, Patches

# The parts of an encoder; JSON stores their kind
_PARTS = (*get_args(Attention), *get_args(FeedForward), *get_args(Patches))


def kind_of(part: type) -> str:
    """Returns the name of a part in JSON and on the command line: its class name without "Config"."""
    return part.__name__.removesuffix("Config")


def to_dict(config: Any) -> Any:
    """Converts a dataclass to JSON values. For a part of an encoder, "kind" holds its name."""
    if dataclasses.is_dataclass(config):
        out = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"kind": kind_of(type(config)), **out} if type(config) in _PARTS else out
    if isinstance(config, tuple):
        return [to_dict(v) for v in config]
    return config


def from_dict(kind: Any, value: Any, where: str = "") -> Any:
    """Builds the dataclass (or other type) `kind` from JSON values, and checks each value against its declared type.

    Missing fields take their defaults, so that older files still load. Raises ConfigError, with the dotted name, for an
    unknown field or a value of the wrong type.
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        options = [o for o in options if o is not type(None)]
        if isinstance(value, dict) and "kind" in value:
            options = [o for o in options if isinstance(o, type) and kind_of(o) == value["kind"]] or options[:1]
        return from_dict(options[0], value, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{where or 'configuration'} must be an object of fields, got {value!r:.80}")
        hints = _hints(kind)
        given = getattr(kind, "updated", dict)(value)
        if given.pop("kind", kind_of(kind)) != kind_of(kind):
            raise ConfigError(f"{where}.kind: unknown part {value['kind']!r:.80}")
        unknown = sorted(set(given) - set(hints))
        if unknown:
            raise ConfigError(f"unknown field {(where + '.' if where else '') + str(unknown[0])!r:.80}")
        return kind(**{k: from_dict(hints[k], v, f"{where}.{k}" if where else k) for k, v in given.items()})
    if origin is Literal:
        if value not in typing.get_args(kind) or isinstance(value, bool):
            choices = ", ".join(map(repr, typing.get_args(kind)))
            raise ConfigError(f"{where} must be one of {choices}; got {value!r:.80}")
        return value
    if origin is tuple:
        args = typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, got {value!r:.80}")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f"{where} must hold {len(args)} values, got {len(value)}")
        return tuple(from_dict(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where} must be float, got an integer of {value.bit_length()} bits") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} must be {kind.__name__}, got {value!r:.80}")
    if kind is float and value != value:
        raise ConfigError(f"{where} must be a number, got {value}")
    return value


_hints = functools.cache(typing.get_type_hints)


def changed(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the fields that differ between two configurations: dotted name -> (before, after)."""
    return {k: (v, b) for k, v, b in _walk(to_dict(before), to_dict(after), "")}


def _walk(a: Any, b: Any, where: str):
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from _walk(a.get(key), b.get(key), f"{where}.{key}" if where else key)
    elif a != b:
        yield where, a, b


def with_fields(config: Any, /, **changes: Any) -> Any:
    """Returns a copy with fields set by dotted name: `with_fields(c, **{"optim.weight_decay": 0.1, "epochs": 3})`.

    Raises ConfigError for an unknown name.
    """
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        known = [f.name for f in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
        if head not in known:
            near = difflib.get_close_matches(head, known, n=3, cutoff=0.5)
            advice = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f"no field {name!r:.80} in {type(config).__name__}{advice}")
        config = replace(config, **{head: with_fields(getattr(config, head), **{rest: value}) if rest else value})
    return config
