"""The verb `predict`: the images it accepts, and the labelled copies it draws. It uses weights of the package."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import feathervit
from feathervit.cli import main

WEIGHTS = "mlit_nano.digits"


@pytest.fixture(scope="module")
def held_out():
    return feathervit.load_data("digits", img_size=16).test.images[:4, 0].numpy()


@pytest.fixture
def photos(tmp_path, held_out):
    """photos/0.png, 1.png, inside/2.png, inside/deep/3.png of held-out digits, and a text."""
    for n, name in enumerate(("0.png", "1.png", "inside/2.png", "inside/deep/3.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(held_out[n]).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


def predicted(capsys, *arguments) -> list[tuple[str, str]]:
    """Runs `predict --json` with these arguments and returns pairs of (file, label)."""
    assert main(["predict", *map(str, arguments), "--json"]) == 0
    return [(row["file"], row["label"]) for row in json.loads(capsys.readouterr().out)["predictions"]]


def test_files_folders_and_patterns(photos, held_out, capsys):
    labels = [p.label for p in feathervit.load(WEIGHTS).predict(held_out)]
    all_files = [str(photos / name) for name in ("0.png", "1.png", "inside/2.png", "inside/deep/3.png")]
    whole = list(zip(all_files, labels, strict=True))
    assert sorted(predicted(capsys, WEIGHTS, photos)) == whole
    assert predicted(capsys, WEIGHTS, f"{photos}/*") == whole[:2]
    assert sorted(predicted(capsys, WEIGHTS, f"{photos}/**/*.png")) == whole
    assert sorted(predicted(capsys, WEIGHTS, photos, f"{photos}/*.png", photos / "0.png")) == whole  # each file once
    assert main(["predict", WEIGHTS, f"{photos}/*.bmp"]) == 2
    assert "*.bmp" in capsys.readouterr().err


def test_long_names_leave_room_for_the_classes(photos, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (photos / "0.png").rename(photos / f"{'x' * 200}.png")
    assert main(["predict", WEIGHTS, str(photos), "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(len(line) <= 80 and " %" in line for line in lines[1:])
    assert any("x.png" in line for line in lines)


def test_skipped_images_are_named(photos, held_out, capsys):
    """Of folders and patterns. Files that are not images, and files that are named, are not skipped."""
    for name in ("a.tga", "inside/b.SVG", ".hidden.png", "@eaDir/thumb.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes((photos / "0.png").read_bytes())

    def warned(*arguments) -> str:
        status = main(["predict", WEIGHTS, *map(str, arguments), "--json"])
        found = json.loads(capsys.readouterr().out)
        assert status == 0 and len(found["warnings"]) <= 1
        return " ".join(found["warnings"])

    text = warned(photos, f"{photos}/*")
    for name in ("1: a.tga", ".tga", "1: b.SVG", ".svg", ".hidden.png", "@eaDir"):
        assert name in text
    assert "notes.txt" not in text
    text = warned(f"{photos}/*")
    assert "a.tga" in text and "b.SVG" not in text
    assert warned(f"{photos}/*.png") == ""
    assert main(["predict", WEIGHTS, f"{photos}/*.tga"]) == 2
    assert ".tga" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--from", WEIGHTS], [f"--from={WEIGHTS}"], ["--top", "1", "--from", WEIGHTS]])
def test_weights_can_be_named_with_from(photos, capsys, arguments):
    assert predicted(capsys, *arguments, photos / "0.png") == predicted(capsys, WEIGHTS, photos / "0.png")
    assert predicted(capsys, photos / "0.png", *arguments) == predicted(capsys, WEIGHTS, photos / "0.png")


def test_draw_writes_labelled_copies(photos, held_out, tmp_path, capsys):
    Image.fromarray(held_out[0]).save(photos / "0.jpg")
    files = sorted(photos.rglob("*.[pj]*g"))
    before = [path.read_bytes() for path in files]
    predicted(capsys, WEIGHTS, photos, "--draw", tmp_path / "drawn", "--min-confidence", "1")
    drawn = {str(path.relative_to(tmp_path / "drawn")) for path in (tmp_path / "drawn").rglob("*.png")}
    assert drawn == {"0.jpg.png", "0.png.png", "1.png", "inside/2.png", "inside/deep/3.png"}
    assert [path.read_bytes() for path in files] == before
    copy = np.asarray(Image.open(tmp_path / "drawn" / "1.png").convert("L"))
    times = 192 // held_out.shape[-1]
    large = held_out[1].repeat(times, 0).repeat(times, 1)
    assert any(np.array_equal(copy[1:193, left : left + 192], large) for left in range(copy.shape[1] - 191))
    assert copy[193:].std() > 10  # text below the image
    assert main(["predict", WEIGHTS, str(photos / "1.png"), "--draw", str(photos)]) == 2
    assert "another folder" in capsys.readouterr().err
    assert [path.read_bytes() for path in files] == before


def test_large_photographs_are_drawn_smaller(tmp_path, capsys):
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "wide.jpg")
    predicted(capsys, WEIGHTS, tmp_path / "wide.jpg", "--draw", tmp_path / "drawn")
    assert max(Image.open(tmp_path / "drawn" / "wide.png").size) <= 1026
