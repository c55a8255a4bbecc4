"""Defines the settings of a run: images, splits, augmentation, optimiser, losses, and `RunConfig`, which holds all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .bounds import AtLeastZero, BelowOne, Bounds, Count, Pixels, Share, Whole
from .parts import DecoderConfig, EncoderConfig


@dataclass(frozen=True)
class ImageConfig:
    """Conversion of images to tensors, in training, evaluation, prediction and export."""

    fit: Literal["crop", "pad", "stretch"] = "crop"
    """Crop the centre square, pad to a square, or stretch."""
    channels: Annotated[int, Bounds(1, 1024)] | None = None
    """Channels of the model's input (None: as in the dataset, 3 for image files)."""
    stored_size: Pixels | None = None
    """Side in pixels of the stored training images. None: small images of one size are stored unchanged, others at
    ceil(1.15 x input)."""
    scale: Annotated[float, Bounds(1e-6)] | None = None
    """The value of white in images of more than 8 bits: 4095 for 12 bits, 1 for floats from 0 to 1. None: found in the
    training files."""
    mean: tuple[float, ...] = (0.5,)
    """Mean of the pixels, on a scale from 0 to 1: one value, or one per channel."""
    std: tuple[float, ...] = (0.5,)
    """Standard deviation of the pixels, on a scale from 0 to 1: one value, or one per channel."""


@dataclass(frozen=True)
class SplitConfig:
    """Choice of the validation images if the dataset has no validation split, and of the weights to keep."""

    val_fraction: BelowOne = 0.1
    """Share of the training images to hold out, stratified by class (0: none)."""
    seed: Annotated[int, Bounds(0, 2**32 - 1)] = 0
    """Seed of the split."""
    folds: Whole = 0
    """Above 1: hold out one fold of a stratified k-fold instead."""
    fold: Whole = 0
    """Index of the held-out fold, from 0."""
    train_per_class: Whole = 0
    """Above 0: train on only this many images per class, drawn with split.seed."""
    keep: Literal["best", "last"] = "best"
    """Keep the weights of the epoch with the best validation result, or of the last epoch."""


