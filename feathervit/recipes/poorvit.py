"""The PoorViTs recipe (arXiv 2501.06220) on CIFAR-10, from the defaults of its repository.

There 100 epochs show each image three times each, 10 of them warm-up: here 300 epochs, 30 of them warm-up. The three
views stand in one batch there (`--augment.repeats 3 --batch-size 255 --epochs 100 --optim.warmup-epochs 10` comes close);
here a batch holds different images. Half of the batches are mixed
there, whole, with one lambda; here each image is mixed with probability 0.5 and a lambda of its own. The learning rate
does not follow the batch. The repository reports the best epoch on the test split; here a tenth of train chooses.

Followed: grey (128) beyond the edges of what the policy moves. Ours, where the repository does otherwise: the patches have no
bias; weight decay spares biases, norms, tokens and positions (there it falls on all parameters); erased boxes take the mean
colour, which is 0 once normalised (there the mean's own value, 0.49, is written into normalised pixels, a light grey), with
a log-uniform aspect; shears take the nearest pixel (there bicubic), translations are by whole pixels, rotations go both ways.

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
