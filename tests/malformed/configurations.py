"""config.json of a run to resume: not JSON, values that no flag can have, and a number that is none."""

from __future__ import annotations

from pathlib import Path

from .case import Case, Make, copy, damaged_json, edit_json, put

RESUME = "train --resume --out {here}/stopped"


def content(data: bytes) -> Make:
    return copy("stopped", lambda run: (run / "config.json").write_bytes(data))


def changed(field: str, new) -> Make:
    return copy("stopped", lambda run: edit_json(run / "config.json", lambda value: put(value, field, new)))


def replaced_by_folder(run: Path) -> None:
    (run / "config.json").unlink()
    (run / "config.json").mkdir()


def replaced_by_loop(run: Path) -> None:
    (run / "config.json").unlink()
    (run / "config.json").symlink_to(run / "config.json")


NOT_JSON = [
    *damaged_json("config.json", content),
    ("not a number", content(b"NaN"), "config.json"),
    ("with a number of 5000 digits", content(b'{"epochs": ' + b"9" * 5000 + b"}"), "config.json"),
    ("a folder", copy("stopped", replaced_by_folder), "config.json"),
    ("a link to itself", copy("stopped", replaced_by_loop), "stopped"),
]
INVALID = {  # field: values
    "epochs": [True, 2.5],
    "lr": [float("nan"), 10**400],
    "seed": [None],
    "model": ["mlit_none", "timm:no_such_model", ""],
    "objective": ["guessing"],
    "images.mean": [[], [0.5, "a"], [float("nan")]],
    "images.std": [[float("inf")], [[0.5]]],
    "optim.betas": [[0.9]],
    "arch.attention": [{"kind": "Nothing"}, {"kind": ["GQA"]}, [], {"kind": "MoE"}],
    "arch.feedforward": [{"kind": "GQA", "heads": 1}],
    "surprise": [1],
    "arch.surprise": [1],
}

CASES = [
    *(Case(f"config.json: {what}", RESUME, [text], make) for what, make, text in NOT_JSON),
    *(
        Case(f"config.json: {field} {str(value)[:40]}", RESUME, [field], changed(field, value))
        for field, values in INVALID.items()
        for value in values
    ),
]
