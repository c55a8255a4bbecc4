"""The verb `export`: files that agree with the model on held-out images, the report, the exit status, user errors."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image

import feathervit
from feathervit.checkpoint import OtherAnswer, load_weights, save_weights
from feathervit.cli import main
from feathervit.errors import CheckpointError, ConfigError, RunFolderError, UnknownNameError
from feathervit.export.verify import probabilities, session

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE_ONNX = "run/export-int8/model.int8.onnx"  # in the docs


def outputs(file, images):
    return probabilities(session(file.read_bytes()), images.images.permute(0, 2, 3, 1).numpy())


def run_example(number: int, image: Path, **paths: Path) -> dict:
    """Runs the Python example `number` of the docs, with these paths instead of its own. Returns its variables."""
    example = (ROOT / "docs" / "deploying.md").read_text().split("```py\n")[number].split("```")[0]
    for name, path in {"image.jpg": image, **paths}.items():
        assert name in example
        example = example.replace(name, str(path))
    variables: dict = {}
    exec(example, variables)
    return variables


def transparent(mode: str, path: Path) -> Path:
    """Writes a PNG with a ramp of transparency over noise."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 31, 3), dtype=np.uint8)).convert(mode)
    noise.putalpha(Image.linear_gradient("L").resize(noise.size))
    noise.save(path)
    return path


def test_float32_and_int8(digits_run, held_out, tmp_path, capsys):
    predictor = feathervit.load(digits_run)
    guesses = [p.label for p in predictor.predict(held_out.images, top=1)]
    found = {}
    for to, name in (("onnx", "model.onnx"), ("int8", "model.int8.onnx")):
        out = tmp_path / to
        assert main(["export", str(digits_run), "--to", to, "--out", str(out), "--json"]) == 0
        found[to] = report = json.loads(capsys.readouterr().out)
        assert json.loads((out / "export.json").read_text()) == {k: v for k, v in report.items() if k != "out"}
        p_NK = outputs(out / name, held_out)
        theirs = [predictor.class_names[i] for i in p_NK.argmax(1)]
        agreement = np.mean([a == b for a, b in zip(guesses, theirs, strict=True)])
        assert report["agreement"] == pytest.approx(agreement)
        assert report["top1"] == pytest.approx((p_NK.argmax(1) == held_out.labels.numpy()).mean())
        assert (report["split"], report["n"], report["passed"]) == ("digits/test", 360, True)
        assert report["bytes"] == (out / name).stat().st_size
        assert all(report["latency_ms"][key] > 0 for key in ("eager", to))
        assert report["same_expert"] > (0.999 if to == "onnx" else 0.9)
        assert max(report["experts_used"]) > 1
        facts = {prop.key: prop.value for prop in onnx.load(out / name).metadata_props}
        assert json.loads(facts["class_names"]) == list("0123456789")
        assert (facts["fit"], facts["img_size"]) == ("crop", "16")
        assert facts["feathervit"] == feathervit.__version__
    image = transparent("L", tmp_path / "clear.png")
    p_K = run_example(1, image, **{EXAMPLE_ONNX: tmp_path / "onnx" / "model.onnx"})["probabilities"][0]
    np.testing.assert_allclose(sorted(p_K), sorted(predictor.predict(image, top=10)[0].probabilities), atol=1e-2)
    assert found["onnx"]["agreement"] == 1
    assert found["onnx"]["largest_difference"] < 1e-4
    assert set(found["int8"]["tried"]) == {"dynamic", "static"}
    assert found["int8"]["method"] in found["int8"]["tried"]
    assert found["int8"]["chosen_on"] == "digits/train"
    assert found["int8"]["bytes"] < 0.4 * found["onnx"]["bytes"]


def test_a_hugging_face_folder_includes_the_temperature(digits_run, held_out, tmp_path):
    from feathervit.data.image import normalise, resize

    weights, out = tmp_path / "w.safetensors", tmp_path / "out"
    save_weights(weights, dataclasses.replace(load_weights(digits_run), temperature=3.0))
    assert feathervit.export_model(weights, "huggingface", out)["passed"]
    x, expected = held_out.images, feathervit.load(weights).probabilities(held_out.images).numpy()
    np.testing.assert_allclose(feathervit.load(out).probabilities(x).numpy(), expected, atol=1e-4)
    in_timm = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    with torch.no_grad():
        p_NK = in_timm(normalise(resize(x, 16), (0.5,), (0.5,))).softmax(-1).numpy()  # timm applies no temperature
    np.testing.assert_allclose(p_NK, expected, atol=1e-4)
    assert json.loads((out / "config.json").read_text())["temperature"] == 1.0
    assert "calibrated on validation images by a temperature of 3.000" in (out / "README.md").read_text()


