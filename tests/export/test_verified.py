"""Exports are checked on held-out images, and an export that does not agree fails."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from scipy.stats import binom

import feathervit
from feathervit.cli import main
from feathervit.errors import DataError
from feathervit.export.job import prepare
from feathervit.export.verify import as_accurate, compare, mcnemar


def test_a_frozen_router_is_detected(photographs_run):
    job = prepare(photographs_run, None, {}, print)

    def gates(images, frozen):
        found = job.predictor.model.intermediates(torch.from_numpy(job.tensors(images)), ("gate",))
        return [(gate[:1].expand_as(gate) if frozen else gate).detach().numpy() for gate in found.values()]

    assert job.routing(lambda images: gates(images, False))["same_expert"] == 1
    assert job.routing(lambda images: gates(images, True))["same_expert"] < 0.9


@pytest.mark.parametrize(
    ("lost", "won", "passed"),
    [(1, 0, True), (5, 0, True), (6, 0, False), (20, 8, False), (20, 10, True), (0, 30, True), (0, 0, True)],
)
def test_int8_is_refused_if_it_loses_accuracy(lost, won, passed):
    """At 5 %, McNemar's exact test refuses from six losses on: 2 / 2^6 = 0.031. For five it is 0.063."""
    n = 60
    labels = np.zeros(n, int)
    ours, theirs = np.tile([0.9, 0.1], (n, 1)), np.tile([0.9, 0.1], (n, 1))
    theirs[:lost] = theirs[:lost, ::-1]
    ours[lost : lost + won] = ours[lost : lost + won, ::-1]
    found = compare(ours, theirs, labels)
    assert (found["lost"], found["won"]) == (lost, won)
    assert mcnemar(lost, won) == pytest.approx(min(1, 2 * binom.cdf(min(lost, won), lost + won, 0.5)))
    assert as_accurate(found) == passed
    for images, fits in ((1, passed), (3, False)):  # fewer agree on the original files
        files = {"n": n, "agreement": min(0.99, found["agreement"]) - images / n + 1e-9}
        assert as_accurate(found | {"originals": files}) == fits


def test_only_used_images_are_decoded(photographs_run, monkeypatch):
    from feathervit.data import cache
    from feathervit.export import job

    decoded = []
    to_stored = cache.to_stored
    monkeypatch.setattr(cache, "to_stored", lambda *args: decoded.append(args[0]) or to_stored(*args))
    monkeypatch.setattr(job, "CHECKING", 5)
    monkeypatch.setattr(job, "CALIBRATION", 7)
    made = prepare(photographs_run, None, {}, print)
    assert (len(made.checking), len(decoded)) == (5, 5)
    assert set(made.originals) == set(decoded)
    assert len(set(made.checking.labels)) == 3
    assert (len(made.calibration), len(decoded)) == (7, 12)


def test_arrays_and_few_images(digits_run, held_out, tmp_path):
    images, labels = held_out.images[:3].numpy(), held_out.labels[:3].numpy().astype(str)
    messages = []
    report = feathervit.export_model(
        digits_run, "huggingface", tmp_path / "a", data=(images, labels), say=messages.append
    )
    assert "only 1 image" in messages[-1]
    assert (report["n"], report["split"]) == (1, "arrays/train")
    with pytest.raises(DataError, match="too few"):
        feathervit.export_model(digits_run, "huggingface", tmp_path / "b", data=(images[:2], labels[:2]))


def test_unreadable_images_are_reported(photographs_run, photographs, tmp_path):
    shutil.copytree(photographs / "test", tmp_path / "set" / "test")
    (tmp_path / "set" / "test" / "flat" / "0.jpg").write_bytes(b"not an image")
    messages = []
    made = prepare(photographs_run, tmp_path / "set", {}, messages.append)
    assert "1 of 18 images of set/test cannot be read" in messages[0]
    assert (len(made.checking), len(made.originals)) == (17, 17)


def test_other_images_to_check_on(photographs_run, photographs, tmp_path, monkeypatch):
    """All images of a test split are checked: those for the calibration are the training images."""
    shutil.copytree(photographs / "test", tmp_path / "set" / "test")
    made = prepare(photographs_run, tmp_path / "set", {}, print)
    assert (len(made.checking), made.calibration.name) == (18, f"{photographs.name}/train")
    assert made.held_out
    flat = prepare(photographs_run, tmp_path / "set" / "test", {}, print)
    assert flat.held_out is None  # a folder may hold the training images under another name
    own = prepare(photographs_run, None, {}, print)
    assert own.held_out
    monkeypatch.setattr("feathervit.export.job._training_data", lambda *_: None)  # it is missing
    made = prepare(photographs_run, tmp_path / "set", {}, print)
    assert (len(made.checking), len(made.calibration)) == (8, 5)  # the images serve all purposes; half are for checking


def test_calibration_and_checking_images_are_disjoint(digits_run, folder, tmp_path):
    job = prepare(digits_run, None, {}, print)
    sets = [job.calibration, job.choosing, job.checking]
    assert [s.name for s in sets] == ["digits/train", "digits/train", "digits/test"]
    # Images of a single folder are divided among the sets.
    fields = {
        "model": "mlit_nano",
        "arch.depth": 1,
        "img_size": 16,
        "patch_size": 4,
        "epochs": 1,
        "augment.policy": "none",
    }
    feathervit.train("folder", data=folder, out=tmp_path / "run", **fields)
    job = prepare(tmp_path / "run", folder / "train", {}, print)
    sets = [job.calibration, job.choosing, job.checking]
    assert [len(s) for s in sets] == [18, 18, 36]
    rows = [{row.tobytes() for row in s.pixels.numpy()} for s in sets]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_an_int8_export_that_disagrees_fails(digits_run, tmp_path, capsys, monkeypatch):
    from feathervit.export import files

    def noise(proto, method, images):
        broken = type(proto)()
        broken.CopyFrom(proto)
        for tensor in broken.graph.initializer:
            if len(tensor.dims) == 2:
                values = np.random.default_rng(0).standard_normal(tensor.dims, dtype=np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return broken

    monkeypatch.setattr(files, "quantise", noise)
    monkeypatch.setattr(files, "float_share", lambda proto: 0.0)
    assert main(["export", str(digits_run), "--to", "int8", "--out", str(tmp_path / "out")]) == 1
    assert "FAILED" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert not report["passed"]
    assert report["agreement"] < 0.97


@pytest.mark.parametrize("to", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_a_32_bit_export_that_disagrees_fails(digits_run, tmp_path, monkeypatch, to):
    from feathervit.export import files, pt2

    core, forward = files.core, pt2.Preprocess.forward

    def turned(*args):
        proto = core(*args)
        head = next(t for t in proto.graph.initializer if sorted(t.dims) == [10, 64])
        weight = np.flip(onnx.numpy_helper.to_array(head), list(head.dims).index(10))
        head.CopyFrom(onnx.numpy_helper.from_array(weight, head.name))
        return proto

    monkeypatch.setattr(files, "core", turned)
    monkeypatch.setattr(pt2.Preprocess, "forward", lambda self, image: forward(self, image).flip(-1, -2))
    assert main(["export", str(digits_run), "--to", to, "--out", str(tmp_path / to)]) == 1
    assert not json.loads((tmp_path / to / "export.json").read_text())["passed"]