@dataclass(frozen=True)
class ReadingConfig:
    """How to read data, if it allows several interpretations."""

    classes: tuple[str, ...] = ()
    """The class folders or labels to use (--classes A,B); others are skipped."""
    ignore: tuple[str, ...] = ()
    """Patterns of files and folders to skip: of names or, with a "/", of paths inside the data."""
    label_column: str = ""
    """Column of labels in a table or hub dataset, if several are possible."""
    image_column: str = ""
    """Column of images in a table or hub dataset, if several are possible."""
    root: str = ""
    """Folder that the paths of a table are relative to ("": the folder of the table)."""
    groups: str = ""
    """A column of a table, or a regular expression for paths. Images of one group stay in the same split."""
    max_image_gib: Annotated[float, Bounds(0.001, 1024)] = 1.0
    """Memory limit of one decoded image, in GiB. A larger image counts as unreadable."""


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of the training images, drawn for each image separately."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Horizontal flip: never, with probability 0.5, or random in the first epoch and alternating in later epochs."""
    crop: Literal["none", "resized", "pad"] = "none"
    """Random resized crop, random crop after zero padding, or no crop."""
    crop_scale: tuple[float, float] = (0.8, 1.0)
    """Smallest and largest share of the area of a resized crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest aspect ratio of a resized crop."""
    crop_filter: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation of a resized crop."""
    crop_padding: Whole = 4
    """Zero padding in pixels on each side before the crop (crop pad)."""
    policy: Literal["none", "cifar10", "svhn", "imagenet", "rand", "trivial"] = "none"
    """Colour and shape operations: an AutoAugment policy, TrivialAugmentWide (trivial), or timm's RandAugment (rand)."""
    rand_ops: Whole = 2
    """RandAugment: operations per image, each applied with probability 0.5."""
    rand_magnitude: Annotated[float, Bounds(0, 10)] = 9.0
    """RandAugment: mean level of an operation, from 0 to 10."""
    rand_std: AtLeastZero = 0.5
    """RandAugment: standard deviation of the level."""
    fill: Literal["black", "grey", "mean"] = "black"
    """Fill colour outside rotated, sheared and shifted images: black, grey (128), or images.mean."""
    erasing: Share = 0.0
    """Probability of erasing a random rectangle of an image."""
    erasing_scale: tuple[float, float] = (0.02, 0.4)
    """Smallest and largest share of the erased area."""
    erasing_fill: Literal["mean", "noise"] = "mean"
    """Erase with images.mean, or with normal noise in normalised units."""
    cutout: Whole = 0
    """Side in pixels of a grey square on each image (0: none)."""
    mixup: AtLeastZero = 0.0
    """MixUp: alpha of the Beta distribution of lambda (0: off)."""
    cutmix: AtLeastZero = 0.0
    """CutMix: alpha of the Beta distribution of lambda (0: off)."""
    mix_prob: Share = 1.0
    """Share of the images to mix."""
    switch_prob: Share = 0.5
    """Probability of CutMix if MixUp and CutMix are both on."""
    repeats: Count = 1
    """Views of one image in a batch (repeated augmentation)."""
    sampling: Literal["all", "balanced"] = "all"
    """all: an epoch shows every image once. balanced: an epoch shows equally many images per class and repeats images of
    small classes. The number of steps per epoch is the same."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule: linear warm-up, then cosine decay."""

    name: Literal["adamw", "lion", "muon", "sgd"] = "adamw"
    """Optimiser: AdamW, Lion (arXiv 2302.06675), Muon, or SGD with Nesterov momentum."""
    lr_batch: Whole = 256
    """The learning rate is lr x batch size / lr_batch (arXiv 2407.17783, Eq. 17). 0: no scaling."""
    adamw_lr: AtLeastZero | None = None
    """Muon: learning rate of the parameters trained by AdamW: head, norms, biases, first filters (None: the same)."""
    matrix_rate: AtLeastZero = 1.0
    """Muon: factor of the learning rate of the matrices in the encoder's layers."""
    weight_decay: AtLeastZero = 0.05
    """Decoupled weight decay of matrices; for SGD, the L2 penalty."""
    layer_decay: float = 1.0
    """Layer-wise decay: learning rate of a layer divided by that of the next layer (1: all equal); for fine-tuning."""
    betas: tuple[BelowOne, BelowOne] | None = None
    """Decay of the first and second moment. None: (0.9, 0.999); (0.9, 0.99) for Lion; (0.9, 0.95) for Muon."""
    momentum: BelowOne = 0.9
    """SGD: momentum."""
    eps: AtLeastZero = 1e-8
    """AdamW: term added to the square root of the second moment."""
    warmup_epochs: AtLeastZero = 0.0
    """Epochs of linear warm-up from 0; may be a fraction."""
    min_lr: AtLeastZero = 0.0
    """Learning rate of the last step."""
    clip_grad: AtLeastZero | None = None
    """Maximum norm of the gradient of all weights (None or 0: no clipping)."""
    ema: Share = 0.0
    """Decay per step of the moving average of the weights, which is validated and saved (0: none)."""


@dataclass(frozen=True)
class LossConfig:
    """Terms of the loss."""

    label_smoothing: BelowOne = 0.0
    """Label smoothing: share of each label spread over all classes."""
    moe: AtLeastZero = 0.5
    """Weight of the experts' balance losses (beta of arXiv 2407.17783, Eq. 16)."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight each class by the inverse of its frequency."""
    label_share: Share = 0.1
    """Joint training: weight of the label loss; the reconstruction loss has the rest (arXiv 2310.20704: 0.1)."""
    teacher_share: Share = 0.7
    """Distillation: weight of the loss on the teacher's outputs; the label loss has the rest (arXiv 1503.02531)."""
    temperature: Annotated[float, Bounds(1e-3, 1e3)] = 2.0
    """Distillation: temperature that divides the logits of teacher and student."""


