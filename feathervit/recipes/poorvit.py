"""The PoorViTs recipe (arXiv 2501.06220) on CIFAR-10, from the defaults of its repository.

The learning rate does not scale with the batch size. As in the repository, the policy fills the space outside moved images with
grey (128). The recipe differs from the repository in these points:

- The repository trains for 100 epochs (10 warm-up) and shows each image three times per epoch. The recipe trains for 300
  epochs (30 warm-up).
- The repository puts the three views into one batch. The recipe puts different images into a batch. These flags come close
  to the repository: `--augment.repeats 3 --batch-size 255 --epochs 100 --optim.warmup-epochs 10`.
- The repository mixes half of the batches, with one lambda per batch. The recipe mixes each image with probability 0.5 and
  a separate lambda.
- The repository reports the best epoch on the test split. The recipe selects the epoch on a tenth of train.
- The patch projection of the recipe has no bias.
- The repository applies weight decay to all parameters. The recipe excludes biases, norms, tokens and positions.
- The repository fills erased boxes of normalised pixels with 0.49, the mean before normalisation (a light grey). The recipe
  fills them with the mean colour (0 after normalisation) and draws a log-uniform aspect.
- The repository interpolates shears bicubically. The recipe takes the nearest pixel, translates by whole pixels, and rotates
  in both directions.

Command: feathervit train --recipe poorvit_cifar10 --out RUN
"""

from __future__ import annotations

from ..config import Augmentation, ImageConfig, LossConfig, OptimConfig, RunConfig
from .base import Recipe

poorvit = Recipe(
    RunConfig(
        recipe="poorvit_cifar10",
        model="poorvit_tiny",
        data="cifar10",
        epochs=300,
        batch_size=256,
        lr=1e-3,
        images=ImageConfig(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        augment=Augmentation(
            flip="random",
            crop="pad",
            crop_padding=4,
            policy="cifar10",
            fill="grey",
            erasing=0.25,
            mixup=1.0,
            cutmix=1.0,
            mix_prob=0.5,
            switch_prob=0.5,
        ),
        optim=OptimConfig(lr_batch=0, weight_decay=0.05, warmup_epochs=30, min_lr=1e-6),
        loss=LossConfig(label_smoothing=0.1),
    ),
    source="arXiv 2501.06220 and its repository",
    needs="cifar10 (downloaded)",
    expected="its repository: 93.65 % top-1, depth unknown (9 or 12); not run here",
    cost="300 epochs; a GPU",
)
