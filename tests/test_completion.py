"""Completion: what bash offers after the script is read."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from feathervit.cli import main


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["pre"], {"pretrain", "predict"}),
        (["plot", "p"], {"patches", "positions"}),
        (["predict", "run", "--d"], {"--draw", "--device"}),
        (["plot", "attention", "run", "--"], {"--out", "--help"}),
        (["train", "--mo"], {"--model"}),
    ],
)
def test_bash_offers(words, offered, capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = 'COMP_WORDS=(feathervit "$@"); COMP_CWORD=$#; _feathervit; printf "%s\\n" "${COMPREPLY[@]}"'
    found = subprocess.run(["bash", "-c", f"{script}\n{ask}", "bash", *words], capture_output=True, text=True)
    assert found.stderr == ""
    assert set(found.stdout.split()) == offered
