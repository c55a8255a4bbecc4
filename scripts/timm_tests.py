"""A pytest plugin that runs timm's own tests/test_models.py on the models of this package.

    python -m pytest -p scripts.timm_tests FOLDER/tests/test_models.py

timm's wheel has no tests; its source distribution has them. The tests call `timm.list_models` for their models when they are
imported. This plugin replaces it by a function that returns our models. They are vision transformers, so tests of models with
other features get no models.
"""

from __future__ import annotations

import pytest
import timm

from feathervit.models import list_models

PRETRAINED = (
    "test_model_load_pretrained",
    "test_model_features_pretrained",
    "test_model_inference",
)  # tests of weights from the hub


def _ours(filter="", module="", *, pretrained=False, exclude_filters="", **rest) -> list[str]:
    standard = "vit_*" in exclude_filters  # asks for feature maps of several sizes, without prefix tokens
    other = isinstance(filter, str) and filter != ""  # asks for one family of timm
    return [] if standard or other or pretrained else list_models()


timm.list_models = _ours


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests that run on our models."""
    names = set(list_models())
    kept = [
        item for item in items if getattr(item, "callspec", None) and item.callspec.params.get("model_name") in names
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
