"""The report: its content, no requests to other hosts, and no failed run because of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import feathervit
from feathervit.checkpoint import weights_digest
from feathervit.cli import main
from feathervit.errors import DataError
from feathervit.evaluation.calibration import calibrate
from feathervit.plots import charts
from feathervit.plots.report import report, report_at_end
from tests.conftest import small_fields, two_splits, write_images


class Page(HTMLParser):
    """Parses headings, the cells of all rows, texts by tag, and attributes that could fetch something."""

    def __init__(self, path):
        super().__init__()
        self.text, self.rows, self.headings, self.fetched, self.images, self.figures = "", [], [], [], [], []
        self.inside, self.tags = "", set()
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("td", "th", "figcaption", "h2"):
            self.inside = tag
        fetching = ("src", "href", "srcset", "data", "action")
        self.fetched += [value for name, value in attrs if name in fetching]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "figcaption":
            self.figures.append("")

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data):
        self.text += data
        if self.inside in ("td", "th"):
            self.rows[-1][-1] += data
        if self.inside == "h2":
            self.headings.append(data)
        if self.inside == "figcaption":
            self.figures[-1] += data


def pixels(image: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))


@pytest.fixture
def with_report(monkeypatch):
    monkeypatch.setattr("feathervit.training.conclusion.report_at_end", report_at_end)


@pytest.fixture
def run(folder, small, tmp_path, with_report):
    return feathervit.train(data=folder, out=tmp_path / "run", epochs=2, **small)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a run and its images, for tests that change neither."""
    data, out = two_splits(tmp_path_factory.mktemp("report") / "set"), tmp_path_factory.mktemp("report") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feathervit.training.conclusion.report_at_end", report_at_end)
        patch.setenv("FEATHERVIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        fields = small_fields() | {"precision": "float32", "command": "feathervit train 'a b'"}
        feathervit.train(data=data, out=out, epochs=2, **fields)
    return out, data


def test_contents_of_the_report(done):
    run, _ = done
    page, result = Page(run / "report.html"), json.loads((run / "result.json").read_text())
    assert page.headings == [
        *("Classes", "Worst mistakes", "Confidence", "Training", "Experts", "Data", "How it was made")
    ]
    rows = {row[0]: row[1:] for row in page.rows}
    figures = [row for row in page.rows if row[0] in ("val", "test") and len(row) > 3]
    for split, row in zip(("val", "test"), figures, strict=True):
        assert row[:3] == [split, str(result[split]["n"]), f"{100 * result[split]['top1']:.1f} %"]
    assert rows["commit"] == [result["commit"]]
    assert rows["epochs"] == ["2"]
    assert "feathervit train 'a b'" in page.text
    confusion = np.array(result["test"]["confusion"])
    for i, name in enumerate(("flat", "tall", "tiles")):
        counts = [int(rows[name][2]), int(rows[name][3])]
        assert counts[1] == 8
        assert 20 <= counts[0] <= 22  # 24 minus the held-out images
        assert rows[name][0] == f"{100 * confusion[i, i] / 8:.1f} %"
        if confusion[:, i].sum():
            assert rows[name][4] == f"{100 * confusion[i, i] / confusion[:, i].sum():.1f} %"
    curves = [image["alt"] for image in page.images if "over epochs" in image["alt"]]
    assert [alt.removesuffix(" over epochs") for alt in curves] == [
        *("Accuracy", "Loss", "Learning rate", "Balance of the experts")
    ]
    assert all(pixels(image).std() > 1 and image["alt"] for image in page.images)


def test_mistakes_are_sorted_by_confidence(done):
    run, folder = done
    page, predictor = Page(run / "report.html"), feathervit.load(run)
    files = sorted((folder / "test").glob("*/*.png"))
    wrong = [(p, f) for p, f in zip(predictor.predict(files), files, strict=True) if p.label != f.parent.name]
    wrong.sort(key=lambda pair: -pair[0].probabilities[0])
    shown = [image for image in page.images if image["alt"].startswith("an image of")]
    assert len(shown) == min(12, len(wrong)) > 0
    texts = [text for text in page.figures if "confident" in text]
    like = [image for image in page.images if image["alt"].startswith("a training image of")][-len(shown) :]
    samples = {p.parent.name: [] for p in files}
    for path in (folder / "train").glob("*/*.png"):
        samples[path.parent.name].append(np.asarray(Image.open(path).convert("RGB")))
    for image, text, other, (prediction, file) in zip(shown, texts, like, wrong, strict=False):
        assert f"{100 * prediction.probabilities[0]:.1f} %" in text
        assert file.name in text
        assert image["alt"].endswith(file.parent.name)
        assert other["alt"].endswith(prediction.label)
        assert np.array_equal(pixels(image)[..., :3], np.asarray(Image.open(file).convert("RGB")))
        assert any(np.array_equal(pixels(other)[..., :3], sample) for sample in samples[prediction.label])


def test_confused_pairs_show_their_images(done):
    run, folder = done
    page, result = Page(run / "report.html"), json.loads((run / "result.json").read_text())
    names, counts = result["test"]["class_names"], np.array(result["test"]["confusion"])
    strips = [image for image in page.images if re.match("images of .* predicted as", image["alt"])]
    most = max(
        ((counts[i, j], names[i], names[j]) for i in range(3) for j in range(3) if i != j), key=lambda row: row[0]
    )
    assert (most[0] > 0) == bool(strips)
    _, true, taken = re.split("images of | predicted as ", strips[0]["alt"])
    assert counts[names.index(true), names.index(taken)] == most[0]
    files = sorted((folder / "test" / true).glob("*.png"))
    wrong = [f for f, p in zip(files, feathervit.load(run).predict(files), strict=True) if p.label == taken]
    assert np.array_equal(pixels(strips[0])[:16, :16, :3], np.asarray(Image.open(wrong[0]).convert("RGB")))


def test_reliability_before_and_after_calibration(run, folder, tmp_path, small, with_report, monkeypatch):
    def notes(out):
        page = Page(out / "report.html")
        shown = [image["alt"] for image in page.images if image["alt"].startswith("accuracy over confidence")]
        found = [text for text in page.figures if text.startswith("Calibration error")]
        assert len(shown) == len(found)
        return found

    (printed,) = notes(run.folder)
    text = Page(run.folder / "report.html").text
    assert "24 test images" in text  # the summary at the top, before all tables
    assert text.index("chance level") < text.index("correct when predicted") < text.index("fingerprint")
    found = calibrate(run.folder)
    for when in ("before", "after"):
        figures = found["test"][when]  # fitted on val, shown on test
        assert f"error {100 * figures['ece']:.1f} %, NLL {figures['nll']:.3f} " in printed
    assert f"divided by {found['temperature']:.2f}, which fits the 7 val images" in printed
    assert "24 images are too few" in printed
    report(run.folder)  # the report of calibrated weights is the same
    assert notes(run.folder) == [printed]

    def none(*_):
        raise DataError("too few")

    with monkeypatch.context() as patch:
        patch.setattr("feathervit.plots.report.fit_temperature", none)
        report(run.folder)
    (without,) = notes(run.folder)
    assert "too few" in without
    assert "divided by" not in without

    shutil.rmtree(folder / "test")
    feathervit.train(data=folder, out=tmp_path / "val", epochs=2, **small)
    assert "the same images" in notes(tmp_path / "val")[0]
    feathervit.train(data=folder, out=tmp_path / "none", epochs=1, **small, **{"split.val_fraction": 0.0})
    assert notes(tmp_path / "none") == []


def test_every_chart_is_also_a_file(run, folder):
    charts = {"loss", "accuracy", "learning-rate", "balance-of-the-experts", "confusion", "experts", "reliability"}
    files = {path.stem: Image.open(path) for path in (run.folder / "report").iterdir()}
    assert files.keys() == charts | {"samples", "mistakes"}
    assert all(file.mode == "RGB" and file.getpixel((0, 0)) == (255, 255, 255) for file in files.values())
    drawn = [i for i in Page(run.folder / "report.html").images if i.get("class", "").startswith("chart")]
    in_page = [pixels(image).astype(float) for image in drawn]
    assert len(in_page) == len(charts)
    for image in in_page:  # on white
        share = image[..., 3:] / 255
        ours = share * image[..., :3] + (1 - share) * 255
        assert any(
            np.abs(ours - np.asarray(files[name])).max() < 2 for name in charts if files[name].size == ours.shape[1::-1]
        )
    wide, high = files["samples"].size
    assert (wide > 8 * 64) and high > 3 * 64
    shutil.rmtree(folder)
    report(run.folder)  # charts that can no longer be drawn are removed
    assert {path.stem for path in (run.folder / "report").iterdir()} == charts - {"reliability", "experts"}


def test_the_page_requests_nothing_and_escapes_names(tmp_path, small, with_report):
    names = ("<script>alert(1)<", "a & $x_b$ \"q'", "{{ 7 * 7 }}日本")
    data = write_images(tmp_path / "<i>set", 12, classes=names)
    feathervit.train(data=data, out=tmp_path / "run", epochs=1, command="<img src=x>", **small)
    page = Page(tmp_path / "run" / "report.html")
    assert not page.tags & {"i>set", "link", "iframe", "object"}
    (script,) = re.findall("<script>(.*?)</script>", page.html, re.DOTALL)  # one script, which the page's policy allows
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in page.html
    requested = [value for value in page.fetched if not value.startswith("#")]
    assert len(requested) == len(page.images) > 5
    assert all(value.startswith("data:image/png;base64,") for value in requested)
    assert not re.findall(r"url\(|@import|https?://", page.html)
    assert "default-src 'none'" in page.html
    assert "<img src=x>" in page.text
    assert {row[0] for row in page.rows} >= set(names)


def test_pretraining_report(folder, small, tmp_path, with_report):
    fields = {k: v for k, v in small.items() if not k.startswith(("augment", "loss"))}
    done = feathervit.pretrain(data=folder, out=tmp_path / "mae", epochs=2, **fields)
    page = Page(tmp_path / "mae" / "report.html")
    assert page.headings == ["Reconstructions", "Training", "Experts", "Data", "How it was made"]
    row = next(row for row in page.rows if row[0] == "test")
    assert f"{done.result.test['masked_mse']:.4f}" in row
    assert "logarithmic" in page.text
    rows = [pixels(image) for image in page.images if image["alt"].endswith("ed images") or "original" in image["alt"]]
    assert [r.shape for r in rows] == [(16, 8 * 17 - 1, 4)] * 3
    names = {path.stem for path in (tmp_path / "mae" / "report").iterdir()}
    assert names == {
        "error",
        "loss",
        "learning-rate",
        "balance-of-the-experts",
        "reconstructions",
        "experts",
        "samples",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "timm:test_vit", "img_size": 32, "batch_size": 32},
        {"model": "poorvit_tiny", "arch.depth": 1, "img_size": 16, "patch_size": 4, "split.val_fraction": 0.0},
    ],
)
def test_models_without_experts_and_data_in_memory(fields, arrays, tmp_path, with_report):
    out = tmp_path / "run"
    feathervit.train(data=arrays, out=out, epochs=1, **fields)
    page = Page(out / "report.html")
    assert "Experts" not in page.headings
    assert ("Classes" in page.headings) == ("split.val_fraction" not in fields)
    assert "Samples of each class" in page.text
    report(out)  # only from the folder, which does not contain the images
    page = Page(out / "report.html")
    assert "came as arrays" in page.text
    assert "Samples of each class" not in page.text


