"""Everything a run needs, as one typed value.

A recipe returns a `RunConfig`; the command line sets any of its fields by dotted name (`--optim.weight-decay 0.1`);
the resolved value is written beside the weights, and a checkpoint rebuilds its run from it. Nothing here imports torch.

The parts of a model (`GQA`, `MoE`, ...) are dataclasses too: each holds the parameters of one part and no other's.
In JSON (`fields.py`) a part carries its class name under "kind".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# ---------------------------------------------------------------------------------------------------------------------
# The parts of an encoder


@dataclass(frozen=True)
class GQA:
    """Grouped-query attention (arXiv 2305.13245): `heads` query heads share `kv_heads` key and value heads."""

    heads: int = 8
    kv_heads: int = 4


@dataclass(frozen=True)
class Latent:
    """Multi-head attention whose projections named in `low_rank` are a product of two, D to `rank` to D (arXiv 2501.06220)."""

    heads: int = 12
    rank: int = 64
    low_rank: Literal["q", "k", "v", "qk", "qv", "kv", "qkv"] = "qkv"


@dataclass(frozen=True)
class MoE:
    """Mixture of SwiGLU experts with noisy top-k gates (arXiv 2407.17783, section 2.1.2).

    The hidden size falls from `hidden_first` to `hidden_last` by Eq. 15; `experts` counts a layer's experts in each of
    equally long stages. `sharing` names what the experts of a layer share (Table 9). `balance` is the coefficient of
    variation or its square (the paper's text names the first, Shazeer et al. square it).
    """

    hidden_first: int = 144
    hidden_last: int = 72
    experts: tuple[int, ...] = (3, 4, 5)
    top_k: int = 2
    sharing: Literal["v_w2", "v_w", "w_w2", "none"] = "v_w2"
    noise: bool = True
    balance: Literal["cv", "cv_squared"] = "cv"
    importance_weight: float = 1e-2
    load_weight: float = 1e-2
    dropout: float = 0.1


@dataclass(frozen=True)
class SwiGLU:
    """One SwiGLU feed-forward (Eq. 13), the hidden size scaled by depth as in `MoE`."""

    hidden_first: int = 144
    hidden_last: int = 144
    dropout: float = 0.0


@dataclass(frozen=True)
class MLP:
    """Linear, GELU, linear; `ratio` is hidden size over width."""

    ratio: float = 4.0
    dropout: float = 0.0


@dataclass(frozen=True)
class ConvMLP:
    """MLP with a depth-wise 3x3 convolution over the patches between its layers (DAFF of DHVT, arXiv 2210.05958).

    `ratio` is hidden size over width. Prefix tokens are scaled channel by channel by what the patches' mean says through
    a bottleneck of width / `reduction`; `reduction` 0: they go through the MLP without the convolution.
    """

    ratio: float = 4.0
    reduction: int = 4
    dropout: float = 0.0


@dataclass(frozen=True)
class LinearPatches:
    """Each patch is projected linearly."""


@dataclass(frozen=True)
class WhitenedPatches:
    """A linear projection whose first filters start as the whitening of training patches; `frozen`: and stay so."""

    frozen: bool = False


@dataclass(frozen=True)
class ConvStem:
    """One to three 3x3 convolutions with norm and GELU, as many of stride 2 as the patch size needs."""

    layers: int = 2


@dataclass(frozen=True)
class Stage:
    """Residual blocks of one width; the first block has the stride."""

    width: int = 32
    blocks: int = 1
    stride: int = 2


@dataclass(frozen=True)
class ResidualStem:
    """A small residual network in place of a patch projection: a 3x3 convolution to `width` channels, then the stages.

    The patch size is the product of the strides, or twice that: the first convolution then has stride 2.
    """

    width: int = 16
    stages: tuple[Stage, ...] = (Stage(32, 1, 2), Stage(64, 1, 2), Stage(128, 1, 1))


Attention = GQA | Latent
FeedForward = MoE | SwiGLU | MLP | ConvMLP
Patches = LinearPatches | WhitenedPatches | ConvStem | ResidualStem


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder: width, depth and the parts of its layers. Image size, patch size and classes belong to the run.

    `readout`, what the head reads: an all-zero patch, `class_tokens` learned tokens side by side, the mean of the patches,
    or their mean weighed by learned scores. `positions`: learned, fixed sines and cosines, rotary in the attention, or none.
    """

    dim: int = 144
    depth: int = 15
    attention: Attention = GQA()
    feedforward: FeedForward = MoE()
    patches: Patches = LinearPatches()
    positions: Literal["learned", "sincos", "rotary", "none"] = "learned"
    readout: Literal["dummy", "class", "mean", "pool"] = "dummy"
    class_tokens: int = 1
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder of a masked auto-encoder: layers of the same kinds as an encoder's.

    `positions`: "encoder" gives the mask tokens the encoder's positions and the visible tokens none a second time (arXiv
    2407.17783); "learned" adds the decoder's own to all tokens (arXiv 2402.03752).
    """

    dim: int = 64
    depth: int = 2
    attention: Attention = GQA(4, 2)
    feedforward: FeedForward = MoE(64, 32, (3,))
    positions: Literal["encoder", "learned"] = "encoder"
    drop_path_rate: float = 0.0


# ---------------------------------------------------------------------------------------------------------------------
# The parts of a run


@dataclass(frozen=True)
class ImageConfig:
    """How a picture becomes a tensor, in training, evaluation, prediction and export alike.

    `fit`: centre square, pad to a square, or stretch. `channels`: None keeps the data set's own (3 for picture files).
    `stored_size`: side in pixels that training pictures are kept at; None keeps small equal ones as they are and takes
    ceil(1.15 x input) for others. `mean` and `std` are for pixels in 0-1, one for all channels or one each.
    """

    fit: Literal["crop", "pad", "stretch"] = "crop"
    channels: int | None = None
    stored_size: int | None = None
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
    seed: int = 0
    folds: int = 0
    fold: int = 0
    train_per_class: int = 0
    keep: Literal["best", "last"] = "best"


@dataclass(frozen=True)
class Augmentation:
    """All that happens to a training batch between storage and the model, drawn for each picture by itself.

    flip: "none", "random" (p = 0.5) or "alternating" (drawn in the first epoch, inverted in each epoch after).
    crop: "resized" (random resized crop of `crop_scale` of the area, `crop_ratio` aspect), "pad" (pad `crop_padding`
    pixels with zeros, crop) or "none".
    policy: an AutoAugment policy, RandAugment ("rand") or TrivialAugmentWide ("trivial").
    erasing: probability of random erasing; cutout: side in pixels of a grey square (0: none).
    mixup, cutmix: alpha of the Beta distribution of lambda (0: off); `mix_prob` is the share of pictures mixed,
    `switch_prob` the chance of CutMix where both are on.
    repeats: views of one picture in a batch (repeated augmentation).
    """

    flip: Literal["none", "random", "alternating"] = "none"
    crop: Literal["none", "resized", "pad"] = "none"
    crop_scale: tuple[float, float] = (0.8, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_padding: int = 4
    policy: Literal["none", "cifar10", "svhn", "imagenet", "rand", "trivial"] = "none"
    rand_ops: int = 2
    rand_magnitude: int = 9
    erasing: float = 0.0
    erasing_scale: tuple[float, float] = (0.02, 0.4)
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    switch_prob: float = 0.5
    repeats: int = 1


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule. The learning rate is `RunConfig.lr` x batch size / `lr_batch` (Eq. 17).

    `lr_batch` 0: the learning rate is taken as it is. `layer_decay` 1: none. `ema`: decay a step of an exponential moving
    average of the weights, which is then what is validated and kept (0: none).
    Muon only: `adamw_lr` is the rate of what AdamW trains beside it (head, norms, biases, first filters; None: the same
    rate); `matrix_rate` multiplies the rate for the matrices of the encoder's layers.
    """

    name: Literal["adamw", "lion", "muon"] = "adamw"
    lr_batch: int = 256
    adamw_lr: float | None = None
    matrix_rate: float = 1.0
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_epochs: float = 0.0
    min_lr: float = 0.0
    clip_grad: float | None = None
    ema: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Loss terms. `moe` is beta, the weight of the experts' balance losses (Eq. 16).

    `class_weights`: "balanced" weighs each class by the inverse of its frequency. `label_share`: in joint training, the
    weight of the label loss; reconstruction has the rest (arXiv 2310.20704: 0.1 and 0.9). `teacher_share`: in distillation,
    the weight of the teacher's outputs, softened by `temperature`; the labels have the rest (arXiv 1503.02531).
    """

    label_smoothing: float = 0.0
    moe: float = 0.5
    class_weights: Literal["none", "balanced"] = "none"
    label_share: float = 0.1
    teacher_share: float = 0.7
    temperature: float = 2.0


@dataclass(frozen=True)
class MAEConfig:
    """Masked auto-encoding (section 2.2). `decoder` None means the one that goes with the named model.

    `mask_ratio`: share of the patches that the encoder does not see. `visible_weight`: alpha of Eq. 16, the weight of the
    error on visible patches (None: the paper's 0.1, and 0 in joint training). `norm_pixels`: the target is each patch less
    its mean, over its deviation.
    """

    mask_ratio: float = 0.75
    visible_weight: float | None = None
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
    img_size: int | None = None
    """Side of the square that the model takes, in pixels."""
    patch_size: int | None = None
    """Side of a patch in pixels; it divides the image size."""
    epochs: int = 100
    batch_size: int = 128
    """Pictures of an optimiser step, over all processes and micro-steps."""
    accumulate: int = 1
    """Micro-steps whose gradients are added up to a step."""
    lr: float = 1e-3
    """Peak learning rate, of batches of optim.lr_batch pictures (0: of any size)."""
    seed: int = 0
    """Of everything that is drawn."""
    patience: int = 0
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
    split: SplitConfig = SplitConfig()
    augment: Augmentation = Augmentation()
    optim: OptimConfig = OptimConfig()
    loss: LossConfig = LossConfig()
    mae: MAEConfig = MAEConfig()
