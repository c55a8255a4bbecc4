"""Evenly spaced images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feathervit.data import ImageSet
from feathervit.data.imageset import evenly


@pytest.mark.parametrize(("count", "most"), [(0, 4), (1, 4), (3, 4), (4, 4), (5, 4), (97, 10), (1500, 1000), (9, 1)])
def test_numbers_are_evenly_spaced(count, most):
    found = evenly(count, most)
    assert len(found) == min(count, most)
    assert set(found) <= set(range(count))
    if len(found) > 1:
        assert (found[0], found[-1]) == (0, count - 1)
        assert np.ptp(np.diff(found)) <= 1


def test_as_many_images_as_allowed_are_used():
    count = 1500
    pixels = torch.zeros(count, 1, 1, 1, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(count), tuple(map(str, range(count))), [""] * count, "set")
    assert len(images.some(1000)) == 1000
    assert images.some(3).labels.tolist() == [0, (count - 1) // 2, count - 1]
