"""Bounds of the configuration's fields, and its JSON."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any

import pytest

from feathervit.config import RunConfig, from_dict, resolve, to_dict, with_fields
from feathervit.config.bounds import Bounds, _bounds_of, check_bounds
from feathervit.errors import ConfigError
from feathervit.recipes import recipe


@dataclass(frozen=True)
class Inner:
    share: Annotated[float, Bounds(0, 1, open_end=True)] | None = 0.5


@dataclass(frozen=True)
class Outer:
    sizes: tuple[Annotated[int, Bounds(1)], ...] = (1, 2)
    inner: Inner = Inner()
    free: float = -1.0


@pytest.mark.parametrize("config", [Outer(), Outer((1,), Inner(0.0)), Outer((), Inner(None), float("nan"))])
def test_numbers_within_bounds_pass(config: Outer) -> None:
    check_bounds(config)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (Outer((1, 0)), "sizes"),
        (Outer((1, float("inf"))), "sizes"),
        (Outer(inner=Inner(1.0)), "inner.share"),
        (Outer(inner=Inner(-0.1)), "inner.share"),
        (Outer(inner=Inner(float("nan"))), "inner.share"),
    ],
)
def test_out_of_bounds_numbers_are_named(config: Outer, field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} must be"):
        check_bounds(config)


def bounded_fields(config: Any, inside: str = "") -> Iterator[tuple[str, Bounds, Any]]:
    """Dotted name, bounds and value of each bounded field."""
    for name, bounds in _bounds_of(type(config)).items():
        value = getattr(config, name)
        if is_dataclass(value):
            yield from bounded_fields(value, f"{inside}{name}.")
        elif bounds:
            yield inside + name, bounds, value


def test_a_value_below_or_above_its_bounds_is_refused_for_every_field() -> None:
    config = resolve(recipe("mae_folder"))
    fields = list(bounded_fields(config))
    assert {"lr", "img_size", "optim.betas", "mae.decoder.dim"} <= {field for field, *_ in fields}
    for field, bounds, value in fields:
        for wrong in (bounds.least - 1, bounds.most + 1):
            with pytest.raises(ConfigError, match=f"^{re.escape(field)} must be"):
                resolve(with_fields(config, **{field: (wrong,) if isinstance(value, tuple) else wrong}))


@pytest.mark.parametrize(("name", "meant"), [("epoch", "epochs"), ("optim.weight_decays", "weight_decay")])
def test_an_unknown_field_is_refused_with_the_nearest_name(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        with_fields(RunConfig(), **{name: 1})


WRONG = {bool: "yes", int: "many", float: "much", str: 7, type(None): {"a": 1}, list: "none", dict: 5}


def all_fields(stored: dict[str, Any], inside: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Dotted name, the object that holds the field, and its name there."""
    for name, value in list(stored.items()):
        yield inside + name, stored, name
        if isinstance(value, dict):
            yield from all_fields(value, f"{inside}{name}.")


def test_a_value_of_another_type_is_refused_for_every_field() -> None:
    stored = to_dict(resolve(recipe("mae_folder")))
    for number, (field, _, _) in enumerate(all_fields(stored)):
        changed = copy.deepcopy(stored)
        _, holder, name = list(all_fields(changed))[number]
        holder[name] = WRONG[type(holder[name])]
        with pytest.raises(ConfigError) as error:
            from_dict(RunConfig, changed)
        assert field.removesuffix(".kind") in str(error.value)
