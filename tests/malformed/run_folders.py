"""Run folders with false or damaged results, splits, rows and states, and folders that are not run folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from feathervit import checkpoint

from .case import Case, Make, copy, damaged_json, edit_json, put

REPORT = "report {here}/run"
RESUME = "train --resume --out {here}/stopped"


def content(name: str, data: bytes) -> Make:
    return copy("run", lambda run: (run / name).write_bytes(data))


def result(field: str, new) -> Make:
    return copy("run", lambda run: edit_json(run / "result.json", lambda value: put(value, field, new)))


def dropped(field: str) -> Make:
    def change(value) -> None:
        *parents, last = field.split(".")
        for part in parents:
            value = value[part]
        del value[last]

    return copy("run", lambda run: edit_json(run / "result.json", change))


def splits(change) -> Make:
    return copy("run", lambda run: edit_json(run / "splits.json", change))


def without(folder: str, *names: str) -> Make:
    def change(run: Path) -> None:
        for name in names:
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return copy(folder, change)


def state(change) -> Make:
    """The stopped run with a changed state and a correct checksum."""

    def damage(run: Path) -> None:
        for path in run.glob("state*.safetensors"):
            tensors, meta = checkpoint._read(path)
            change(tensors, meta)
            path.write_bytes(checkpoint._pack(tensors, meta))

    return copy("stopped", damage)


def states(data: bytes) -> Make:
    return copy("stopped", lambda run: [path.write_bytes(data) for path in run.glob("state*.safetensors")])


def first_of(tensors: dict, start: str) -> str:
    return next(name for name in sorted(tensors) if name.startswith(start))


def reshaped(start: str) -> Make:
    return state(lambda tensors, meta: tensors.update({first_of(tensors, start): torch.zeros(5, 7, 3)}))


def added(name: str) -> Make:
    return state(lambda tensors, meta: tensors.update({name: torch.zeros(1)}))


RESULTS = [
    *damaged_json("result.json", lambda data: content("result.json", data)),
    ("without machine", dropped("machine"), "machine"),
    ("without the data's fingerprint", dropped("data.fingerprint"), "data.fingerprint"),
    ("of another schema", result("schema", 99), "schema"),
    ("whose epochs are numbers", result("epochs", [1, 2]), "epochs"),
    ("without confusion", dropped("test.confusion"), "confusion"),
    ("with a ragged confusion", result("test.confusion", [[1], [1, 2], []]), "result"),
    ("with a confusion of two classes", result("test.confusion", [[1, 0], [0, 1]]), "result"),
    ("with an accuracy that is a text", result("test.top1", "good"), "result"),
    ("whose configuration has an unknown field", result("config.surprise", 1), "surprise"),
    ("whose model is unknown", result("config.model", "mlit_none"), "mlit_none"),
    ("whose rows hold texts", result("epochs", [{"epoch": 1, "train_loss": "low", "val_loss": "x"}]), "result"),
]


def more(split: str, source: str = "") -> Make:
    """splits.json with another source in this split. The default is a training image."""

    def change(value) -> None:
        sources = value["splits"][split]["sources"]
        sources.append(source or value["splits"]["train"]["sources"][0])
        value["splits"][split]["count"] = len(sources)

    return splits(change)


SPLITS = [
    *damaged_json("splits.json", lambda data: content("splits.json", data)),
    ("with splits that are a list", splits(lambda value: put(value, "splits", [1])), "splits.json"),
    (
        "with a split without a count",
        splits(lambda value: value["splits"]["train"].pop("count") and None),
        "splits.json",
    ),
    ("with a count below 0", splits(lambda value: put(value, "splits.train.count", -1)), "splits.json"),
    (
        "with an unknown split",
        splits(lambda value: value["splits"].update({"../outside": {"count": 0, "how": "x", "sources": []}})),
        "splits.json",
    ),
    ("with a path outside", more("train", "../../outside.png"), "outside the data"),
    ("with an absolute path", more("train", "/etc/hostname"), "inside the data"),
    ("with one source twice", more("train"), "twice"),
    ("with a source in two splits", more("test"), "twice"),
    ("missing", without("run", "splits.json"), "splits.json"),
]

STATES = [
    ("empty", states(b""), "state.safetensors"),
    ("without progress", state(lambda t, m: m.pop("progress")), "progress"),
    ("with a step below 0", state(lambda t, m: m["progress"].update(step=-5)), "step"),
    ("with a step beyond the end", state(lambda t, m: m["progress"].update(step=10**9)), "step"),
    ("with seconds that are not a number", state(lambda t, m: m["progress"].update(seconds=float("nan"))), "seconds"),
    ("of other data", state(lambda t, m: m.update(data="0" * 32)), "data has changed"),
    ("without sums", state(lambda t, m: t.pop("sums")), "sums"),
    ("with a weight missing", state(lambda t, m: t.pop(first_of(t, "model."))), "fit"),
    ("with a weight of another shape", reshaped("model."), "fit"),
    ("with an optimiser's name without a number", added("optimizer.x.exp_avg"), "fit"),
    ("with an optimiser's tensor without a parameter", added("optimizer.99999.exp_avg"), "fit"),
    ("with a scaler of another kind", state(lambda t, m: m.update(scaler=[1])), "fit"),
    (
        "that is a weights file",
        copy("stopped", lambda run: [shutil.copy(run / "last.safetensors", p) for p in run.glob("state*")]),
        "data has changed",
    ),
]


OTHER_RUNS = [
    Case("run folder: report of a missing folder", "report {here}/none", ["result.json"]),
    Case("run folder: report of an empty folder", "report {here}", ["result.json"]),
    Case("run folder: report without best weights", REPORT, ["best.safetensors"], without("run", "best.safetensors")),
    Case(
        "run folder: report without weights",
        REPORT,
        ["checkpoint"],
        without("run", "best.safetensors", "last.safetensors"),
    ),
    Case("run folder: report with damaged weights", REPORT, ["best.safetensors"], content("best.safetensors", b"x")),
    Case("run folder: resumed from a missing folder", "train --resume --out {here}/none", ["no run to resume"]),
    Case("run folder: resumed from an empty folder", "train --resume --out {here}", ["no run to resume"]),
    Case(
        "run folder: pre-training resumed as training of labels",
        "train --resume --objective classification --out {world}/pretrained",
        ["objective"],
    ),
    Case("run folder: training resumed as pre-training", "pretrain --resume --out {world}/stopped", ["objective"]),
    Case("run folder: resumed with another rate", "train --resume --lr 0.5 --out {world}/stopped", ["lr was"]),
    Case(
        "run folder: resumed with other data",
        "train --resume --out {here}/stopped --data digits",
        ["data"],
        copy("stopped"),
    ),
    Case("run folder: not empty", "train --data {world}/set --out {world}/run", ["not empty", "--resume"]),
    Case("run folder: below a file", "train --data {world}/set --out {world}/good.png/run", ["good.png"]),
    Case(
        "run folder: a name of 5000 letters", ["train", "--data", "{world}/set", "--out", "o" * 5000], ["name too long"]
    ),
    Case(
        "run folder: evaluated on a split it lacks",
        "evaluate {world}/run --data {world}/set/train --split test",
        ["no split"],
    ),
    Case("run folder: evaluated on other classes", "evaluate {world}/run --data digits", ["class"]),
    Case("run folder: evaluated on missing data", "evaluate {world}/run --data {here}/none", ["no folder"]),
    Case("run folder: probed on other channels", "probe {world}/run --data digits", ["channels"]),
]

CASES = [
    *(Case(f"result.json: {what}", REPORT, [word], make) for what, make, word in RESULTS),
    *(Case(f"splits.json: {what}", REPORT, [word], make) for what, make, word in SPLITS),
    *(Case(f"state: {what}", RESUME, [word], make) for what, make, word in STATES),
    *OTHER_RUNS,
]