def test_tensor_input_and_temperature(digits_run, held_out, tmp_path):
    from feathervit.data.image import normalise, resize

    weights = tmp_path / "w.safetensors"
    other = OtherAnswer(threshold=0.9931)
    save_weights(weights, dataclasses.replace(load_weights(digits_run), temperature=3.0, other=other))
    report = feathervit.export_model(weights, "onnx", tmp_path / "out", input="tensor")
    facts = {prop.key: prop.value for prop in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert facts["threshold"] == "0.9931"
    run = session((tmp_path / "out" / "model.onnx").read_bytes())
    (taken,) = run.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("pixels", "tensor(float)", ["batch", 1, 16, 16])
    x = normalise(resize(held_out.images, 16), (0.5,), (0.5,)).numpy()
    found, expected = probabilities(run, x), feathervit.load(weights).probabilities(held_out.images).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected - feathervit.load(digits_run).probabilities(held_out.images).numpy()).max() > 0.2
    assert (found.argmax(1) == held_out.labels.numpy()).mean() == pytest.approx(report["top1"])


@pytest.mark.slow
def test_pt2_tensor_input(digits_run, held_out, tmp_path):
    from feathervit.data.image import normalise, resize

    report = feathervit.export_model(digits_run, "pt2", tmp_path / "out", input="tensor")
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    x = normalise(resize(held_out.images, 16), (0.5,), (0.5,))
    expected = feathervit.load(digits_run).probabilities(held_out.images)
    with torch.no_grad():
        torch.testing.assert_close(program(x), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(program(x[:1]), expected[:1], atol=1e-4, rtol=0)
    assert report["passed"] and report["same_expert"] > 0.999


def test_pt2(digits_run, held_out, tmp_path):
    report = feathervit.export_model(digits_run, "pt2", tmp_path / "out")
    assert report["passed"]
    extra = {"feathervit.json": ""}
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["feathervit.json"])["class_names"] == list("0123456789")
    predictor = feathervit.load(digits_run)
    for height, width in ((16, 16), (8, 8), (40, 31), (20, 45)):  # sizes and batches that were not traced
        images = torch.randint(0, 256, (3, height, width, 1), dtype=torch.uint8)
        expected = [sorted(p.probabilities) for p in predictor.predict(images, top=10)]
        with torch.no_grad():
            got = program(images).sort(-1).values.numpy()
        np.testing.assert_allclose(got, expected, atol=1e-3)
    image = transparent("L", tmp_path / "clear.png")
    p_K = run_example(2, image, **{"run/export-pt2/model.pt2": tmp_path / "out" / "model.pt2"})["probabilities"][0]
    np.testing.assert_allclose(
        sorted(p_K.tolist()), sorted(predictor.predict(image, top=10)[0].probabilities), atol=1e-2
    )


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_pt2_preprocessing_equals_the_package(fit):
    from feathervit.config import ImageConfig
    from feathervit.data.image import fit_square, normalise, resize
    from feathervit.export.pt2 import Preprocess

    preprocess = Preprocess(ImageConfig(fit=fit), 6)
    for height, width in ((6, 6), (9, 14), (14, 9), (5, 30)):
        x = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
        squares = resize(fit_square(x.permute(0, 3, 1, 2), fit), 6)
        torch.testing.assert_close(preprocess(x), normalise(squares, (0.5,), (0.5,)))


