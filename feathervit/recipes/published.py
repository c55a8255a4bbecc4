"""Looks up facts of weights that timm publishes, without a download."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import get_pretrained_cfg

from ..config import architecture
from ..errors import ConfigError, UnknownNameError


def published(name: str) -> dict[str, Any]:
    """Returns fields of a run that starts from timm's weights `timm:NAME` or `timm:NAME.TAG`.

    These are the model with its tag, and images in colour, normalised as in the training of the weights.

    Downloads nothing. Raises UnknownNameError, and ConfigError for a model without published weights.
    """
    known = architecture(name)
    if not timm.is_model(known):
        raise UnknownNameError("timm model", known, timm.list_models())
    try:
        found = get_pretrained_cfg(name.removeprefix("timm:"))
    except RuntimeError:  # an unknown tag
        found = None
    if found is None or not found.has_weights:
        there = ", ".join(f"timm:{n}" for n in timm.list_pretrained(known)) or "none"
        raise ConfigError(
            f"timm has no weights {name} (it has for this model: {there}); leave out --from and --pretrained"
        )
    tagged = f"timm:{known}.{found.tag}"
    return {"model": tagged, "images.channels": 3, "images.mean": tuple(found.mean), "images.std": tuple(found.std)}