def test_missing_or_changed_data(run, folder, tmp_path, capsys):
    assert main(["report", str(run.folder)]) == 0
    assert capsys.readouterr().out.strip() == str(run.folder / "report.html")
    whole = Page(run.folder / "report.html")
    assert "left out" not in whole.text
    image, moved = folder / "test" / "flat" / "0.png", folder / "test" / "tall" / "new.png"
    image.rename(moved)  # the training images are unchanged
    assert main(["report", str(run.folder)]) == 0
    assert "has changed since the run" in Page(run.folder / "report.html").text
    moved.rename(image)
    for n in range(4):  # one of them may be held out
        Image.new("RGB", (16, 16)).save(folder / "train" / "flat" / f"{n}.png")
    assert main(["report", str(run.folder)]) == 0
    assert "has changed since the run" in Page(run.folder / "report.html").text
    shutil.rmtree(folder)
    assert main(["report", str(run.folder)]) == 0
    page = Page(run.folder / "report.html")
    assert "left out" in page.text
    assert "Worst mistakes" not in page.headings
    assert "Classes" in page.headings  # the result contains the confusion matrix


def test_a_failing_report_does_not_fail_the_run(folder, small, tmp_path, with_report, monkeypatch):
    def broken(*_, **__):
        raise OSError("no font")

    monkeypatch.setattr(charts, "confusion", broken)
    printed = []
    monkeypatch.setattr("rich.console.Console.print", lambda _, text="", **__: printed.append(str(text)))
    done = feathervit.train(data=folder, out=tmp_path / "run", epochs=1, **small)
    assert done.finished
    assert (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "report.html").exists()
    assert [line for line in printed if "report.html" in line] == [
        "note: no report.html was written (OSError: no font)"
    ]


