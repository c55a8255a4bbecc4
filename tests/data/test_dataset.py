"""Images for a user's own training loop: tensors of the model's size, batches from a DataLoader."""

from __future__ import annotations

import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader

from feathervit.config import ImageConfig, RunConfig
from feathervit.data import ImageSet
from feathervit.data.image import as_input


def test_batches_fit_the_model():
    images = torch.randint(256, (7, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7) % 3
    data = ImageSet(images, labels, ("a", "b", "c"), [str(i) for i in range(7)], "x/train")
    config = RunConfig(img_size=16, images=ImageConfig(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))
    dataset = data.dataset(16, config.images.mean, config.images.std)
    batches = list(DataLoader(dataset, batch_size=4))
    assert_close(torch.cat([x for x, _ in batches]), as_input(images, config))
    assert_close(torch.cat([y for _, y in batches]), labels)
    x_CSS, label = dataset[5]
    assert_close(x_CSS, as_input(images, config)[5])
    assert (int(label), len(dataset)) == (2, 7)
    assert data.dataset()[0][0].shape == (3, 20, 20)  # as stored
