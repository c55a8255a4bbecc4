"""Recipes for your own images: they adapt to the images, and print each choice with its reason.

Commands: feathervit train --data FOLDER --out RUN; feathervit pretrain --data FOLDER --out PRETRAINED, and then
feathervit train --from PRETRAINED --data FOLDER --out RUN
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..config import (
    MODELS,
    Augmentation,
    LossConfig,
    OptimConfig,
    ResidualStemConfig,
    RunConfig,
    SplitConfig,
    imbalanced,
    named_weights,
    with_fields,
)
from .base import Recipe

folder = Recipe(
    RunConfig(
        recipe="folder",
        model="feather_xxs",
        batch_size=32,
        lr=0.02,
        augment=Augmentation(flip="random", crop="resized", crop_scale=(0.6, 1.0)),
        optim=OptimConfig(name="muon", lr_batch=0, ema=0.99, matrix_rate=0.15, weight_decay=0.005),
        loss=LossConfig(label_smoothing=0.1),
    ),
    source="ours",
    needs="a folder of class folders, or train/ and val/ or test/ with class folders in each",
    expected="depends on the images",
    cost="at most about 10 minutes on two cores",
)

mae_folder = Recipe(
    RunConfig(
        recipe="mae_folder",
        objective="reconstruction",
        model="mlit_xxs",
        batch_size=128,
        lr=3e-3,
        split=SplitConfig(val_fraction=0.0),
        augment=Augmentation(flip="random", crop="resized", crop_scale=(0.6, 1.0)),
        optim=OptimConfig(name="muon", betas=(0.9, 0.95), lr_batch=0),
    ),
    source="ours; masking, loss and crops as in arXiv 2407.17783, Table 3",
    needs="a folder of images, at any depth; labels are not used",
    expected="weights for train --from; they help most with few labels",
    cost="at most about 10 minutes on two cores",
)

# (image size, patch size) of models without a residual stem: 64 patches each
INPUTS = ((16, 2), (32, 4), (48, 6), (64, 8))
STEM_INPUTS = (32, 48, 64, 96, 128, 160)  # image sizes of models with a residual stem
TUNED = 48  # px; from weights of 32 or 48 px, 1,020 flowers of 64 px are recognised best at 48 px (docs/studies.md)
ENLARGED = 1.5  # largest grid of patches, relative to the grid of the weights
REDUCED, SMALL = range(48, 96), (32, 4)  # from scratch, at 32 px (the same study)
SMALL_SET, LARGE_SET = 5_000, 50_000  # training images
EPOCHS, TUNING_EPOCHS = 200, 60  # from scratch and from weights; reduced if training would exceed ten minutes
MASKED_VIEWS = {"mlit_nano": 1_000_000, "mlit_xxs": 2_000_000, "mlit_s": 20_000_000}  # images shown during pre-training
MASKED_EPOCHS = (100, 4000)
SIDED = {"left", "right", "clockwise", "counterclockwise", "anticlockwise"}


def adapt(
    config: RunConfig, source: Any, fixed: Mapping[str, Any], trained: tuple[int, int] | None = None
) -> tuple[RunConfig, list[str]]:
    """Adapts the recipe to the images of `source`. Returns the configuration and the reason for each choice.

    `fixed` holds the fields set by the user, by dotted name. They stay unchanged, and the other fields are chosen to match.
    `trained`: the image and patch size of the starting weights, for a model with a residual stem. Raises the errors of
    `summarise`.
    """
    from ..data.sources import summarise

    objective = fixed.get("objective", config.objective)
    masked = objective == "reconstruction"
    summary = summarise(source, labelled=not masked, reading=config.reading)
    most = fixed.get("split.train_per_class", config.split.train_per_class) or math.inf
    sizes = [min(n, most) for n in summary.counts.get("train", {}).values() if n]
    count = sum(sizes)
    side = summary.median_short_side
    chosen: dict[str, Any] = {}
    reasons: list[str] = []

    def choose(reason: str, **fields: Any) -> None:
        fields = {name.replace("__", "."): value for name, value in fields.items()}
        free = {name: value for name, value in fields.items() if name not in fixed}
        if free:
            chosen.update(free)
            reasons.append(f"{', '.join(f'{n} {v}' for n, v in free.items())}: {reason}")

    if masked:
        choose(
            f"{count} training images",
            model="mlit_nano" if count < SMALL_SET else "mlit_xxs" if count < LARGE_SET else "mlit_s",
        )
    model = fixed.get("model", chosen.get("model", config.model))
    img_size, patch_size = _sizes(side, fixed, model, trained, few=count < SMALL_SET)
    reason = f"images of {side} px"
    if not trained and "img_size" not in fixed and (img_size, patch_size) == SMALL and side in REDUCED:
        reason += "; few images train better at a small size from scratch"
    if trained and img_size > side and "img_size" not in fixed:
        reason += f"; enlarged to the size that the weights were trained at ({trained[0]} px)"
    if trained and img_size < side and "img_size" not in fixed:
        reason += f"; weights trained at {trained[0]} px recognise larger images worse (--img-size sets another size)"
    if "patch_size" in fixed or model.startswith("timm:"):  # few of timm's models take a patch size
        choose(reason, img_size=img_size)
    else:
        choose(reason, img_size=img_size, patch_size=patch_size)
    tuning = bool(fixed.get("start_from") or named_weights(model)) and not masked
    if masked:
        views, (least, most) = MASKED_VIEWS.get(model, MASKED_VIEWS["mlit_xxs"]), MASKED_EPOCHS
        epochs = min(max(round(views / max(count, 1)), least), most)
        choose(f"about {views:,} images shown, between {least} and {most} epochs", epochs=epochs)
    else:
        epochs = TUNING_EPOCHS if tuning else EPOCHS
        choose("enough from weights" if tuning else "enough from scratch", epochs=epochs)
        choose(f"{count} training images", batch_size=32 if count < SMALL_SET else 64)
    epochs = fixed.get("epochs", epochs)
    if tuning and objective != "joint":
        choose("early layers change less from their starting weights than late ones", optim__layer_decay=0.9)
    choose("a twentieth of the epochs", optim__warmup_epochs=epochs / 20)
    if _sided(summary.class_names):
        choose(
            "the class names are letters, digits or directions, which may differ when mirrored",
            augment__flip="none",
        )
    else:
        choose("mirrored images are assumed to mean the same; if not, set --augment.flip none", augment__flip="random")
    if imbalanced(sizes) and not masked and "loss.class_weights" not in fixed:
        reasons.append(
            f"classes hold from {min(sizes)} to {max(sizes)} images: --loss.class-weights balanced gives each the same weight"
        )
    return with_fields(config, **chosen), reasons


def _stem(model: str) -> ResidualStemConfig | None:
    patches = MODELS[model].config.patches if model in MODELS else None
    return patches if isinstance(patches, ResidualStemConfig) else None


def _sizes(
    side: int, fixed: Mapping[str, Any], model: str, trained: tuple[int, int] | None = None, few: bool = False
) -> tuple[int, int]:
    """Returns the image and patch size for images of `side` pixels. If the user set one of them, the other matches it.

    With starting weights (`trained`), images have the size that the weights were trained on, or TUNED if it is larger and the
    images have it. The grid of patches is at most ENLARGED times that of the weights. From scratch, `few` images of a side in
    REDUCED are reduced to SMALL.
    """
    stem = _stem(model)
    size, patch = fixed.get("img_size"), fixed.get("patch_size")
    if stem is not None:
        if few and not (trained or size or patch) and side in REDUCED:
            return SMALL
        largest = max(trained[0], min(side, TUNED)) if trained else side
        inputs = (*STEM_INPUTS, trained[0]) if trained else STEM_INPUTS
        size = size or max(s for s in inputs if s <= max(largest, STEM_INPUTS[0]))
        if patch or trained is None:
            return size, patch or (stem.reached if size <= 64 else 2 * stem.reached)
        grid = ENLARGED * trained[0] / trained[1]
        return size, min((p for p in stem.patch_sizes if size / p <= grid), default=max(stem.patch_sizes))
    if size:
        fits = [p for p in range(1, min(size // 4, 4096) + 1) if size % p == 0] or [1]
        return size, min(fits, key=lambda p: abs(size / p - 8))
    img_size, patch_size = max(i for i in INPUTS if i[0] <= max(side, INPUTS[0][0]))
    return (max(img_size // patch, 1) * patch, patch) if patch and patch > 0 else (img_size, patch_size)


def _sided(class_names: tuple[str, ...]) -> bool:
    """Returns whether the classes are letters, digits or directions, whose meaning changes when mirrored."""
    words = [set(name.lower().replace("-", "_").replace(" ", "_").split("_")) for name in class_names]
    signs = sum(len(name) <= 2 and name.isalnum() for name in class_names)
    return 2 * signs > len(class_names) or any(w & SIDED for w in words)
