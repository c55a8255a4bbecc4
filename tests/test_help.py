"""The help lists every verb and flag with a description, and fits a terminal of 80 columns."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from feathervit.cli import main
from feathervit.cli.help import descriptions, overview
from feathervit.cli.verbs import VERBS


def help_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(verb, capsys):
    text = help_of(capsys, *verb.split())
    assert max(map(len, text.splitlines())) <= 80
    if verb in ("train", "pretrain"):
        return  # only the common flags; --help-all shows all
    kind = VERBS[verb]
    for field in dataclasses.fields(kind):
        name = field.name.replace("_", "-")
        assert f"--{name}" in text or field.name.upper() in text
        description = descriptions(kind).get(field.name)
        assert description, f"--{name} has no description"
        assert description.split()[0] in text


def test_help_shows_defaults_and_choices(capsys):
    text = " ".join(help_of(capsys, "export").split())
    assert "One of onnx, int8" in text
    assert "(default: onnx)" in text
    assert "IMAGES..." in help_of(capsys, "predict")


def test_overview_lists_every_verb(capsys):
    lines = overview(VERBS).splitlines()
    assert max(map(len, lines)) <= 80
    assert [verb for verb in VERBS if not any(line.startswith(f"  {verb} ") for line in lines)] == []
    assert "plot attention" in help_of(capsys, "plot")
    assert "export" not in help_of(capsys, "plot")


def test_help_imports_neither_torch_nor_timm():
    code = "import sys; from feathervit.cli import main\ntry: main(['predict', '--help'])\nexcept SystemExit: pass\n"
    found = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(bool({'torch', 'timm'} & set(sys.modules)))"], capture_output=True
    )
    assert found.returncode == 0, found.stderr
