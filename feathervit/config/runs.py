"""The settings of a run: images, splits, augmentation, optimiser, losses, and `RunConfig`, which holds them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .bounds import AtLeastZero, BelowOne, Bounds, Count, Pixels, Share, Whole
from .parts import DecoderConfig, EncoderConfig


@dataclass(frozen=True)
class ImageConfig:
    """How a picture becomes a tensor, in training, evaluation, prediction and export alike.

    `fit`: centre square, pad to a square, or stretch. `channels`: None keeps the data set's own (3 for picture files).
    `stored_size`: side in pixels that training pictures are kept at; None keeps small equal ones as they are and takes
    ceil(1.15 x input) for others. `scale`: the value that is white in images of more than 8 bits (4095 for 12 bits, 1 for
    floats from 0 to 1); None finds it over all files of the training data. `mean` and `std` are for pixels in 0-1, one for all
    channels or one each.
    """

    fit: Literal["crop", "pad", "stretch"] = "crop"
    channels: Annotated[int, Bounds(1, 1024)] | None = None
    stored_size: Pixels | None = None
    scale: Annotated[float, Bounds(1e-6)] | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class SplitConfig:
    """How validation pictures are held out where the data set has none of its own.

    `val_fraction` of train, stratified and seeded by `seed`; 0 trains on all of train. `folds` > 1 takes fold number
    `fold` of a stratified k-fold instead. `train_per_class` > 0 then trains on so many pictures of each class only, drawn
    by `seed`: the others are not used. `keep`: the weights of the best epoch on validation pictures, or of the last epoch,
    whatever validation says.
    """

    val_fraction: float = 0.1
    seed: Annotated[int, Bounds(0, 2**32 - 1)] = 0
    folds: int = 0
    fold: int = 0
    train_per_class: int = 0
    keep: Literal["best", "last"] = "best"


@dataclass(frozen=True)
class ReadingConfig:
    """What the data is taken for, where it could be taken for several things.

    `classes`: the class folders or labels to use; others are skipped. `ignore`: patterns of files and folders to skip, of
    names or, with a "/", of paths inside the data. `label_column`, `image_column`: of a table or hub set, where several may be
    meant. `root`: the folder in which the paths of a table begin ("": the table's own). `groups`: a column of it, or a regular
    expression for paths; images of one group are never on both sides of a split.
    """

    classes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    label_column: str = ""
    image_column: str = ""
    root: str = ""
    groups: str = ""


@dataclass(frozen=True)
class Augmentation:
    """All that happens to a training batch between storage and the model, drawn for each image by itself.

    flip: "none", "random" (p = 0.5) or "alternating" (drawn in the first epoch, inverted in each epoch after).
    crop: "resized" (random resized crop of `crop_scale` of the area, `crop_ratio` aspect, resized by `crop_filter`), "pad"
    (pad `crop_padding` pixels with zeros, crop) or "none".
    policy: an AutoAugment policy, TrivialAugmentWide ("trivial"), or RandAugment as timm has it ("rand"): `rand_ops`
    operations, each applied with probability 0.5 at a level 0-10 of its own from N(`rand_magnitude`, `rand_std`).
    fill: what rotated, sheared and shifted images have beyond their edges: black, grey (128), or `images.mean`.
    erasing: probability of random erasing, with `images.mean` or with normal noise in normalised units; cutout: side in pixels
    of a grey square (0: none).
    mixup, cutmix: alpha of the Beta distribution of lambda (0: off); `mix_prob` is the share of images mixed,
    `switch_prob` the chance of CutMix where both are on.
    repeats: views of one image in a batch (repeated augmentation).
    """

    flip: Literal["none", "random", "alternating"] = "none"
    crop: Literal["none", "resized", "pad"] = "none"
    crop_scale: tuple[float, float] = (0.8, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_filter: Literal["bilinear", "bicubic"] = "bilinear"
    crop_padding: Whole = 4
    policy: Literal["none", "cifar10", "svhn", "imagenet", "rand", "trivial"] = "none"
    rand_ops: Whole = 2
    rand_magnitude: Annotated[float, Bounds(0, 10)] = 9.0
    rand_std: AtLeastZero = 0.5
    fill: Literal["black", "grey", "mean"] = "black"
    erasing: Share = 0.0
    erasing_scale: tuple[float, float] = (0.02, 0.4)
    erasing_fill: Literal["mean", "noise"] = "mean"
    cutout: Whole = 0
    mixup: AtLeastZero = 0.0
    cutmix: AtLeastZero = 0.0
    mix_prob: Share = 1.0
    switch_prob: Share = 0.5
    repeats: Count = 1


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule. The learning rate is `RunConfig.lr` x batch size / `lr_batch` (Eq. 17).

    `lr_batch` 0: the learning rate is taken as it is. `layer_decay` 1: none. `ema`: decay a step of an exponential moving
    average of the weights, which is then what is validated and kept (0: none). `betas` None: (0.9, 0.999), of Lion (0.9, 0.99)
    as its paper has them (arXiv 2302.06675), of Muon (0.9, 0.95).
    Muon only: `adamw_lr` is the rate of what AdamW trains beside it (head, norms, biases, first filters; None: the same
    rate); `matrix_rate` multiplies the rate for the matrices of the encoder's layers.
    """

    name: Literal["adamw", "lion", "muon"] = "adamw"
    lr_batch: Annotated[int, Bounds(0)] = 256
    adamw_lr: AtLeastZero | None = None
    matrix_rate: AtLeastZero = 1.0
    weight_decay: AtLeastZero = 0.05
    layer_decay: float = 1.0
    betas: tuple[BelowOne, BelowOne] | None = None
    eps: AtLeastZero = 1e-8
    warmup_epochs: AtLeastZero = 0.0
    min_lr: AtLeastZero = 0.0
    clip_grad: AtLeastZero | None = None
    ema: Share = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Loss terms. `moe` is beta, the weight of the experts' balance losses (Eq. 16).

    `class_weights`: "balanced" weighs each class by the inverse of its frequency. `label_share`: in joint training, the
    weight of the label loss; reconstruction has the rest (arXiv 2310.20704: 0.1 and 0.9). `teacher_share`: in distillation,
    the weight of the teacher's outputs, softened by `temperature`; the labels have the rest (arXiv 1503.02531).
    """

    label_smoothing: BelowOne = 0.0
    moe: AtLeastZero = 0.5
    class_weights: Literal["none", "balanced"] = "none"
    label_share: Share = 0.1
    teacher_share: Share = 0.7
    temperature: Annotated[float, Bounds(1e-3, 1e3)] = 2.0


@dataclass(frozen=True)
class MAEConfig:
    """Masked auto-encoding (section 2.2). `decoder` None means the one that goes with the named model.

    `mask_ratio`: share of the patches that the encoder does not see. `visible_weight`: alpha of Eq. 16, the weight of the
    error on visible patches (None: the paper's 0.1, and 0 in joint training). `norm_pixels`: the target is each patch less
    its mean, over its deviation.
    """

    mask_ratio: Share = 0.75
    visible_weight: AtLeastZero | None = None
    norm_pixels: bool = False
    decoder: DecoderConfig | None = None


@dataclass(frozen=True)
class RunConfig:
    """One run, whole. `None` in `img_size` and `patch_size` means the model's own; `arch` None, the registered one."""

    recipe: str = ""
    """The recipe whose values hold where no other is given (`feathervit recipes`)."""
    objective: Literal["classification", "reconstruction", "joint", "distillation"] = "classification"
    """What is optimised: the label loss; the reconstruction of masked pictures (pre-training, no labels needed); both at
    once; or the label loss together with the outputs of a teacher."""
    model: str = "mlit_xxs"
    """One of ours (`feathervit models`), or timm:NAME."""
    data: str = ""
    """A folder of pictures, hf:NAME, or a set that goes by its name: digits, cifar10, cifar100, svhn, flowers102."""
    start_from: str = ""
    """Weights to begin with (`--from`), their head replaced by a new one."""
    teacher: str = ""
    """Of a distillation: a run folder, a weights file, or timm:NAME."""
    img_size: Pixels | None = None
    """Side of the square that the model takes, in pixels."""
    patch_size: Pixels | None = None
    """Side of a patch in pixels; it divides the image size."""
    epochs: Count = 100
    batch_size: Count = 128
    """Pictures of an optimiser step, over all processes and micro-steps."""
    accumulate: Count = 1
    """Micro-steps whose gradients are added up to a step."""
    lr: AtLeastZero = 1e-3
    """Peak learning rate, of batches of optim.lr_batch pictures (0: of any size)."""
    seed: int = 0
    """Of everything that is drawn."""
    patience: Annotated[int, Bounds(0)] = 0
    """Stop after so many epochs without a better validation accuracy (0: never)."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """When the loss is no finite number: stop the run, or skip the step and count it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on GPUs that have it, float16 on older ones, float32 elsewhere."""
    compile: Literal["auto", "off", "default", "reduce-overhead"] = "auto"
    """torch.compile's mode; reduce-overhead is CUDA graphs; auto chooses by model and length of the run."""
    tensorboard: bool = False
    """Write the rows of metrics.csv also into the run folder's tensorboard/ (needs the extra of that name)."""
    arch: EncoderConfig | None = None
    images: ImageConfig = ImageConfig()
    reading: ReadingConfig = ReadingConfig()
    split: SplitConfig = SplitConfig()
    augment: Augmentation = Augmentation()
    optim: OptimConfig = OptimConfig()
    loss: LossConfig = LossConfig()
    mae: MAEConfig = MAEConfig()
