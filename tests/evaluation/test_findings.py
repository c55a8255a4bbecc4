"""The three lines after training, on data with one flaw each."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import feathervit
from feathervit.cli import main
from feathervit.config import changed
from feathervit.data import DataSplits, ImageSet
from feathervit.evaluation.confusion import chance_level, confused_pairs, interval, macro_accuracy, worst_first
from feathervit.evaluation.findings import limits
from feathervit.evaluation.metrics import score
from feathervit.results import read_config

from ..conftest import write_images
from ..data.commands import TINY


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (33, 60), (60, 60)])
def test_interval_equals_wilsons_formula(right, n):
    """(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)"""
    z, p = 1.959963984540054, right / n
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert interval(p, n) == pytest.approx(
        ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)), abs=1e-9
    )


def some_figures():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    guesses = np.array([0, 0, 1, 1, 1, 0, 1])
    return score(np.eye(4)[guesses] * 0.9 + 0.025, labels, ["a", "b", "c", "none"])


def test_classes_are_sorted_worst_first_and_mistakes_by_count():
    rows = worst_first(some_figures())
    assert [row[0] for row in rows] == ["c", "a", "b", "none"]
    assert rows[1] == ("a", 0.5, 4, "b", 2)
    assert rows[3][1:3] == (None, 0)
    assert confused_pairs(some_figures()) == [("a", "b", 2, 4), ("c", "b", 1, 1), ("b", "a", 1, 2)]
    assert chance_level(some_figures().to_dict()) == pytest.approx(4 / 7)


def test_macro_accuracy_is_shown_for_unequal_classes():
    text = macro_accuracy(some_figures().to_dict())
    assert all(figure in text for figure in ("33.33 %", "1 to 4"))
    even = score(np.eye(2)[[0, 0, 0, 1]], np.array([0, 0, 0, 1]), ["a", "b"])
    assert macro_accuracy(even.to_dict()) == ""


def test_a_run_and_its_evaluation_show_the_macro_accuracy(tmp_path, capsys):
    for split in ("train", "test"):
        write_images(tmp_path / "set" / split, 8, classes=("flat", "tall"))
        for n in range(2, 8):
            (tmp_path / "set" / split / "tall" / f"{n}.png").unlink()
    assert main(["train", "--data", str(tmp_path / "set"), "--out", str(tmp_path / "run"), *TINY]) == 0
    output = capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    share = json.loads(capsys.readouterr().out)["balanced_accuracy"]
    wanted = f"{100 * share:.2f} % over classes of 2 to 8"
    assert sum(wanted in line for line in output.splitlines()) >= 2
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert wanted in capsys.readouterr().out


def images(per_class) -> ImageSet:
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (len(labels), 3, 4, 4), dtype=np.uint8))
    return ImageSet(pixels, labels, tuple("abc"[: len(per_class)]), [str(n) for n in range(len(labels))], "set")


def result(top1: float, weights: str = "none", finished: bool = True):
    config = {"loss": {"class_weights": weights}, "epochs": 9}
    data = {"name": "my pets", "classes": 3}
    return SimpleNamespace(
        val={"top1": top1}, test=None, config=config, data=data, minutes=3.2, finished=finished, epochs=[{}, {}]
    )


def only(train: ImageSet) -> DataSplits:
    return DataSplits(train, None, None, {})


def test_each_limit_is_found_only_where_it_applies():
    plenty = images([60, 60, 60])
    assert limits(result(0.95), only(plenty), 0.99) == ([], False)
    found, _ = limits(result(0.95), only(images([60, 8, 60])), 0.99)
    assert len(found) == 1
    assert "8 to 60" in found[0]
    assert limits(result(0.95, "balanced"), only(images([60, 8, 60])), 0.99)[0] == []
    found, _ = limits(result(0.95), only(images([14, 14, 14])), 0.99)
    assert len(found) == 1
    assert "14" in found[0]
    found, more = limits(result(0.6), only(plenty), 0.99)
    assert (len(found), more) == (1, False)
    assert "99 %" in found[0]
    for seen in (0.62, 0.8):  # the model has not fitted its training images
        found, more = limits(result(0.6), only(plenty), seen)
        assert (len(found), more) == (1, True)
        assert "do not" not in found[0]
    found, more = limits(result(0.95, finished=False), only(plenty), 0.99)
    assert (len(found), more) == (1, True)
    assert "2 of 9" in found[0]


def test_images_with_several_labels_are_counted():
    flawed = images([60, 60, 60])
    flawed.images[70] = flawed.images[3]  # with another label
    flawed.images[5] = flawed.images[4]  # with the same
    (found,) = limits(result(0.95), only(flawed), 0.99)[0]
    assert found.startswith("1 ")


def test_held_out_images_that_are_also_in_train_are_counted():
    train, val, test = images([60, 60, 60]), images([5, 5, 5]), images([5, 5, 5])
    for held_out in (val, test):
        held_out.images.random_(generator=torch.Generator().manual_seed(7))
    val.images[3:5] = train.images[10:12]
    test.images[9] = train.images[100]
    found, _ = limits(result(0.95), DataSplits(train, val, test, {}), 0.99)
    assert [text.partition(" images")[0] for text in found] == ["2 val", "1 test"]


def test_a_run_ends_with_the_findings(arrays, tmp_path, small, capsys):
    feathervit.train(data=arrays, out=tmp_path / "run", epochs=1, **small)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("accuracy", "limits", "next"))]
    assert [line.split()[0] for line in lines] == ["accuracy", "limits", "next"]
    assert "chance level" in lines[0]
    assert "few images per class" in lines[1]
    assert lines[2].count("feathervit ") == 2


def test_the_next_command_repeats_the_run_for_longer(folder, tmp_path, small, capsys):
    feathervit.train(data=folder, out=tmp_path / "a run", epochs=1, **{**small, "lr": 1e-9})
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("next"))
    first = shlex.split(line.removeprefix("next").partition("   or   ")[0])
    first[first.index("NEW")] = str(tmp_path / "new")
    first[first.index("--minutes") + 1] = "0.001"
    assert main(first[1:]) == 0
    before, after = (read_config(tmp_path / name) for name in ("a run", "new"))
    assert set(changed(before, after)) <= {"epochs", "optim.warmup_epochs"}
