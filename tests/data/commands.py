"""The two verbs that read a user's data, `data check` and `train`, with models that are small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from feathervit.cli import main

SMALL = [
    *("--img-size", "16", "--patch-size", "4", "--batch-size", "16", "--model", "mlit_nano", "--epochs", "2"),
    *("--arch.depth", "1", "--arch.dim", "32", "--threads", "1"),
]

TINY = [
    *("--model", "mlit_nano", "--img-size", "16", "--patch-size", "8", "--arch.depth", "1", "--arch.dim", "16"),
    *("--epochs", "1", "--split.val-fraction", "0", "--augment.policy", "none", "--threads", "1"),
]


def paint(root: Path, names: str | list[str]) -> Path:
    """Writes files of these names. The suffix decides between an image, each one different, and a text."""
    for number, name in enumerate(names.split() if isinstance(names, str) else names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            pixels = np.random.default_rng(number + 1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        else:
            path.write_text("{}")
    return root


class Command:
    """Runs the two verbs in this process."""

    def __init__(self, capsys, tmp_path):
        self.capsys, self.out, self.number = capsys, tmp_path / "runs", 0

    def __call__(self, *argv) -> tuple[int, str, str]:
        status = main([str(word) for word in argv])
        output = self.capsys.readouterr()
        return status, output.out, output.err

    def counts(self, data, *flags) -> tuple[dict[str, dict[str, int]], str]:
        """Returns split -> class -> images, equal for both verbs, and the line on how the data was read."""
        status, output, error = self("data", "check", data, "--json", *flags)
        assert status in (0, 1), error
        report = json.loads(output)
        self.number += 1
        out = self.out / str(self.number)
        status, output, error = self("train", "--data", data, "--out", out, *TINY, *flags)
        assert status == 0, error
        (line,) = report["notes"]
        assert any(line in printed for printed in output.splitlines())
        splits = json.loads((out / "splits.json").read_text())["splits"]
        assert {name: part["count"] for name, part in splits.items()} == {
            name: sum(by_class.values()) for name, by_class in report["counts"].items()
        }
        known = json.loads((out / "result.json").read_text())["data"]["classes"]
        assert known == len({name for by_class in report["counts"].values() for name in by_class})
        return report["counts"], line

    def refusal(self, data, *flags) -> str:
        """The error of both verbs for invalid data, which must be equal."""
        status, _, first = self("data", "check", data, *flags)
        assert status == 2
        status, _, second = self("train", "--data", data, "--out", self.out / "refused", *TINY, *flags)
        assert status == 2
        assert first == second
        assert not (self.out / "refused").exists()
        return first


def write_table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


ROWS = [(f"{i}.png", "dog" if i % 2 else "cat") for i in range(8)]


def joined(mark: str, header: str, rows=ROWS) -> str:
    return "\n".join([header.replace(",", mark), *(mark.join(row) for row in rows)]) + "\n"
