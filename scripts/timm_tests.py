"""A pytest plugin that runs timm's tests/test_models.py on the models of this package.

    python -m pytest -p scripts.timm_tests FOLDER/tests/test_models.py

The tests are in timm's source distribution, not in its wheel. On import, they call `timm.list_models` for their models. This
plugin replaces it with a function that returns our models. All our models return tokens as features, so tests of models
that return feature maps receive no models.
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
    maps = "vit_*" in exclude_filters  # selects models whose features are maps [B, C, H, W]
    other = isinstance(filter, str) and filter != ""  # selects one family of timm
    return [] if maps or other or pretrained else list_models()


timm.list_models = _ours


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests that run on our models."""
    names = set(list_models())
    kept = [
        item for item in items if getattr(item, "callspec", None) and item.callspec.params.get("model_name") in names
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
