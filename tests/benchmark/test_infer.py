"""Inference figures are measured for our models, their twins and timm models, in every form."""

from __future__ import annotations

import json
import subprocess

import pytest
import timm
import torch

from feathervit.benchmark import infer
from feathervit.benchmark.infer import chart, run, table
from feathervit.benchmark.peers import build
from feathervit.cli import main
from feathervit.config import spec


@pytest.mark.slow
def test_inference_figures(tmp_path, monkeypatch):
    measured = infer._peak_mb  # starts a process, so once per form is enough
    monkeypatch.setattr(
        infer,
        "_peak_mb",
        lambda arguments: measured(arguments) if "mlit_nano" in arguments[-1] and "int8" not in arguments[-1] else 20.0,
    )
    found = run(["mlit_nano", "timm:test_resnet"], 32, 8, ("eager", "onnx", "int8"), (1,), rounds=2)
    json.dumps(found)
    ours, theirs = found["rows"]
    for row in found["rows"]:
        assert set(row["latency_ms"]) == set(row["images_per_s"]) == {"eager", "onnx", "int8"}
        assert row["bytes"]["int8"] < 0.5 * row["bytes"]["onnx"]
    assert 10 < ours["peak_mb"]["onnx"] < ours["peak_mb"]["eager"]
    assert theirs["int8_method"] in ("static", "mixed")  # dynamic keeps convolutions in floating point
    assert ours["tokens"] == 17
    text = table(found)
    assert found["machine"]["cpu"] in text
    assert text.count("timm:test_resnet") == 3
    chart(found, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["mlit_xxs", "mlit_nano"])
def test_a_twin_has_the_same_size(name):
    known = spec(name)
    arguments = {"img_size": known.img_size, "patch_size": None, "num_classes": 100}
    ours, twin = build(name, **arguments), build(f"twin:{name}", **arguments)
    count = [sum(p.numel() for p in model.parameters()) for model in (ours, twin)]
    assert count[1] == pytest.approx(count[0], rel=0.01)
    assert twin.pos_embed.shape == ours.pos_embed.shape
    assert len(twin.blocks) == len(ours.blocks)
    assert twin.blocks[0].attn.num_heads == ours.blocks[0].attn.heads


@pytest.mark.parametrize(
    ("ours", "name"), [("mlit_xxs", "vit_twin_xxs"), ("mlit_xxs", "resnet18_xxs"), ("mlit_s", "vit_twin_s")]
)
def test_peers_of_studies_have_the_same_size(ours, name):
    sizes = {"img_size": 32, "patch_size": 4} if name.startswith("vit") else {}
    ours = timm.create_model(ours, img_size=32, patch_size=4, num_classes=100)
    peer = timm.create_model(name, num_classes=100, **sizes)
    count = [sum(p.numel() for p in model.parameters()) for model in (ours, peer)]
    assert count[1] == pytest.approx(count[0], rel=0.01)
    sizes = {"img_size": 16, "patch_size": 4} if name.startswith("vit") else {}
    grey = timm.create_model(name, in_chans=1, num_classes=3, **sizes)
    assert grey(torch.zeros(2, 1, 16, 16)).shape == (2, 3)


def test_the_infer_verb(tmp_path, capsys, monkeypatch):
    def broken(model):
        def call(x):
            raise RuntimeError("no compiler")

        return call

    def killed(arguments):
        raise subprocess.CalledProcessError(1, arguments, stderr="out of memory")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(infer, "_peak_mb", killed)
    arguments = ["feather_nano", "--img-size", "16", "--patch-size", "8", "--forms", "eager", "compiled", "plain"]
    arguments += ["--threads", "2", "1", "--rounds", "1"]
    files = ["--chart", str(tmp_path / "a.png"), "--out", str(tmp_path / "a.json")]
    assert main(["benchmark", "infer", *arguments, *files]) == 0
    output = capsys.readouterr().out
    assert "no compiled: no compiler" in output
    assert "no peak memory of plain: out of memory" in output
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["threads"] == [1, 2]
    (row,) = found["rows"]
    assert set(row["latency_ms"]) == {"eager", "plain"}
    assert set(row["latency_ms"]["plain"]) == {"1", "2"}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for path in (tmp_path / "none" / "a.png", tmp_path / "a.svg"):  # reported before any measurement
        assert main(["benchmark", "infer", "no-model", "--chart", str(path)]) == 2
        assert str(path) in capsys.readouterr().err


@pytest.mark.slow
def test_compiled_inference():
    (row,) = run(["timm:test_vit"], 32, None, ("eager", "compiled"), (1,), rounds=2)["rows"]
    if "compiled" in row["absent"]:
        pytest.skip(row["absent"]["compiled"])
    assert set(row["latency_ms"]) == set(row["peak_mb"]) == {"eager", "compiled"}
