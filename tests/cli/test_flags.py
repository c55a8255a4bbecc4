"""Flags of the verbs and their help."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import fields

import pytest
from rich.console import Console

from feathervit.cli.printing import new_table
from feathervit.config import list_models, spec
from feathervit.recipes import recipe

from .conftest import SMALL


def test_flags_accept_underscores(tmp_path, run):
    arguments = ["--recipe", "digits", "--out", tmp_path / "run", "--img_size=16", "--optim.weight_decay", "0.125"]
    assert (
        run("train", *arguments, "--max_minutes", "1e-9", "--arch.feedforward_", "x")[0] == 2
    )  # still an unknown flag
    assert run("train", *arguments, "--max_minutes", "1e-9", "--arch.drop_path_rate", "0.25")[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["optim"]["weight_decay"], config["arch"]["drop_path_rate"]) == (0.125, 0.25)


def test_parts_are_chosen_by_flags(folder, tmp_path, run):
    out = tmp_path / "run"
    parts = ["--arch.attention", "latent", "--arch.attention.rank", 8, "--arch.patches=conv-stem"]
    parts += ["--arch.feedforward", "conv-mlp", "--arch.feedforward.ratio", 1.5, "--arch.readout", "class"]
    assert run("train", "--data", folder, "--out", out, "--epochs", 1, *SMALL, *parts)[0] == 0
    arch = json.loads((out / "config.json").read_text())["arch"]
    assert arch["attention"] == {"kind": "Latent", "heads": 4, "rank": 8, "low_rank": "qkv"}  # the model's own heads
    assert (arch["feedforward"]["kind"], arch["feedforward"]["ratio"]) == ("ConvMLP", 1.5)
    assert (arch["patches"], arch["readout"]) == ({"kind": "ConvStem", "layers": 2}, "class")
    assert json.loads(run("evaluate", out, "--json")[1])["n"] == 24
    assert run("train", "--resume", "--out", out, "--epochs", 2)[0] == 0
    assert "--arch.attention.rank" in run("train", "--arch.attention", "latent", "--help-all")[1]


def kinds(model: str) -> tuple[type, ...]:
    parts = spec(model).config
    return type(parts.attention), type(parts.feedforward), type(parts.patches)


@pytest.mark.parametrize("model", {kinds(name): name for name in list_models()}.values())
def test_every_model_part_has_flags(model, run):
    flags = run("train", "--model", model, "--help-all")[1]
    parts = spec(model).config
    for field in ("attention", "feedforward", "patches"):
        for f in fields(getattr(parts, field)):
            negated = "no-" if f.default is True else ""  # the flag changes the default
            assert f"--arch.{field}.{negated}{f.name.replace('_', '-')}" in flags


def test_names_are_not_truncated_in_a_narrow_terminal():
    table = new_table("name", "what it is")
    table.add_row("a_long_name.of_weights", "words " * 30)
    out = io.StringIO()
    Console(file=out, width=40).print(table)
    assert "a_long_name.of_weights" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 40


def test_short_help_fits_80_columns_and_shows_recipe_defaults(run):
    for verb in ("train", "pretrain"):
        status, out, _ = run(verb, "--help")
        flags = [line.split()[0] for line in out.splitlines() if line.startswith("  --")]
        assert status == 0
        assert max(map(len, out.splitlines())) <= 80
        assert 18 <= len(flags) == len(set(flags)) <= 22
        assert "chosen from the images" in out
    defaults = run("train", "--recipe", "digits", "--help")[1]
    assert "chosen from the images" not in defaults
    assert f"(default: {recipe('digits').epochs})" in defaults
    assert f"(default: {recipe('digits').lr})" in defaults


def test_every_flag_in_the_long_help_has_a_description(run):
    """The line below a flag does not begin with its default."""
    for arguments in ([], ["--arch.attention", "latent"], ["--model", "feather_nano"], ["--recipe", "mae_digits"]):
        lines = [line.strip("│ ") for line in run("train", *arguments, "--help-all")[1].splitlines()]
        flags = [(a, b) for a, b in itertools.pairwise(lines) if a.startswith("--")]
        assert len(flags) > 80
        assert [a for a, b in flags if b.startswith("(default")] == []


def test_flags_of_train_are_frozen(run):
    """Notices flags that were added by accident. Dotted fields of the recipe are not included."""
    import re

    flags = set(re.findall(r"^\W*(--[a-z][\w-]*)(?= |$)", run("train", "--help-all")[1], flags=re.MULTILINE))
    names = "config pretrained out resume overwrite minutes max-minutes skip-unreadable threads json recipe objective"
    names += " model data start-from teacher img-size patch-size epochs batch-size lr seed device precision compile"
    assert flags == {f"--{name}" for name in (names + " patience on-nonfinite accumulate log").split()}


def test_a_part_for_a_recipe_that_chooses_the_model_needs_a_name(folder, tmp_path, run):
    arguments = ["--data", folder, "--out", tmp_path / "run", "--arch.feedforward", "swiglu"]
    assert run("pretrain", *arguments)[0] == 2
    assert not (tmp_path / "run").exists()
    assert run("pretrain", *arguments, "--model", "mlit_nano", "--epochs", 1, "--max-minutes", "1e-9")[0] == 0