class Halved(torch.nn.Module):
    """A third-party attention, which lacks the attributes of ours."""

    def __init__(self, dim):
        super().__init__()
        self.own = torch.nn.Linear(dim, dim)

    def forward(self, x_BND, place=None):
        return self.own(x_BND) / 2


def test_third_party_parts_do_not_break_the_report(folder, small, tmp_path, with_report):
    @timm.models.register_model
    def mlit_nano_halved(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
        model = feathervit.create_model("mlit_nano", **kwargs)
        for layer in model.blocks:
            layer.attn = Halved(model.embed_dim)
        return model

    fields = {k: v for k, v in small.items() if not k.startswith("arch")} | {"model": "timm:mlit_nano_halved"}
    feathervit.train(data=folder, out=tmp_path / "run", epochs=1, **fields)
    page = Page(tmp_path / "run" / "report.html")
    assert {"Classes", "Experts"} <= set(page.headings)
    assert "left out" not in page.text


def test_a_failing_part_is_replaced_by_a_note(run, monkeypatch):
    def broken(*_, **__):
        raise AttributeError("this model has no gates")

    monkeypatch.setattr("feathervit.plots.report.expert_use", broken)
    report(run.folder)
    page = Page(run.folder / "report.html")
    assert "this model has no gates" in page.text
    assert "Experts" not in page.headings
    assert "Classes" in page.headings


def test_existing_exports_are_listed(run):
    def write(name, **fields):
        (run.folder / name).mkdir()
        found = {"finished": True, "bytes": 612_345, "agreement": 0.9876, "n": 24, "top1": 0.875, "passed": True}
        (run.folder / name / "export.json").write_text(json.dumps(found | fields))

    write("export-int8", to="int8", latency_ms={"int8": 0.42, "onnx": 0.5})
    write("export-web", to="web", precision="float32", latency_ms={"onnx": 0.77, "eager": 3.0})
    write("export-pte", to="executorch", weights=weights_digest(run.folder))
    write("export-huggingface", to="huggingface", weights=weights_digest("mlit_nano.digits"))
    write("export-onnx", to="onnx", finished=False)
    (run.folder / "export-pt2").mkdir()
    (run.folder / "export-pt2" / "export.json").write_text("{")
    report(run.folder)
    rows = {row[0]: row[1:] for row in Page(run.folder / "report.html").rows}
    assert rows["int8"] == ["export-int8", "0.61 MB", "0.42 ms", "87.5 %", "98.8 % of 24", "yes"]
    assert rows["web"][2] == "0.77 ms"
    assert rows["executorch"][0] == "export-pte"
    assert "other weights" in rows["huggingface"][0]
    assert "onnx" not in rows


def test_clicking_a_heading_sorts_the_classes(done, browser):
    browser.get((done[0] / "report.html").as_uri())
    shares = lambda: [  # noqa: E731
        float(cell.text.split()[0])
        for cell in browser.find_elements("css selector", "table.sortable tbody td:nth-child(2)")
    ]
    first = shares()
    assert first == sorted(first)  # the worst first
    button = browser.find_element("css selector", "table.sortable th:nth-child(2) button")
    browser.execute_script("arguments[0].click()", button)
    assert shares() == first[::-1]
    name = browser.find_element("css selector", "table.sortable th button")
    browser.execute_script("arguments[0].click()", name)
    names = [cell.text for cell in browser.find_elements("css selector", "table.sortable tbody th")]
    assert names == ["flat", "tall", "tiles"]
    assert browser.get_log("browser") == []  # nothing was blocked by the page's policy


def test_the_report_of_a_stopped_run_is_unfinished(arrays, small, tmp_path, with_report):
    stopped = feathervit.train(data=arrays, out=tmp_path / "run", max_minutes=1e-6, epochs=30, **small)
    while stopped.result is None:  # its first epoch has not ended
        stopped = feathervit.train(data=arrays, out=tmp_path / "run", resume=True, max_minutes=1e-6)
    page = Page(tmp_path / "run" / "report.html")
    assert not stopped.finished
    assert "Unfinished: the run was stopped after epoch 1 of 30" in page.text
    assert "Classes" in page.headings
