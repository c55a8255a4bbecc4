"""Looks up the model and statistics of weights published by timm, without a download."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import get_pretrained_cfg

from ..config import architecture
from ..errors import ConfigError, UnknownNameError


def published(name: str) -> dict[str, Any]:
    """Returns the fields of a run that starts from the weights `timm:NAME` or `timm:NAME.TAG`.

    The fields are the model with its tag, three channels, and the mean and standard deviation of the weights. Downloads
    nothing. Raises UnknownNameError for an unknown model, and ConfigError for a model without published weights.
    """
    known = architecture(name)
    if not timm.is_model(known):
        raise UnknownNameError("timm model", known, timm.list_models())
    try:
        weights = get_pretrained_cfg(name.removeprefix("timm:"))
    except RuntimeError:  # an unknown tag
        weights = None
    if weights is None or not weights.has_weights:
        available = ", ".join(f"timm:{n}" for n in timm.list_pretrained(known)) or "none"
        raise ConfigError(
            f"timm has no weights {name} (it has for this model: {available}); leave out --from and --pretrained"
        )
    tagged = f"timm:{known}.{weights.tag}"
    return {"model": tagged, "images.channels": 3, "images.mean": tuple(weights.mean), "images.std": tuple(weights.std)}
