"""The size of an exported model."""

from __future__ import annotations

import numpy as np
import pytest

from feathervit.config import ImageConfig


@pytest.mark.slow  # an export of the whole model
def test_int8_of_mlit_xxs_is_under_a_megabyte():
    from feathervit.export.int8 import quantise
    from feathervit.export.onnx import core, finish
    from feathervit.models import create_model

    proto = core(create_model("mlit_xxs", img_size=36, patch_size=3, num_classes=100), 36, 3)
    facts = {"model": "mlit_xxs", "feathervit": "0", "img_size": 36, "channels": 3}
    small = quantise(proto, "dynamic", np.zeros((0, 3, 36, 36), np.float32))
    assert len(finish(small, facts, ImageConfig()).SerializeToString()) <= 950_000
