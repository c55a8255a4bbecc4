"""The images that `evaluate` selects."""

from __future__ import annotations

import json

import pytest

import feathervit
from feathervit.errors import DataError, DataWarning
from feathervit.evaluation.evaluate import evaluate

from ..conftest import write_images


def test_images_added_after_training_do_not_put_trained_ones_in_validation(tmp_path, small):
    data, run = write_images(tmp_path / "set", 20), tmp_path / "run"
    feathervit.train(data=data, out=run, epochs=1, **small)
    before = evaluate(run)
    trained = set(json.loads((run / "splits.json").read_text())["splits"]["train"]["sources"])
    write_images(tmp_path / "more", 5, seed=1)
    for path in sorted((tmp_path / "more").glob("*/*.png")):
        path.rename(data / path.parent.name / f"a{path.name}")
    with pytest.warns(DataWarning, match="changed since training"):
        split, after = evaluate(run)
    assert before[0] == split == "val"
    free = 75 - len(trained)
    assert 0 < after.n <= free
    for path in data.glob("*/a*.png"):
        path.unlink()
    for path in data.glob("*/*.png"):
        if f"{path.parent.name}/{path.name}" not in trained:
            path.unlink()
    with pytest.raises(DataError, match="changed since training"):
        evaluate(run)


def test_a_moved_folder_is_reported(tmp_path, small):
    data, run = write_images(tmp_path / "set", 10), tmp_path / "run"
    feathervit.train(data=data, out=run, epochs=1, **small)
    held_out = evaluate(run)
    moved = data.rename(tmp_path / "moved")
    with pytest.warns(DataWarning, match="27 of 30 images"):
        evaluate(run, moved)
    assert evaluate(run, moved, "val")[1].n == held_out[1].n


def test_known_validation_images_of_starting_weights_are_reported(tmp_path, small, capsys):
    data = write_images(tmp_path / "set", 10)
    feathervit.train(data=data, out=tmp_path / "a", epochs=1, **small)
    assert "validation images: the" not in capsys.readouterr().err
    options = {"start_from": str(tmp_path / "a"), "epochs": 1, **small}
    feathervit.train(data=data, out=tmp_path / "b", **options)
    assert "validation images: the" not in capsys.readouterr().err
    feathervit.train(data=data, out=tmp_path / "c", **options, **{"split.seed": 1})
    assert "validation images: the" in capsys.readouterr().err
