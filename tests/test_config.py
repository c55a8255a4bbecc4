"""Bounds of the configuration's fields, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest

from feathervit.config import RunConfig, with_fields
from feathervit.config.bounds import Bounds, check_bounds
from feathervit.errors import ConfigError


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


@pytest.mark.parametrize(("name", "meant"), [("epoch", "epochs"), ("optim.weight_decays", "weight_decay")])
def test_an_unknown_field_is_refused_with_the_nearest_name(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        with_fields(RunConfig(), **{name: 1})
