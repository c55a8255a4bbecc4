"""The settings of a run: images, splits, augmentation, optimiser, losses, and `RunConfig`, which holds them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .bounds import AtLeastZero, BelowOne, Bounds, Count, Pixels, Share, Whole
from .parts import DecoderConfig, EncoderConfig


@dataclass(frozen=True)
class ImageConfig:
    """How an image becomes a tensor, in training, evaluation, prediction and export."""

    fit: Literal["crop", "pad", "stretch"] = "crop"
    """Centre square, pad to a square, or stretch."""
    channels: Annotated[int, Bounds(1, 1024)] | None = None
    """Channels of the model's input (None: the dataset's own, 3 for image files)."""
    stored_size: Pixels | None = None
    """Side in pixels of the stored training images. None keeps small images of one size as they are, and stores others at
    ceil(1.15 x input)."""
    scale: Annotated[float, Bounds(1e-6)] | None = None
    """The value of white in images of more than 8 bits: 4095 for 12 bits, 1 for floats from 0 to 1. None finds it in the
    files of the training data."""
    mean: tuple[float, ...] = (0.5,)
    """Mean that is subtracted from pixels in 0-1: one value, or one per channel."""
    std: tuple[float, ...] = (0.5,)
    """Standard deviation that pixels in 0-1 are divided by: one value, or one per channel."""


@dataclass(frozen=True)
class SplitConfig:
    """How validation images are held out if the dataset has none."""

    val_fraction: float = 0.1
    """Share of the training images that is held out, stratified by class; 0 holds none out."""
    seed: Annotated[int, Bounds(0, 2**32 - 1)] = 0
    """Seed of the split."""
    folds: int = 0
    """Above 1: hold out one fold of a stratified k-fold instead."""
    fold: int = 0
    """The fold that is held out, from 0."""
    train_per_class: int = 0
    """Above 0: train on only this many images per class, drawn by the seed of the split."""
    keep: Literal["best", "last"] = "best"
    """Keep the weights of the best epoch on validation images, or of the last epoch."""


@dataclass(frozen=True)
class ReadingConfig:
    """How to read data that can be read in several ways."""

    classes: tuple[str, ...] = ()
    """The class folders or labels to use; others are skipped."""
    ignore: tuple[str, ...] = ()
    """Patterns of files and folders to skip: of names or, with a "/", of paths inside the data."""
    label_column: str = ""
    """Column of labels in a table or hub dataset, if several are possible."""
    image_column: str = ""
    """Column of images in a table or hub dataset, if several are possible."""
    root: str = ""
    """Folder that the paths of a table are relative to ("": the table's own)."""
    groups: str = ""
    """A column of a table, or a regular expression for paths. Images of one group stay on one side of a split."""
    max_image_gib: Annotated[float, Bounds(0.001, 1024)] = 1.0
    """Memory limit of one decoded image, in GiB. A larger image counts as unreadable."""


@dataclass(frozen=True)
class Augmentation:
    """The changes to a training batch before it enters the model, drawn for each image separately."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Mirror left and right: never, with probability 0.5, or drawn in the first epoch and inverted in each later epoch."""
    crop: Literal["none", "resized", "pad"] = "none"
    """A random resized crop, a crop after padding with zeros, or none."""
    crop_scale: tuple[float, float] = (0.8, 1.0)
    """Smallest and largest share of the area of a resized crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest aspect ratio of a resized crop."""
    crop_filter: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation of a resized crop."""
    crop_padding: Whole = 4
    """Pixels of zeros around an image before it is cropped (crop pad)."""
    policy: Literal["none", "cifar10", "svhn", "imagenet", "rand", "trivial"] = "none"
    """Colour and shape operations: an AutoAugment policy, TrivialAugmentWide (trivial), or timm's RandAugment (rand)."""
    rand_ops: Whole = 2
    """RandAugment: operations per image, each applied with probability 0.5."""
    rand_magnitude: Annotated[float, Bounds(0, 10)] = 9.0
    """RandAugment: mean level of an operation, from 0 to 10."""
    rand_std: AtLeastZero = 0.5
    """RandAugment: standard deviation of the level."""
    fill: Literal["black", "grey", "mean"] = "black"
    """Colour beyond the edges of rotated, sheared and shifted images: black, grey (128), or images.mean."""
    erasing: Share = 0.0
    """Probability that a rectangle of an image is erased."""
    erasing_scale: tuple[float, float] = (0.02, 0.4)
    """Smallest and largest share of the area that is erased."""
    erasing_fill: Literal["mean", "noise"] = "mean"
    """Erase with images.mean, or with normal noise in normalised units."""
    cutout: Whole = 0
    """Side in pixels of a grey square on each image (0: none)."""
    mixup: AtLeastZero = 0.0
    """MixUp: alpha of the Beta distribution of lambda (0: off)."""
    cutmix: AtLeastZero = 0.0
    """CutMix: alpha of the Beta distribution of lambda (0: off)."""
    mix_prob: Share = 1.0
    """Share of the images that are mixed."""
    switch_prob: Share = 0.5
    """Probability of CutMix if MixUp and CutMix are both on."""
    repeats: Count = 1
    """Views of one image in a batch (repeated augmentation)."""
    sampling: Literal["all", "balanced"] = "all"
    """all: an epoch shows every image once. balanced: it shows equally many images of each class, those of small classes
    several times. An epoch has the same number of steps."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule: linear warm-up, then half a cosine."""

    name: Literal["adamw", "lion", "muon", "sgd"] = "adamw"
    """AdamW, Lion (arXiv 2302.06675), Muon, or SGD with Nesterov momentum."""
    lr_batch: Annotated[int, Bounds(0)] = 256
    """The learning rate is lr x batch size / this (arXiv 2407.17783, Eq. 17); 0: it is lr."""
    adamw_lr: AtLeastZero | None = None
    """Muon: learning rate of the parameters that AdamW trains: head, norms, biases, first filters (None: the same)."""
    matrix_rate: AtLeastZero = 1.0
    """Muon: multiplies the learning rate of the matrices in the encoder's layers."""
    weight_decay: AtLeastZero = 0.05
    """Decoupled weight decay of matrices; for SGD the L2 penalty."""
    layer_decay: float = 1.0
    """Each layer's learning rate divided by that of the next layer (1: all equal); for fine-tuning."""
    betas: tuple[BelowOne, BelowOne] | None = None
    """Decay of the first and second moment. None: (0.9, 0.999); (0.9, 0.99) for Lion; (0.9, 0.95) for Muon."""
    momentum: BelowOne = 0.9
    """SGD: momentum, the share of the last step in the next."""
    eps: AtLeastZero = 1e-8
    """Added to the square root of AdamW's second moment."""
    warmup_epochs: AtLeastZero = 0.0
    """Epochs in which the learning rate rises from 0; may be a fraction."""
    min_lr: AtLeastZero = 0.0
    """Learning rate of the last step."""
    clip_grad: AtLeastZero | None = None
    """Largest norm of the gradient of all weights (None: no limit)."""
    ema: Share = 0.0
    """Decay per step of a moving average of the weights, which is validated and kept (0: none)."""


@dataclass(frozen=True)
class LossConfig:
    """Terms of the loss."""

    label_smoothing: BelowOne = 0.0
    """Share of each label that is spread over all classes."""
    moe: AtLeastZero = 0.5
    """Beta of arXiv 2407.17783, Eq. 16: weight of the experts' balance losses."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced weights each class by the inverse of its frequency."""
    label_share: Share = 0.1
    """Joint training: weight of the label loss; reconstruction has the rest (arXiv 2310.20704: 0.1)."""
    teacher_share: Share = 0.7
    """Distillation: weight of the teacher's outputs; the labels have the rest (arXiv 1503.02531)."""
    temperature: Annotated[float, Bounds(1e-3, 1e3)] = 2.0
    """Distillation: divides the logits of teacher and student."""


@dataclass(frozen=True)
class MAEConfig:
    """Masked auto-encoding (arXiv 2407.17783, section 2.2)."""

    mask_ratio: Share = 0.75
    """Share of the patches that the encoder does not see."""
    visible_weight: AtLeastZero | None = None
    """Alpha of Eq. 16: weight of the error on visible patches (None: the paper's 0.1, and 0 in joint training)."""
    norm_pixels: bool = False
    """The target is each patch minus its mean, divided by its standard deviation."""
    decoder: DecoderConfig | None = None
    """The decoder (None: the one of the named model)."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run. None means the model's own `img_size` and `patch_size`, and the registered `arch`."""

    recipe: str = ""
    """The recipe that gives all values that are not set (`feathervit recipes`)."""
    objective: Literal["classification", "reconstruction", "joint", "distillation"] = "classification"
    """The loss: of the labels; of reconstructing masked images (pre-training, without labels); of both; or of the labels
    and a teacher's outputs."""
    model: str = "mlit_xxs"
    """One of ours (`feathervit models`), or timm:NAME."""
    data: str = ""
    """A folder of images, hf:NAME, or a named dataset: digits, cifar10, cifar100, svhn, flowers102."""
    start_from: str = ""
    """Weights to start from (`--from`): a run folder, a weights file, weights in the package, or timm:NAME, which downloads
    them. The head is new."""
    teacher: str = ""
    """Teacher of a distillation: a run folder, a weights file, or timm:NAME."""
    img_size: Pixels | None = None
    """Side of the model's square input, in pixels."""
    patch_size: Pixels | None = None
    """Side of a patch in pixels; it divides the image size."""
    epochs: Count = 100
    """Passes over the training images."""
    batch_size: Count = 128
    """Images per optimiser step, over all processes and micro-steps."""
    accumulate: Count = 1
    """Micro-steps per optimiser step; their gradients are added."""
    lr: AtLeastZero = 1e-3
    """Peak learning rate, for batches of optim.lr_batch images (0: for any size)."""
    seed: int = 0
    """Seed of all randomness."""
    patience: Annotated[int, Bounds(0)] = 0
    """Stop after this many epochs without a better validation accuracy (0: never)."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """If the loss is not finite: stop the run, or skip the step and count it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: a GPU if there is one."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on GPUs that have it, float16 on older ones, float32 elsewhere."""
    compile: Literal["auto", "off", "default", "reduce-overhead"] = "auto"
    """Mode of torch.compile. reduce-overhead uses CUDA graphs; auto chooses by the model and the length of the run."""
    log: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Trackers that get the rows of metrics.csv, the configuration and the report; each is an extra of the package."""
    arch: EncoderConfig | None = None
    """The model's architecture (None: the registered one)."""
    images: ImageConfig = ImageConfig()
    """How an image becomes a tensor."""
    reading: ReadingConfig = ReadingConfig()
    """How to read the data."""
    split: SplitConfig = SplitConfig()
    """How validation images are held out."""
    augment: Augmentation = Augmentation()
    """Changes to training images."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and schedule."""
    loss: LossConfig = LossConfig()
    """Terms of the loss."""
    mae: MAEConfig = MAEConfig()
    """Masked auto-encoding."""

    @staticmethod
    def updated(value: dict) -> dict:
        """Renames values that an earlier version wrote to the names of this version."""
        given = dict(value)
        if given.pop("tensorboard", False) is True:
            given["log"] = ["tensorboard"]
        return given
