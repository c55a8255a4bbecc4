"""Sixty SIGKILLs at seeded random moments of training, pre-training, a study, an export and the building of a cache.
Nothing finished is lost, and the same command, or `--resume`, ends with the same result as an uninterrupted one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from feathervit.data import load_data
from feathervit.results import read_result
from feathervit.studies.report import read_cell

from ..conftest import same_weights, write_images
from .commands import POSIX, SMALL, Command, finished, killed, run
from .faults import drafts, rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not POSIX, reason="there is no SIGKILL"),
]

KILLS = 12  # of each kind
MODEL = [*SMALL, "--batch-size", "64"]
DIGITS = ["--data", "digits", "--threads", "1", *MODEL]


@pytest.fixture
def log(tmp_path) -> Path:
    """The file for the output of a command."""
    return tmp_path / "output.txt"


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("train", ["--epochs", "8", "--split.train-per-class", "40", "--optim.ema", "0.9"]),
        ("pretrain", ["--epochs", "10", "--split.train-per-class", "40", "--split.val-fraction", "0.1"]),
    ],
)
def test_run_survives_kills(verb, arguments, tmp_path, log):
    whole = run([verb, *DIGITS, *arguments, "--out", tmp_path / "whole"], log)
    assert whole.status == 0, whole.output
    epochs, chance, kills, number = int(arguments[1]), random.Random(verb), 0, 0
    while kills < KILLS:
        out, done = tmp_path / f"{number}", False
        while not done:
            begun = (out / "config.json").exists()
            command = [verb, "--resume", "--threads", "1"] if begun else [verb, *DIGITS, *arguments]
            before = (out / "result.json").read_bytes() if (out / "result.json").exists() else None
            if kills < KILLS:
                done = finished(killed([*command, "--out", out], log, out, chance, whole.seconds))
                kills += not done
            else:
                done = finished(run([*command, "--out", out], log))
            if before:  # the run had ended except for its report
                assert read_result(out / "result.json").epochs == json.loads(before)["epochs"]
        for name in ("last", "best"):
            assert same_weights(tmp_path / "whole" / f"{name}.safetensors", out / f"{name}.safetensors")
        assert rows(out) == rows(tmp_path / "whole") and len(rows(out)) == epochs
        found, wanted = (read_result(folder / "result.json") for folder in (out, tmp_path / "whole"))
        assert (found.val, found.test) == (wanted.val, wanted.test)
        assert (out / "report.html").stat().st_size > 100_000
        assert drafts(out) == []
        assert {p.name for p in (out / "reconstructions").glob("*")} == {
            p.name for p in (tmp_path / "whole" / "reconstructions").glob("*")
        }
        number += 1
    print(f"{kills} SIGKILLs in {number} runs")


def test_study_survives_kills(tmp_path, log):
    fields = {"batch_size": 64, "arch.depth": 1, "arch.dim": 16, "img_size": 8, "patch_size": 2}
    (tmp_path / "study.json").write_text(
        json.dumps(
            {
                "question": "Which rate?",
                "recipe": "digits",
                "fields": {**fields, "split.train_per_class": 20},
                "arms": {"slow": {"lr": 1e-3}, "two": [{"epochs": 2}, {"epochs": 2, "start_from": "{previous}"}]},
                "seeds": [0, 1],
                "epochs": 3,
            }
        )
    )
    command = ["study", tmp_path / "study.json", "--threads", "1", "--out"]
    whole = run([*command, tmp_path / "whole"], log)
    assert whole.status == 0, whole.output
    cells = [(arm, seed) for arm in ("slow", "two") for seed in (0, 1)]
    chance, kills, number = random.Random("study"), 0, 0
    while kills < KILLS:
        out, done = tmp_path / f"{number}", False
        ended: dict[Path, bytes] = {}
        while not done:
            if kills < KILLS:
                done = finished(killed([*command, out], log, out, chance, whole.seconds))
                kills += not done
            else:
                done = finished(run([*command, out], log))
            for path, text in ended.items():
                assert path.read_bytes() == text  # neither run again nor lost
            ended = {path: path.read_bytes() for path in out.glob("cells/*/*/cell.json")}
        for arm, seed in cells:
            found, wanted = (read_cell(folder, arm, seed) for folder in (out, tmp_path / "whole"))
            assert found.status == "finished"
            assert found.figures["test_top1"] == wanted.figures["test_top1"]
            for stage in range(1, len(wanted.stages) + 1):
                at = Path("cells", arm, f"seed-{seed}", f"{stage}")
                for name in ("last", "best"):
                    assert same_weights(
                        tmp_path / "whole" / at / f"{name}.safetensors", out / at / f"{name}.safetensors"
                    )
                assert rows(out / at) == rows(tmp_path / "whole" / at)
        assert len(json.loads((out / "study.json").read_text())["cells"]) == len(cells)
        number += 1
    print(f"{kills} SIGKILLs in {number} studies")


def test_export_survives_kills(tmp_path, log):
    pytest.importorskip("onnxruntime")
    made = run(["train", *DIGITS, "--epochs", "2", "--out", tmp_path / "run"], log)
    assert made.status == 0, made.output
    weights = (tmp_path / "run" / "best.safetensors").read_bytes()
    chance, kills = random.Random("export"), 0
    for to in ("onnx", "int8", "huggingface"):
        arguments = [
            "export",
            tmp_path / "run",
            "--to",
            to,
            *(["--min-agreement", "0"] if to == "int8" else []),
            "--out",
        ]
        whole = run([*arguments, tmp_path / f"{to}-whole"], log)
        assert whole.status == 0, whole.output
        wanted = {path.name for path in (tmp_path / f"{to}-whole").iterdir()}
        number, until = 0, kills + KILLS // 3
        while kills < until:
            out, done = tmp_path / f"{to}-{number}", False
            while not done:
                if kills < until:
                    command = Command([*arguments, out], log)
                    command.wait(chance.uniform(0, whole.seconds))
                    done = finished(command.kill())
                    kills += not done
                else:
                    done = finished(run([*arguments, out], log))
                record = out / "export.json"
                if record.exists() and json.loads(record.read_text())["finished"]:
                    assert {path.name for path in out.iterdir()} >= wanted
            assert {path.name for path in out.iterdir()} == wanted
            if to == "huggingface":
                assert same_weights(out / "model.safetensors", tmp_path / f"{to}-whole" / "model.safetensors")
            else:
                found, model = (json.loads((f / "export.json").read_text()) for f in (out, tmp_path / f"{to}-whole"))
                assert (found["agreement"], found["top1"]) == (model["agreement"], model["top1"])
            number += 1
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == weights
    print(f"{kills} SIGKILLs")


def test_cache_survives_kills(tmp_path, monkeypatch, log):
    """A partial cache is never used. The next process has the pixels of every image."""
    images = write_images(tmp_path / "set", 60, size=400)
    arguments = ["train", "--data", images, "--threads", "1", "--epochs", "1", *MODEL, "--max-minutes", "0.0001"]
    cache = tmp_path / "cache"
    monkeypatch.setenv("FEATHERVIT_CACHE", str(cache / "whole"))
    whole = load_data(images, img_size=8)
    chance, kills, building = random.Random("cache"), 0, 0
    while kills < KILLS:
        location = cache / f"{kills}"
        monkeypatch.setenv("FEATHERVIT_CACHE", str(location))
        command = Command([*arguments, "--out", tmp_path / f"run-{kills}"], log)
        while command.status is None and not list(location.glob("decoded/*.npy*.tmp")):
            pass
        command.wait(chance.choice([0, chance.uniform(0, 0.5)]))
        kills += not finished(command.kill())
        building += len(list(location.glob("decoded/*.npy"))) < 2  # train's and val's
        found = load_data(images, img_size=8)
        for split in ("train", "val"):
            assert torch.equal(getattr(found, split).images, getattr(whole, split).images)
            assert getattr(found, split).sources == getattr(whole, split).sources
    assert building > 0
    print(f"{kills} SIGKILLs, {building} of them while it was built")