@pytest.mark.parametrize("to", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_original_image_files(photographs_run, photographs, tmp_path, capsys, to):
    """The graph crops, resizes and normalises the files themselves. The report and the output state the agreement."""
    files = sorted((photographs / "test").glob("*/*.jpg"))
    labels = [p.label for p in feathervit.load(photographs_run).predict(list(map(str, files)))]
    assert main(["export", str(photographs_run), "--to", to, "--out", str(tmp_path / to)]) == 0
    assert "agrees on 100.00 % of 18 image files" in capsys.readouterr().out
    report = json.loads((tmp_path / to / "export.json").read_text())
    assert (report["n"], report["originals"]["n"]) == (18, 18)
    assert 0 < report["originals"]["largest_difference"] < 0.5  # the package decodes at half size
    assert report["largest_difference"] < 1e-4
    assert report["same_expert"] > 0.999
    assert len(report["experts_used"]) == 2
    if to == "pt2":
        return
    model = {EXAMPLE_ONNX: tmp_path / "onnx" / "model.onnx"}
    for file, label in zip(files[4:7], labels[4:7], strict=True):  # one of them is rotated by its EXIF
        run_example(1, file, **model)
        assert capsys.readouterr().out == f"{label}\n"
    image = transparent("RGB", tmp_path / "clear.png")
    p_K = run_example(1, image, **model)["probabilities"][0]
    expected = feathervit.load(photographs_run).predict(image)[0]
    np.testing.assert_allclose(sorted(p_K), sorted(expected.probabilities), atol=1e-2)
    assert capsys.readouterr().out == f"{expected.label}\n"


def test_existing_export_folders(digits_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text('{"finished": false}')  # as after a killed export
    feathervit.export_model(digits_run, "huggingface", out)
    feathervit.export_model(digits_run, "huggingface", out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds no export"):
        feathervit.export_model(digits_run, "onnx", other)
    assert [p.name for p in other.iterdir()] == ["mine.txt"]
    with pytest.raises(RunFolderError, match="--to huggingface"):
        feathervit.export_model(digits_run, "onnx", out)


def test_a_failed_export_leaves_no_folder(digits_run, tmp_path, monkeypatch):
    from feathervit.export import huggingface

    def fails(folder):
        raise CheckpointError("no")

    monkeypatch.setattr(huggingface, "load_weights", fails)
    with pytest.raises(CheckpointError):
        feathervit.export_model(digits_run, "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exported_files_contain_no_local_paths(photographs_run, photographs, tmp_path):
    feathervit.export_model(photographs_run, "huggingface", tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        for root in (photographs.parent, photographs_run.parent):
            assert str(root).encode() not in file.read_bytes(), file.name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["run"]["data"] == photographs.name
    card = (tmp_path / "out" / "README.md").read_text()
    assert r"\<b\>tall" in card and r"tiles\_\|" in card


def test_class_names_with_invalid_unicode(digits_run, held_out, tmp_path):

    stored = load_weights(digits_run)
    names = ("\udcff", *stored.class_names[1:])
    save_weights(tmp_path / "model.safetensors", dataclasses.replace(stored, class_names=names))
    data = (held_out.images[40:80].numpy(), [names[i] for i in held_out.labels[40:80]])
    feathervit.export_model(tmp_path / "model.safetensors", "huggingface", tmp_path / "out", data=data)
    assert r"\udcff" in (tmp_path / "out" / "README.md").read_text()


def test_invalid_arguments_are_refused(digits_run, tmp_path, monkeypatch):
    for to, share in (("int8", 97), ("onnx", 0.5)):
        with pytest.raises(ConfigError, match="min-agreement"):
            feathervit.export_model(digits_run, to, tmp_path / "a", min_agreement=share)
    with pytest.raises(ConfigError, match="--input tensor"):
        feathervit.export_model(digits_run, "web", tmp_path / "a", input="tensor")
    with pytest.raises(UnknownNameError, match="onnx"):
        feathervit.export_model(digits_run, "onyx", tmp_path / "a")
    with pytest.raises(UnknownNameError, match="image"):
        feathervit.export_model(digits_run, "onnx", tmp_path / "a", input="pixels")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, find=None: None)
    for to, extra in {"onnx": "export", "int8": "export", "web": "export", "executorch": "executorch"}.items():
        with pytest.raises(ConfigError, match=rf"feathervit\[{extra}\]"):
            feathervit.export_model(digits_run, to, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_targets_without_extras_work_without_them(digits_run, tmp_path):
    code = f"""
import sys
for name in ("onnx", "onnxscript", "onnxruntime"):
    sys.modules[name] = None  # as if it were not installed
import feathervit
from feathervit.benchmark import infer
from feathervit.errors import ConfigError
infer._peak_mb = lambda arguments: 1.0  # takes a process of its own
for to in ("pt2", "huggingface"):
    assert feathervit.export_model({str(digits_run)!r}, to, {str(tmp_path)!r} + "/" + to)["passed"]
infer.table(infer.run(["mlit_nano"], 16, 4, ("eager",), (1,), rounds=1))
try:
    infer.run(["mlit_nano"], 16, forms=("onnx",))
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "feathervit[export]" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("to", ["int8", "onnx", "pt2", "huggingface", "web"])
def test_timm_models_can_be_exported(tmp_path_factory, web_cache, monkeypatch, to):
    monkeypatch.setenv("FEATHERVIT_CACHE", str(web_cache))
    run = tmp_path_factory.mktemp("timm") / "run"
    fields = {
        "optim.warmup_epochs": 1.0,
        "optim.name": "adamw",
        "lr": 1e-3,
        "optim.ema": 0.0,
        "optim.betas": (0.9, 0.999),
    }
    feathervit.train("digits", out=run, model="timm:test_resnet", patch_size=None, img_size=32, epochs=3, **fields)
    report = feathervit.export_model(run, to, tmp_path_factory.mktemp("out") / "out")
    assert report["passed"]
    assert report["agreement"] >= (0.95 if to in ("int8", "web") else 0.97)  # three epochs leave many images undecided
