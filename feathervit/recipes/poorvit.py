"""The PoorViTs recipe (arXiv 2501.06220) on CIFAR-10, from the defaults of its repository.

The learning rate does not scale with the batch size. As in the repository, grey (128) fills the space beyond the edges of
what the policy moves. These are ours, where the repository does otherwise:

- Its 100 epochs, 10 of them warm-up, show each image three times. Here there are 300 epochs, 30 of them warm-up.
- It has the three views in one batch. Here a batch holds different images. These flags come close to the repository:
  `--augment.repeats 3 --batch-size 255 --epochs 100 --optim.warmup-epochs 10`.
- It mixes half of the batches, each with one lambda. Here each image is mixed with probability 0.5 and its own lambda.
- It reports the best epoch on the test split. Here a tenth of train chooses the epoch.
- Here the patches have no bias.
- Its weight decay applies to all parameters. Here it spares biases, norms, tokens and positions.
- It fills erased boxes of normalised pixels with the mean's own value, 0.49, a light grey. Here they take the mean colour,
  which is 0 once normalised, and have a log-uniform aspect.
- Its shears are bicubic. Here shears take the nearest pixel, translations are by whole pixels, and rotations go both ways.

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
