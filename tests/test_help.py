"""The help: every verb and flag is there with a description, and nothing is wider than a terminal of 80 columns."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from feathervit.cli import main
from feathervit.cli.help import descriptions, overview
from feathervit.cli.verbs import VERBS


def helped(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb, capsys):
    text = helped(capsys, *verb.split())
    assert max(map(len, text.splitlines())) <= 80
    if verb in ("train", "pretrain"):
        return  # the common flags only; --help-all has the rest
    kind = VERBS[verb][0]
    for field in dataclasses.fields(kind):
        name = field.name.replace("_", "-")
        assert f"--{name}" in text or field.name.upper() in text
        said = descriptions(kind).get(field.name)
        assert said, f"--{name} has no description"
        assert said.split()[0] in text


def test_defaults_and_choices_are_there(capsys):
    text = " ".join(helped(capsys, "export").split())
    assert "One of onnx, int8" in text
    assert "(default: onnx)" in text
    assert "IMAGES..." in helped(capsys, "predict")


def test_overview(capsys):
    lines = overview(VERBS).splitlines()
    assert max(map(len, lines)) <= 80
    assert [verb for verb in VERBS if not any(line.startswith(f"  {verb} ") for line in lines)] == []
    assert "plot attention" in helped(capsys, "plot")
    assert "export" not in helped(capsys, "plot")


def test_help_loads_no_torch():
    code = "import sys; from feathervit.cli import main\ntry: main(['predict', '--help'])\nexcept SystemExit: pass\n"
    found = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], capture_output=True)
    assert found.returncode == 0, found.stderr
