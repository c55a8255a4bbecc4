"""The report: what stands in it, that it asks for nothing from elsewhere, and that a run never fails for it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import feathervit
from feathervit.cli import main
from feathervit.errors import DataError, RunFolderError
from feathervit.evaluation.calibration import calibrate
from feathervit.evaluation.metrics import calibration_error
from feathervit.plots import charts
from feathervit.plots.report import report, report_at_end
from tests.conftest import write_pictures


class Page(HTMLParser):
    """Headings, the cells of all rows, texts by tag, attributes that could fetch something."""

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
    monkeypatch.setattr("feathervit.training.train.report_at_end", report_at_end)


@pytest.fixture
def run(folder, small, tmp_path, with_report):
    return feathervit.train(data=folder, out=tmp_path / "run", epochs=2, command="feathervit train 'a b'", **small)


def test_what_stands_in_it(run, folder):
    page, result = Page(run.folder / "report.html"), json.loads((run.folder / "result.json").read_text())
    assert page.headings == [
        *("Figures", "Training", "Where it errs", "Worst mistakes", "How far it can be believed", "Experts", "Data"),
        "How it was made",
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
        counts = [int(rows[name][0]), int(rows[name][1])]
        assert counts[1] == 8
        assert 20 <= counts[0] <= 22  # 24 less the held-out
        assert rows[name][2] == f"{100 * confusion[i, i] / 8:.1f} %"
        if confusion[:, i].sum():
            assert rows[name][4] == f"{100 * confusion[i, i] / confusion[:, i].sum():.1f} %"
    curves = [image["alt"] for image in page.images if "over epochs" in image["alt"]]
    assert [alt.removesuffix(" over epochs") for alt in curves] == [
        *("Loss", "Accuracy", "Learning rate", "Balance of the experts")
    ]
    assert all(pixels(image).std() > 1 and image["alt"] for image in page.images)


def test_mistakes_are_those_the_model_was_surest_of(run, folder):
    page, predictor = Page(run.folder / "report.html"), feathervit.load(run.folder)
    files = sorted((folder / "test").glob("*/*.png"))
    wrong = [(p, f) for p, f in zip(predictor.predict(files), files, strict=True) if p.label != f.parent.name]
    wrong.sort(key=lambda pair: -pair[0].probabilities[0])
    shown = [image for image in page.images if image["alt"].startswith("an image of")]
    assert len(shown) == min(24, len(wrong)) > 0
    texts = [text for text in page.figures if " taken for " in text and " %" in text]
    for image, text, (prediction, file) in zip(shown, texts, wrong, strict=True):
        share = f"{100 * prediction.probabilities[0]:.1f} %"
        assert text == f"{file.parent.name} taken for {prediction.label} {share} {file.name}"
        assert np.array_equal(pixels(image)[..., :3], np.asarray(Image.open(file).convert("RGB")))


def test_reliability_before_and_after(run, folder, tmp_path, small, with_report, monkeypatch):
    def notes(out):
        page = Page(out / "report.html")
        shown = [image["alt"] for image in page.images if image["alt"].startswith("accuracy over confidence")]
        found = [text for text in page.figures if text.startswith("Calibration error")]
        assert len(shown) == len(found)
        return found

    before, after = notes(run.folder)
    text = Page(run.folder / "report.html").text
    assert "of 24 test images (95 % interval" in text  # the summary at the top, before all tables
    assert text.index("chance level") < text.index("Figures") < text.index("fingerprint")
    found = calibrate(run.folder)
    for text, when in ((before, "before"), (after, "after")):
        figures = found["test"][when]  # fitted on val, shown on test
        assert f"error {100 * figures['ece']:.1f} %, NLL {figures['nll']:.3f} of the" in text
    assert "24 test images" in before
    assert f"divided by {found['temperature']:.2f}, which fits the 7 val images" in after
    report(run.folder)  # of calibrated weights it says the same
    assert notes(run.folder) == [before, after]

    def none(*_):
        raise DataError("too few")

    with monkeypatch.context() as patch:
        patch.setattr("feathervit.plots.report.fit_temperature", none)
        report(run.folder)
    assert notes(run.folder) == [f"{before} No temperature was fitted: too few."]
    assert not (run.folder / "report" / "reliability-calibrated.png").exists()

    shutil.rmtree(folder / "test")
    feathervit.train(data=folder, out=tmp_path / "val", epochs=2, **small)
    before, after = notes(tmp_path / "val")
    assert "the same ones" in after
    feathervit.train(data=folder, out=tmp_path / "none", epochs=1, **small, **{"split.val_fraction": 0.0})
    assert notes(tmp_path / "none") == []


def test_all_that_is_drawn_is_also_a_file(run, folder):
    charts = {"loss", "accuracy", "learning-rate", "balance-of-the-experts", "confusion", "experts", "reliability"}
    charts |= {"reliability-calibrated"}
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
    report(run.folder)  # what could not be drawn any more is gone
    assert {path.stem for path in (run.folder / "report").iterdir()} == charts - {
        *("reliability", "reliability-calibrated", "experts")
    }


def test_it_asks_for_nothing_and_names_are_only_names(tmp_path, small, with_report):
    names = ("<script>alert(1)<", "a & $x_b$ \"q'", "{{ 7 * 7 }}日本")
    data = write_pictures(tmp_path / "<i>set", 12, classes=names)
    feathervit.train(data=data, out=tmp_path / "run", epochs=1, command="<img src=x>", **small)
    page = Page(tmp_path / "run" / "report.html")
    assert not page.tags & {"script", "i>set", "link", "iframe", "object"}
    assert len(page.fetched) == len(page.images) > 5
    assert all(value.startswith("data:image/png;base64,") for value in page.fetched)
    assert not re.findall(r"url\(|@import|https?://", page.html)
    assert "default-src 'none'" in page.html
    assert "<img src=x>" in page.text
    assert {row[0] for row in page.rows} >= set(names)


def test_pre_training(folder, small, tmp_path, with_report):
    fields = {k: v for k, v in small.items() if not k.startswith(("augment", "loss"))}
    done = feathervit.pretrain(data=folder, out=tmp_path / "mae", epochs=2, **fields)
    page = Page(tmp_path / "mae" / "report.html")
    assert page.headings == ["Figures", "Training", "Reconstructions", "Experts", "Data", "How it was made"]
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
def test_models_without_experts_and_data_held_only_in_memory(fields, arrays, tmp_path, with_report):
    out = tmp_path / "run"
    feathervit.train(data=arrays, out=out, epochs=1, **fields)
    page = Page(out / "report.html")
    assert "Experts" not in page.headings
    assert ("Where it errs" in page.headings) == ("split.val_fraction" not in fields)
    assert "Samples of each class" in page.text
    report(out)  # from the folder alone: without the pictures, which are in no file
    page = Page(out / "report.html")
    assert "arrays given from Python" in page.text
    assert "Samples of each class" not in page.text


def test_data_that_is_gone_or_has_changed(run, folder, tmp_path, capsys):
    assert main(["report", str(run.folder)]) == 0
    assert capsys.readouterr().out.strip() == str(run.folder / "report.html")
    whole = Page(run.folder / "report.html")
    assert "left out" not in whole.text
    for n in range(4):  # one of them may be held out
        Image.new("RGB", (16, 16)).save(folder / "train" / "flat" / f"{n}.png")
    assert main(["report", str(run.folder)]) == 0
    assert "has changed since the run" in Page(run.folder / "report.html").text
    shutil.rmtree(folder)
    assert main(["report", str(run.folder)]) == 0
    page = Page(run.folder / "report.html")
    assert "left out" in page.text
    assert "Worst mistakes" not in page.headings
    assert "Where it errs" in page.headings  # the result knows the confusion


def test_what_is_no_finished_run(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "finished" in capsys.readouterr().err
    result = json.loads((run.folder / "result.json").read_text())
    (run.folder / "result.json").write_text(json.dumps(result | {"test": {"n": 3}}))
    with pytest.raises(RunFolderError, match="no report can be made"):
        report(run.folder)


def test_a_run_does_not_fail_for_its_report(folder, small, tmp_path, with_report, monkeypatch):
    def broken(*_, **__):
        raise OSError("no font")

    monkeypatch.setattr(charts, "confusion", broken)
    said = []
    monkeypatch.setattr("rich.console.Console.print", lambda _, text="", **__: said.append(str(text)))
    done = feathervit.train(data=folder, out=tmp_path / "run", epochs=1, **small)
    assert done.finished
    assert (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "report.html").exists()
    assert [line for line in said if "report.html" in line] == ["note: no report.html was written (OSError: no font)"]


def test_reliability_is_what_the_calibration_error_sums():
    p = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).mul(2).softmax(-1).double().numpy()
    labels = np.arange(300) % 4
    mean, accuracy, count = charts.bins(p.max(1), p.argmax(1) == labels)
    held = count[count > 0]
    assert held.sum() == 300
    assert (held * np.abs(accuracy - mean)).sum() / 300 == pytest.approx(calibration_error(p, labels))
