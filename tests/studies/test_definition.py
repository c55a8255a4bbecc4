"""Studies from Python and from files."""

from __future__ import annotations

import json

import pytest

from feathervit.config import MLPConfig
from feathervit.errors import ConfigError
from feathervit.recipes import recipe
from feathervit.studies import grid, read_study
from feathervit.studies import study as named
from feathervit.studies.cells import run_study

from .example import SMALL


def test_a_grid_with_equal_arm_names_is_refused():
    with pytest.raises(ConfigError, match="same name"):
        grid(**{"arch.feedforward": [MLPConfig(2.0), MLPConfig(4.0)]})


def test_grid_has_all_combinations():
    arms = grid(**{"optim.name": ["adamw", "muon"], "lr": [0.1, 0.2]})
    assert arms["optim.name=muon,lr=0.1"] == {"optim.name": "muon", "lr": 0.1}
    assert len(arms) == 4
    assert list(grid(**{"arch.feedforward": [MLPConfig(2.0)], "arch.feedforward.experts": [(3, 4)]})) == [
        "arch.feedforward=MLP,arch.feedforward.experts=3-4"
    ]


def test_a_file_defines_the_same_study_as_python(tmp_path, ran):
    file = tmp_path / "rates.json"
    stages = [{"epochs": 1}, {"start_from": "{previous}", "arch.feedforward.experts": [3, 4, 5]}]
    members = {"recipe": "digits", "question": "Why?", "fields": SMALL, "seeds": [4], "epochs": 1}
    file.write_text(json.dumps({**members, "arms": {"one": {"lr": 2e-3}, "two": stages}}))
    study = named(str(file))
    assert (study.name, study.question, study.base) == ("rates", "Why?", recipe("digits"))
    run_study(study, tmp_path / "a")
    assert ran == ["one/seed-4/1", "two/seed-4/1", "two/seed-4/2"]
    file.write_text(json.dumps({**members, "data": "cifar10", "grid": {"lr": [1, 2]}}))
    assert list(read_study(file).arms) == ["lr=1", "lr=2"]
    assert read_study(file).base.data == "cifar10"