@dataclass(frozen=True)
class MAEConfig:
    """Masked auto-encoding (arXiv 2407.17783, section 2.2)."""

    mask_ratio: Share = 0.75
    """Share of masked patches, which the encoder does not see."""
    visible_weight: AtLeastZero | None = None
    """Weight of the error on visible patches, alpha of Eq. 16 (None: the paper's 0.1, and 0 in joint training)."""
    norm_pixels: bool = False
    """Normalise each target patch by its mean and standard deviation."""
    decoder: DecoderConfig | None = None
    """The decoder (None: the decoder of the named model)."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run. None selects the default of the model for `img_size`, `patch_size` and `arch`."""

    recipe: str = ""
    """The recipe, which supplies all values that are not set (`feathervit recipes`)."""
    objective: Literal["classification", "reconstruction", "joint", "distillation"] = "classification"
    """The loss: on labels; on the reconstruction of masked images (pre-training, without labels); on both; or on labels and
    the outputs of a teacher."""
    model: str = "mlit_xxs"
    """One of our models (`feathervit models`), or timm:NAME."""
    data: str = ""
    """A folder of images, hf:NAME, or a named dataset: digits, cifar10, cifar100, svhn, flowers102."""
    start_from: str = ""
    """Starting weights: a run folder, a weights file, weights in the package, or timm:NAME (a download). The head is
    new unless the classes are the same. `train` on your own images starts from feather_xxs.cifar100, or the weights of
    --model; none: from scratch."""
    teacher: str = ""
    """Teacher of a distillation: a run folder, a weights file, or timm:NAME."""
    img_size: Pixels | None = None
    """Side of the model's square input, in pixels."""
    patch_size: Pixels | None = None
    """Side of a patch in pixels; must divide the image size, except in a residual stem."""
    epochs: Count = 100
    """Passes over the training images."""
    batch_size: Count = 128
    """Images per optimiser step, over all processes and micro-steps."""
    accumulate: Count = 1
    """Micro-steps per optimiser step; their gradients are added."""
    lr: AtLeastZero = 1e-3
    """Peak learning rate for a batch of optim.lr_batch images. If optim.lr_batch is 0, it is used unchanged."""
    seed: int = 0
    """Seed of all randomness."""
    patience: Whole = 0
    """Early stopping: stop after this many epochs without a better validation accuracy (0: never)."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """On a loss that is not finite: stop the run, or skip and count the step."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the run trains; auto: a GPU if there is one."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; auto: bfloat16 or float16 on a GPU; on a CPU with bfloat16, the faster of it and float32; else float32."""
    compile: Literal["auto", "off", "default", "reduce-overhead"] = "auto"
    """Mode of torch.compile. reduce-overhead uses CUDA graphs; auto depends on the model and the length of the run."""
    log: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Trackers that log the rows of metrics.csv, the configuration and the report; each is an extra of the package."""
    arch: EncoderConfig | None = None
    """The architecture of the model (None: as registered)."""
    images: ImageConfig = ImageConfig()
    """Conversion of an image to a tensor."""
    reading: ReadingConfig = ReadingConfig()
    """Reading of the data."""
    split: SplitConfig = SplitConfig()
    """Choice of the validation images."""
    augment: Augmentation = Augmentation()
    """Augmentation of the training images."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and schedule."""
    loss: LossConfig = LossConfig()
    """Terms of the loss."""
    mae: MAEConfig = MAEConfig()
    """Masked auto-encoding."""

    @staticmethod
    def updated(value: dict) -> dict:
        """Converts values written by an earlier version to the names of this version."""
        given = dict(value)
        if given.pop("tensorboard", False) is True:
            given["log"] = ["tensorboard"]
        return given
