"""config.json of a run to resume: not JSON, fields of the wrong type, numbers out of range."""

from __future__ import annotations

from pathlib import Path

from feathervit.config import resolve
from feathervit.recipes import recipe

from .case import Case, Make, all_fields, copy, edit_json, put

RESUME = "train --resume --out {here}/stopped"
AGAIN = "pretrain --resume --out {here}/pretrained"


def content(data: bytes):
    return copy("stopped", lambda run: (run / "config.json").write_bytes(data))


def changed(field: str, new, of: str = "stopped") -> Make:
    return copy(of, lambda run: edit_json(run / "config.json", lambda value: put(value, field, new)))


def replaced_by_folder(run: Path) -> None:
    (run / "config.json").unlink()
    (run / "config.json").mkdir()


def replaced_by_loop(run: Path) -> None:
    (run / "config.json").unlink()
    (run / "config.json").symlink_to(run / "config.json")


NOT_JSON = {
    "empty": content(b""),
    "half": content(b'{"recipe": "folder", "mod'),
    "of random bytes": content(bytes(range(256)) * 4),
    "a list": content(b"[]"),
    "a number": content(b"17"),
    "null": content(b"null"),
    "a text": content(b'"folder"'),
    "not a number": content(b"NaN"),
    "YAML": content(b"recipe: folder\nepochs: 3\n"),
    "nested deeply": content(b"[" * 100_000),
    "nested deeply inside a field": content(b'{"images":' * 20_000 + b"1" + b"}" * 20_000),
    "with a number of 5000 digits": content(b'{"epochs": ' + b"9" * 5000 + b"}"),
    "a folder": copy("stopped", replaced_by_folder),
}

WRONG = {bool: "yes", int: "many", float: "much", str: 7, type(None): {"a": 1}, list: "none", dict: 5}


def of_the_wrong_type() -> list[Case]:
    """Each field of a run's configuration set to a value of another type."""
    config = resolve(recipe("mae_folder"))
    cases = []
    for field, value in all_fields(config):
        if field.endswith(".kind"):
            continue
        wrong = WRONG[type(value)]
        cases.append(Case(f"config.json: {field} is {wrong!r}", AGAIN, [field], changed(field, wrong, "pretrained")))
    return cases


INVALID = {  # field: values
    "epochs": [0, -3, True, 2.5],
    "batch_size": [0, -12],
    "accumulate": [0],
    "patience": [-1],
    "img_size": [0, -16, 1 << 40, 17],
    "patch_size": [0, 5, 1 << 40],
    "lr": [-1.0, float("nan"), float("inf"), 10**400],
    "seed": [1.5, None],
    "model": ["mlit_none", "timm:no_such_model", ""],
    "objective": ["guessing"],
    "device": ["tpu"],
    "precision": ["float8"],
    "compile": [True],
    "on_nonfinite": ["ignore"],
    "images.mean": [[], [0.5, "a"], [float("nan")], [0.5, 0.5]],
    "images.std": [[0.0], [-1.0], [float("inf")], [[0.5]]],
    "images.channels": [-1, 0, 7],
    "images.stored_size": [0, 1 << 20],
    "split.val_fraction": [1.0, -0.1, float("nan")],
    "split.folds": [1, -2],
    "split.seed": [-1, 1 << 40],
    "split.train_per_class": [-5],
    "augment.crop_scale": [[0.0, 1.0], [1.0, 0.5], [0.5]],
    "augment.crop_ratio": [[2.0, 1.0]],
    "augment.mixup": [-1.0, float("inf"), float("nan")],
    "augment.cutmix": [float("nan")],
    "augment.erasing": [1.5],
    "augment.repeats": [0, -1],
    "augment.rand_magnitude": [31],
    "augment.crop_padding": [-1],
    "augment.cutout": [-2],
    "optim.name": ["adam"],
    "optim.betas": [[0.9], [1.0, 0.9], [0.9, float("nan")]],
    "optim.eps": [-1.0],
    "optim.weight_decay": [-0.1, float("inf")],
    "optim.layer_decay": [0.0, -1.0, float("nan")],
    "optim.warmup_epochs": [-1.0, float("inf")],
    "optim.clip_grad": [-1.0],
    "optim.ema": [1.5],
    "loss.label_smoothing": [1.0, -0.5, float("nan")],
    "loss.moe": [-1.0],
    "loss.class_weights": ["heavy"],
    "arch.dim": [0, 15, 1 << 40],
    "arch.depth": [-1, 1 << 40],
    "arch.attention": [{"kind": "Nothing"}, {"kind": ["GQA"]}, [], {"kind": "MoE"}],
    "arch.feedforward": [{"kind": "GQA", "heads": 1}],
    "arch.readout": ["last"],
    "arch.drop_rate": [1.5],
    "surprise": [1],
    "images.surprise": [1],
    "arch.surprise": [1],
}
MESSAGES = {"img_size": "1", "patch_size": "patch", "images.channels": "channels", "optim.layer_decay": "layer"}
MESSAGES |= {"loss.label_smoothing": "smoothing", "arch.dim": "1"}

CASES = [
    *(Case(f"config.json: {name}", RESUME, ["config.json"], make) for name, make in NOT_JSON.items()),
    Case("config.json: a link to itself", RESUME, ["stopped"], copy("stopped", replaced_by_loop)),
    *of_the_wrong_type(),
    *(
        Case(
            f"config.json: {field} {str(value)[:40]}",
            RESUME,
            [MESSAGES.get(field, field)],
            changed(field, value),
        )
        for field, values in INVALID.items()
        for value in values
    ),
]
