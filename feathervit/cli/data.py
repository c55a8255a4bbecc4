"""The verbs of `data`: check, show and cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ..config import ReadingConfig
from .flags import JsonFlag, ReadingFlags
from .printing import print_json


@dataclass
class DataCheck(ReadingFlags, JsonFlag):
    """Check a dataset for errors. The exit status is 1 if something must be fixed."""

    path: Positional[str]
    """A folder, or any other data that `train` accepts."""
    unlabelled: bool = False
    """Check images without classes, in any folders, as for `pretrain`."""

    def execute(self) -> int:
        from ..data.check import check_data

        report = check_data(self.path, not self.unlabelled, ReadingConfig(**self.fields()))
        if self.json:
            print_json(report.to_dict())
        else:
            for line in report.lines():
                print(line)
        return 1 if report.must_fix else 0


@dataclass
class DataShow(ReadingFlags):
    """Write a PNG grid of samples per class; with --recipe, originals above augmented versions."""

    data: Positional[str]
    """A name or folder."""
    recipe: str | None = None
    """Also show the samples with the augmentation of this recipe."""
    out: str = "samples.png"
    """The PNG file to write."""
    per_class: int = 8
    """Number of samples per class."""
    seed: int = 0
    """Seed of the random numbers."""

    def execute(self) -> int:
        from ..plots.samples import show

        print(show(self.data, self.recipe, Path(self.out), self.per_class, self.seed, self.fields()))
        return 0


@dataclass
class DataCache:
    """Show where the cache of decoded images and archives is and how large it is; --clear empties it."""

    clear: bool = False
    """Remove decoded images and unpacked archives; keep downloads."""

    def execute(self) -> int:
        from ..data.cache import clear_cache
        from ..files import cache_folder

        if self.clear:
            print(f"{clear_cache() / 1e6:.1f} MB freed in {cache_folder()}")
        else:
            for part in ("decoded", "unpacked", "hub", "downloads"):
                size = sum(p.stat().st_size for p in (cache_folder() / part).glob("**/*") if p.is_file())
                print(f"{cache_folder() / part}: {size / 1e6:.1f} MB")
        return 0
