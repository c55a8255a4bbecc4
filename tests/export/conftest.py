"""A small model of digits, trained once for all tests of exports."""

from __future__ import annotations

import os
import shutil

import pytest

import feathervit


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A run folder: three layers of `mlit_nano` on digits, a few epochs, right on most."""
    out = tmp_path_factory.mktemp("digits") / "run"
    feathervit.train("digits", out=out, epochs=8, **{"arch.depth": 3, "optim.warmup_epochs": 1.0, "optim.ema": 0.9})
    return out


def missing(what: str) -> None:
    """Skips with a reason; where everything has to be there (CI=true), fails."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


@pytest.fixture(scope="session")
def web_cache(tmp_path_factory):
    """A cache folder of the session's own, so that the browser's runtime is fetched once."""
    if shutil.which("npm") is None:
        missing("npm is not installed")
    return tmp_path_factory.mktemp("web-cache")
