"""Completions that bash offers after it reads the script."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from feathervit.cli import main


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("arguments", "offered"),
    [
        (["pre"], {"pretrain", "predict"}),
        (["plot", "p"], {"patches", "positions"}),
        (["predict", "run", "--d"], {"--draw", "--device"}),
        (["plot", "attention", "run", "--"], {"--out", "--help"}),
        (["train", "--mo"], {"--model"}),
    ],
)
def test_bash_completions(arguments, offered, capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    query = 'COMP_WORDS=(feathervit "$@"); COMP_CWORD=$#; _feathervit; printf "%s\\n" "${COMPREPLY[@]}"'
    found = subprocess.run(["bash", "-c", f"{script}\n{query}", "bash", *arguments], capture_output=True, text=True)
    assert found.stderr == ""
    assert set(found.stdout.split()) == offered
