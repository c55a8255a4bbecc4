"""Programs for ExecuTorch: both precisions agree with the model, and pt2 programs can be lowered."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import feathervit
from feathervit.cli import main
from feathervit.data.image import normalise, resize
from feathervit.export import job

executorch = pytest.importorskip("executorch")


def executed(path, pixels):
    """Probabilities by ExecuTorch's runtime, one image at a time."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path.read_bytes())
    method = program.load_method("forward")
    return torch.cat([method.execute([image])[0].clone() for image in pixels.split(1)]).numpy()


@pytest.fixture(scope="module")
def exported(digits_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("executorch") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "CHECKING", 200)
        patch.setattr(job, "CALIBRATION", 60)
        assert main(["export", str(digits_run), "--to", "executorch", "--out", str(out)]) == 0
    return out


def test_both_precisions_agree_with_the_model(exported, digits_run):
    images = feathervit.load_data("digits", img_size=16).test
    pixels = normalise(resize(images.images, 16), (0.5,), (0.5,))
    expected = feathervit.load(digits_run).probabilities(images.images).numpy()
    np.testing.assert_allclose(executed(exported / "model.pte", pixels), expected, atol=1e-4)
    small = executed(exported / "model.int8.pte", pixels)
    assert (small.argmax(1) == expected.argmax(1)).mean() > 0.95
    report = json.loads((exported / "export.json").read_text())
    assert report["passed"] and report["n"] == 200
    assert report["agreement"] == 1
    assert report["same_expert"] > 0.999
    assert report["int8"]["file"] == "model.int8.pte"
    assert report["int8"]["agreement"] > 0.95
    sizes = [(exported / name).stat().st_size for name in ("model.pte", "model.int8.pte")]
    assert sizes == [report["bytes"], report["int8"]["bytes"]]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_program_contains_its_facts(exported):
    from executorch.runtime import Runtime

    program = Runtime.get().load_program((exported / "model.int8.pte").read_bytes())
    (facts,) = program.load_method("facts").execute([])
    facts = json.loads(facts)
    assert facts["class_names"] == list("0123456789")
    assert (facts["input"], facts["img_size"], facts["mean"]) == ("tensor", 16, [0.5])


def test_an_inaccurate_int8_program_is_not_written(digits_run, tmp_path, monkeypatch):
    from feathervit.export import executorch as target

    monkeypatch.setattr(job, "CHECKING", 40)
    monkeypatch.setattr(job, "CALIBRATION", 2)
    monkeypatch.setattr(job, "ROUTED", 4)
    monkeypatch.setattr(target, "passes", lambda found, least: False)
    messages = []
    report = feathervit.export_model(digits_run, "executorch", tmp_path / "out", say=messages.append)
    assert report["passed"] and report["int8"]["file"] is None
    assert "only 32 bits" in messages[0]
    assert not (tmp_path / "out" / "model.int8.pte").exists()


@pytest.mark.parametrize("kind", ["image", "tensor"])
def test_pt2_programs_can_be_lowered(digits_run, tmp_path, kind):
    """Other backends of ExecuTorch start from `--to pt2`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    feathervit.export_model(digits_run, "pt2", tmp_path / "out", input=kind)
    program = torch.export.load(tmp_path / "out" / "model.pt2")
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    assert "executorch_call_delegate" in str(lowered.exported_program().graph)
