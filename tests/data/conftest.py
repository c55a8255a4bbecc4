"""The command line, run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from .commands import Command, paint
from .images import noise


@pytest.fixture
def command(capsys, tmp_path) -> Command:
    return Command(capsys, tmp_path)


@pytest.fixture
def flat(tmp_path) -> Path:
    """Eight images in one folder, without class folders."""
    return paint(tmp_path / "flat", " ".join(f"{i}.png" for i in range(8)))


@pytest.fixture
def hub_set(tmp_path, monkeypatch):
    """Writes parquet files: write(features, split=[column values...], ...). The images are added, at least 30 px wide."""
    hub = pytest.importorskip("datasets")
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    hub.disable_progress_bars()

    def write(features: dict, images: tuple[str, ...] = ("img",), **splits: dict[str, list]) -> str:
        for split, columns in splits.items():
            count = len(next(iter(columns.values())))
            names = [f"{split}{i}.png" for i in range(count)]
            files = [noise(tmp_path / "raw" / name, 30 + i, 30, seed=i) for i, name in enumerate(names)]
            cells = [{"bytes": file.read_bytes(), "path": None} for file in files]
            kinds = hub.Features(dict.fromkeys(images, hub.Image()) | features)
            table = hub.Dataset.from_dict(dict.fromkeys(images, cells) | columns, features=kinds)
            (tmp_path / "set").mkdir(exist_ok=True)
            table.to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))
        return f"hf:{tmp_path / 'set'}"

    return write
