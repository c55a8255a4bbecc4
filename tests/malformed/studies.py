"""Studies: files that are not studies, and false plans and cells."""

from __future__ import annotations

import json

from .case import Case, Make, copy, damaged_json, edit_json, file, put
from .conftest import STUDY

RUN = "study {here}/s.json --out {here}/out"
SHOW = "study x --show --out {here}/study"


def study(**changes) -> Make:
    def make(here, world) -> None:
        value = {**STUDY, "data": str(world / "set"), **changes}
        (here / "s.json").write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))

    return make


def arms(*stages, name: str = "a") -> Make:
    return study(arms={name: list(stages)})


def text(data: bytes | str) -> Make:
    return file("s.json", data)


FILES = [
    *damaged_json("s.json", text),
    ("a folder", lambda here, world: (here / "s.json").mkdir(), "s.json"),
    ("without recipe", study(recipe=...), "recipe"),
    ("with an unknown recipe", study(recipe="foldr"), "folder"),
    ("without arms", study(arms={}), "arms or grid"),
    ("with arms and grid", study(grid={"lr": [1e-3]}), "arms or grid"),
    ("with an arm that is a number", study(arms={"a": 3}), "arms.a"),
    ("with an arm without stages", study(arms={"a": []}), "arms.a"),
    ("with a stage that is a text", arms("lr"), "arms.a"),
    ("with an arm that leads outside", study(arms={"../../a": {}}), "../../a"),
    ("with an arm without a name", study(arms={"": {}}), "arms"),
    ("with an arm of 300 letters", study(arms={"a" * 300: {}}), "arms"),
    ("with an unknown field", arms({"surprise": 1}), "'surprise'"),
    ("with a field of the wrong type", arms({"lr": "fast"}), "lr"),
    ("with a model that is a number", arms({"model": 5}), "model"),
    ("with a model that is a number and a part of it", arms({"model": 5, "arch.dim": 16}), "model"),
    ("with a rate below 0", arms({"lr": -1.0}), "arms.a, stage 1: lr"),
    ("with epochs of a stage that are 0", arms({"epochs": 0}), "epochs"),
    ("with a stage's data that is a number", arms({"data": 3}), "data"),
    ("with missing data of a stage", arms({"data": "/no/such/set"}), "/no/such/set"),
    ("with a share below 0", arms({"share": -1}, {}), "share"),
    ("with shares that are not one", arms({"share": 0.5}, {"share": 0.9}), "shares"),
    ("with a share of one stage only", arms({"share": 0.5}, {}), "give a share to"),
    ("with a seed in an arm", arms({"seed": 3}), "seed"),
    ("with a seed in its fields", study(fields={"seed": 3}), "seed"),
    ("without seeds", study(seeds=[]), "seeds"),
    ("with one seed twice", study(seeds=[1, 1]), "seeds"),
    ("with epochs below 1", study(epochs=0), "epochs"),
    ("with epochs and minutes", study(minutes=1.0), "two budgets"),
    ("with minutes of 0", study(epochs=..., minutes=0), "minutes"),
    ("with a grid without values", study(arms=..., grid={"lr": []}), "grid.lr"),
    ("with a grid of a value twice", study(arms=..., grid={"lr": [1e-3, 1e-3]}), "same name"),
    ("with a grid of paths", study(arms=..., grid={"start_from": ["../a", "../b"]}), "cannot name a folder"),
]


def plan(change) -> Make:
    return copy("study", lambda folder: edit_json(folder / "plan.json", change))


def cell(change) -> Make:
    return copy("study", lambda folder: edit_json(folder / "cells" / "plain" / "seed-0" / "cell.json", change))


def damaged(kind: str, path: str) -> list[tuple[str, Make, str]]:
    rows = damaged_json(path, lambda data: copy("study", lambda folder: (folder / path).write_bytes(data)))
    return [(f"{kind} {what}", make, text) for what, make, text in rows]


CELL = "cells/plain/seed-0/cell.json"
FOLDERS = [
    *damaged("plan", "plan.json"),
    *damaged("cell", CELL),
    ("plan without base", plan(lambda p: p.pop("base") and None), "plan.json"),
    ("plan with an arm that leads outside", plan(lambda p: put(p, "arms", {"../../cells/plain": [{}]})), "plan.json"),
    ("plan with a seed that leads outside", plan(lambda p: put(p, "seeds", ["0/../../plain/seed-0"])), "plan.json"),
    ("plan without arms", plan(lambda p: put(p, "arms", {})), "plan.json"),
    ("plan with epochs that are texts", plan(lambda p: put(p, "epochs", {"plain": "x", "slow": 3})), "plan.json"),
    ("cell of another arm", cell(lambda c: put(c, "arm", "slow")), "cell.json"),
    ("cell of another schema", cell(lambda c: put(c, "schema", 99)), "cell.json"),
    ("cell with an accuracy that is a text", cell(lambda c: put(c, "figures.val_top1", "good")), "cell.json"),
    ("cell with epochs that are a number", cell(lambda c: put(c, "figures.epochs", 3)), "cell.json"),
    ("cell with an empty stage", cell(lambda c: put(c, "stages", [{}])), "cell.json"),
]

FLAGS = [
    ("an unknown study", "study redout --out {here}/out", "readout"),
    ("a missing file", "study {here}/none.json --out {here}/out", "none.json"),
    ("no folder", "study readout", "--out"),
    ("no study", "study", "readout"),
    ("an unknown size", "study readout --out {here}/out --size huge", "sizes"),
    ("a size for a study of one size", "study {world}/study.json --out {here}/out --size cpu", "one size"),
    ("shard 0", "study {world}/study.json --out {here}/out --shard 0/2", "shard"),
    ("a shard beyond the last", "study {world}/study.json --out {here}/out --shard 3/2", "shard"),
    ("seeds that are words", "study {world}/study.json --out {here}/out --seeds one", "--seeds"),
    ("minutes that are not a number", "study {world}/study.json --out {here}/out --minutes nan", "minutes"),
    ("a time limit below 0", "study {world}/study.json --out {here}/out --max-minutes=-1", "max_minutes"),
    ("missing data", "study {world}/study.json --out {here}/out --data /no/such/set", "/no/such/set"),
    ("a folder that is a file", "study {world}/study.json --out {world}/good.png", "good.png"),
    ("a folder of another study", "study {world}/study.json --out {world}/study --minutes 1", "another study"),
    ("nothing to show", "study x --show --out {here}", "no study"),
]

CASES = [
    *(Case(f"study: {what}", RUN, [word], make) for what, make, word in FILES),
    *(Case(f"study folder: {what}", SHOW, [word], make) for what, make, word in FOLDERS),
    *(Case(f"study flag: {what}", argv, [word]) for what, argv, word in FLAGS),
]
