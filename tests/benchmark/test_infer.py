"""Figures of inference are measured for ours, their twins and timm's models in every form."""

from __future__ import annotations

import json

import pytest

from feathervit.benchmark.infer import chart, run, table
from feathervit.benchmark.peers import build
from feathervit.errors import ConfigError, UnknownNameError
from feathervit.zoo import spec


def test_figures(tmp_path):
    found = run(["mlit_nano", "timm:resnet10t"], 32, 8, ("eager", "onnx", "int8"), (1,), rounds=2)
    json.dumps(found)
    ours, theirs = found["rows"]
    for row in found["rows"]:
        assert set(row["latency_ms"]) == set(row["images_per_s"]) == {"eager", "onnx", "int8"}
        assert row["bytes"]["int8"] < 0.5 * row["bytes"]["onnx"]
        assert 10 < row["peak_mb"]["onnx"] < row["peak_mb"]["eager"]
    assert theirs["int8_method"] == "static"  # dynamic has no matrix to work on
    assert ours["tokens"] == 17
    text = table(found)
    assert found["machine"]["cpu"] in text
    assert text.count("timm:resnet10t") == 3
    chart(found, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["mlit_xxs", "mlit_nano"])
def test_a_twin_is_of_the_same_size(name):
    known = spec(name)
    words = {"img_size": known.img_size, "patch_size": None, "num_classes": 100}
    ours, twin = build(name, **words), build(f"twin:{name}", **words)
    count = [sum(p.numel() for p in model.parameters()) for model in (ours, twin)]
    assert count[1] == pytest.approx(count[0], rel=0.01)
    assert twin.pos_embed.shape == ours.pos_embed.shape
    assert len(twin.blocks) == len(ours.blocks)
    assert twin.blocks[0].attn.num_heads == ours.blocks[0].attn.heads


def test_mistakes():
    with pytest.raises(UnknownNameError):
        run(["mlit_xxl"], 36)
    with pytest.raises(UnknownNameError):
        run(["twin:mlit_xxl"], 36)
    with pytest.raises(ConfigError, match="form"):
        run(["mlit_xxs"], 36, forms=("onyx",))
