"""The verb `export`: files that agree with the model on held-out images, the report, the exit status, the mistakes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch

import feathervit
from feathervit.cli import main
from feathervit.errors import ConfigError, RunFolderError
from feathervit.export.job import prepare
from feathervit.export.verify import probabilities, session


@pytest.fixture
def held_out():
    return feathervit.load_data("digits", img_size=16).test


def answers(file, images):
    return probabilities(session(file), images.images.permute(0, 2, 3, 1).numpy())


def test_float32_and_int8(digits_run, held_out, tmp_path, capsys):
    predictor = feathervit.load(digits_run)
    guesses = [p.label for p in predictor.predict(held_out.images, top=1)]
    found = {}
    for to, name in (("onnx", "model.onnx"), ("int8", "model.int8.onnx")):
        out = tmp_path / to
        assert main(["export", str(digits_run), "--to", to, "--out", str(out), "--json"]) == 0
        found[to] = report = json.loads(capsys.readouterr().out)
        assert json.loads((out / "export.json").read_text()) == {k: v for k, v in report.items() if k != "out"}
        p_NK = answers(out / name, held_out)
        theirs = [predictor.class_names[i] for i in p_NK.argmax(1)]
        agreement = np.mean([a == b for a, b in zip(guesses, theirs, strict=True)])
        assert report["agreement"] == pytest.approx(agreement)
        assert report["top1"] == pytest.approx((p_NK.argmax(1) == held_out.labels.numpy()).mean())
        assert (report["split"], report["n"], report["passed"]) == ("digits/test", 360, True)
        assert report["bytes"] == (out / name).stat().st_size
        assert all(report["latency_ms"][key] > 0 for key in ("eager", to))
        assert report["same_expert"] > 0.9
        assert max(report["experts_used"]) > 1
        facts = {prop.key: prop.value for prop in onnx.load(out / name).metadata_props}
        assert json.loads(facts["class_names"]) == list("0123456789")
        assert (facts["fit"], facts["img_size"]) == ("crop", "16")
        assert facts["feathervit"] == feathervit.__version__
    assert found["onnx"]["agreement"] == 1
    assert found["onnx"]["largest_difference"] < 1e-4
    assert set(found["int8"]["tried"]) == {"dynamic", "static"}
    assert found["int8"]["method"] in found["int8"]["tried"]
    assert found["int8"]["chosen_on"] == "digits/train"
    assert found["int8"]["bytes"] < 0.4 * found["onnx"]["bytes"]


def test_ready_tensors(digits_run, held_out, tmp_path):
    from feathervit.data.picture import normalise, resize

    report = feathervit.export_model(digits_run, "onnx", tmp_path / "out", input="tensor")
    run = session(tmp_path / "out" / "model.onnx")
    (taken,) = run.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("pixels", "tensor(float)", ["batch", 1, 16, 16])
    x = normalise(resize(held_out.images, 16), (0.5,), (0.5,)).numpy()
    assert (probabilities(run, x).argmax(1) == held_out.labels.numpy()).mean() == pytest.approx(report["top1"])


def test_pt2(digits_run, held_out, tmp_path):
    report = feathervit.export_model(digits_run, "pt2", tmp_path / "out")
    assert report["passed"]
    extra = {"feathervit.json": ""}
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["feathervit.json"])["class_names"] == list("0123456789")
    predictor = feathervit.load(digits_run)
    for height, width in ((16, 16), (8, 8), (40, 31), (20, 45)):  # sizes and batches that were not traced
        pictures = torch.randint(0, 256, (3, height, width, 1), dtype=torch.uint8)
        expected = [sorted(p.probabilities) for p in predictor.predict(pictures, top=10)]
        with torch.no_grad():
            got = program(pictures).sort(-1).values.numpy()
        np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_pt2_makes_squares_as_the_package_does(fit):
    from feathervit.config import ImageConfig
    from feathervit.data.picture import fit_square, normalise, resize
    from feathervit.export.pt2 import Pictures

    pictures = Pictures(torch.nn.Flatten(), ImageConfig(fit=fit), 6)
    for height, width in ((6, 6), (9, 14), (14, 9), (5, 30)):
        x = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
        squares = resize(fit_square(x.permute(0, 3, 1, 2), fit), 6)
        expected = normalise(squares, (0.5,), (0.5,)).flatten(1).softmax(-1)
        torch.testing.assert_close(pictures(x), expected)


def test_hugging_face_folder_comes_back(digits_run, held_out, tmp_path):
    report = feathervit.export_model(digits_run, "huggingface", tmp_path / "out")
    assert report["agreement"] == 1
    folder = shutil.copytree(tmp_path / "out", tmp_path / "elsewhere")
    images = held_out.images[:20]
    assert feathervit.load(folder).predict(images) == feathervit.load(digits_run).predict(images)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "mlit_nano"
    assert config["id2label"]["7"] == "7"
    assert config["num_classes"] == 10
    card = (folder / "README.md").read_text()
    test = json.loads((digits_run / "result.json").read_text())["test"]
    header, text = card.split("---\n")[1:3]
    assert "library_name: feathervit" in header
    for words in ("digits", f"{100 * test['top1']:.2f} %", "360 images", "Limits", "Licence"):
        assert words in text


def test_calibration_never_sees_what_is_checked(digits_run, folder, tmp_path):
    job = prepare(digits_run, None, "image", 0.97, print)
    sets = [job.calibration, job.choosing, job.checking]
    assert [s.name for s in sets] == ["digits/train", "digits/train", "digits/test"]
    # With all images in one folder they are shared out.
    fields = {
        "model": "mlit_nano",
        "arch.depth": 1,
        "img_size": 16,
        "patch_size": 4,
        "epochs": 1,
        "augment.policy": "none",
    }
    feathervit.train("folder", data=folder, out=tmp_path / "run", **fields)
    job = prepare(tmp_path / "run", folder / "train", "image", 0.97, print)
    sets = [job.calibration, job.choosing, job.checking]
    assert [len(s) for s in sets] == [18, 18, 36]
    rows = [{row.tobytes() for row in s.pixels.numpy()} for s in sets]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_what_does_not_agree_fails(digits_run, tmp_path, capsys, monkeypatch):
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


def test_folders(digits_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text('{"finished": false}')  # as one that was killed leaves it
    feathervit.export_model(digits_run, "huggingface", out)
    feathervit.export_model(digits_run, "huggingface", out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds no export"):
        feathervit.export_model(digits_run, "onnx", other)
    assert [p.name for p in other.iterdir()] == ["mine.txt"]


def test_mistakes(digits_run, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="min-agreement"):
        feathervit.export_model(digits_run, "int8", tmp_path / "a", min_agreement=97)
    with pytest.raises(ConfigError, match="--input tensor"):
        feathervit.export_model(digits_run, "web", tmp_path / "a", input="tensor")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, find=None: None)
    with pytest.raises(ConfigError, match=r"feathervit\[export\]"):
        feathervit.export_model(digits_run, "onnx", tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "int8", "pt2", "huggingface", "web"])
def test_a_model_of_timm(tmp_path_factory, web_cache, monkeypatch, to):
    monkeypatch.setenv("FEATHERVIT_CACHE", str(web_cache))
    run = tmp_path_factory.mktemp("timm") / "run"
    fields = {
        "optim.warmup_epochs": 1.0,
        "optim.name": "adamw",
        "lr": 1e-3,
        "optim.ema": 0.0,
        "optim.betas": (0.9, 0.999),
    }
    feathervit.train("digits", out=run, model="timm:resnet10t", patch_size=None, img_size=32, epochs=3, **fields)
    report = feathervit.export_model(run, to, tmp_path_factory.mktemp("out") / "out")
    assert report["passed"]
    assert report["agreement"] >= 0.97
