"""Studies from Python and from files."""

from __future__ import annotations

import json

import pytest

from feathervit.config import MLPConfig
from feathervit.errors import ConfigError, UnknownNameError
from feathervit.recipes import recipe
from feathervit.studies import STUDIES, grid, read_study
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a study"),
        ("[1]", "must be an object"),
        ('{"recipe": "digits", "arms": {"a": {}}, "seed": 3}', "unknown field 'seed'"),
        ('{"recipe": "digits", "arms": {"a": {}}, "seeds": ["x"]}', r"seeds\[0\] must be int"),
        ('{"recipe": "digits", "arms": {"a": {}}, "seeds": [1, 1]}', "seeds must be different"),
        ('{"recipe": "digits", "arms": {"a": 3}}', "arms.a must be an object"),
        ('{"recipe": "digits", "arms": {"a": {}}, "grid": {"lr": [1]}}', "either arms or grid"),
        ('{"recipe": "digits"}', "either arms or grid"),
        ('{"recipe": "digits", "grid": {"lr": 3}}', "grid.lr must be a list"),
        ('{"arms": {"a": {}}}', "recipe: name"),
        ('{"recipe": "digits", "arms": {"a": {}}, "epochs": 0}', "epochs must be at least 1"),
        ('{"recipe": "digits", "arms": {"a": {}}, "minutes": -1}', "minutes must be above 0"),
    ],
)
def test_invalid_study_files_are_refused(tmp_path, text, message):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_study(tmp_path / "s.json")
    assert "s.json" in str(error.value)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean sharing"):
        named("shering")
    with pytest.raises(ConfigError, match=r"cannot read .*none.json"):
        named(str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="the sizes cpu, gpu, not 'tpu'"):
        run_study(STUDIES["sharing"], tmp_path, size="tpu")
