"""One's own pictures: everything chosen from the pictures themselves, each choice printed with its reason.

Commands: feathervit train --data FOLDER --out RUN; feathervit pretrain --data FOLDER --out PRETRAINED, and then
feathervit train --from PRETRAINED --data FOLDER --out RUN
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import MODELS, Augmentation, ConvStemConfig, LossConfig, OptimConfig, RunConfig, SplitConfig, with_fields
from .base import Recipe

folder = Recipe(
    RunConfig(
        recipe="folder",
        model="mlit_xxs",
        batch_size=64,
        lr=5e-3,
        augment=Augmentation(
            flip="random", crop="resized", crop_scale=(0.4, 1.0), policy="trivial", erasing=0.1, mixup=0.2
        ),
        optim=OptimConfig(name="muon", betas=(0.9, 0.95), lr_batch=0, ema=0.99),
        loss=LossConfig(label_smoothing=0.1),
    ),
    source="ours",
    needs="a folder of class folders, or train/ and val/ or test/ with class folders in each",
    expected="depends on the pictures",
    cost="about 15 minutes on two cores for some thousand pictures",
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
    needs="a folder of pictures, in any folders inside; labels are not looked at",
    expected="a start for train --from; the fewer the labels, the more it gives",
    cost="about 15 minutes on two cores for some thousand pictures",
)

INPUTS = ((16, 2), (32, 4), (48, 6), (64, 8))  # image and patch size: 64 patches each
SMALL_SET, LARGE_SET = 5_000, 50_000  # training pictures
VIEWS = {"mlit_nano": 240_000, "mlit_xxs": 1_000_000, "mlit_s": 5_000_000}  # pictures shown in a run
EPOCHS = (20, 400)
MASKED_VIEWS = {"mlit_nano": 1_000_000, "mlit_xxs": 2_000_000, "mlit_s": 20_000_000}  # in pre-training
MASKED_EPOCHS = (100, 4000)
IMBALANCE = 3.0  # largest class over smallest, from which class weights are offered
SIDED = {"left", "right", "clockwise", "counterclockwise", "anticlockwise"}


def adapt(config: RunConfig, source: Any, fixed: Mapping[str, Any]) -> tuple[RunConfig, list[str]]:
    """The recipe fitted to the pictures of `source`, and the reason of each choice.

    `fixed` holds the fields that were asked for, by dotted name: they are left alone, and the others chosen to go with
    them. Raises what looking at the source raises.
    """
    from ..data.sources import summarise

    masked = config.objective == "reconstruction"
    summary = summarise(source, labelled=not masked, reading=config.reading)
    count = summary.totals.get("train", 0)
    side = summary.median_short_side
    chosen: dict[str, Any] = {}
    reasons: list[str] = []

    def choose(reason: str, **fields: Any) -> None:
        fields = {name.replace("__", "."): value for name, value in fields.items()}
        free = {name: value for name, value in fields.items() if name not in fixed}
        if free:
            chosen.update(free)
            reasons.append(f"{', '.join(f'{n} {v}' for n, v in free.items())}: {reason}")

    model = "mlit_nano" if count < SMALL_SET else "mlit_xxs" if count < LARGE_SET else "mlit_s"
    choose(f"{count} training pictures", model=model)
    model = fixed.get("model", model)
    img_size, patch_size = _sizes(side, fixed, _reached(model))
    if "patch_size" in fixed or model.startswith("timm:"):  # few of timm's models take a patch size
        choose(f"pictures of {side} px", img_size=img_size)
    else:
        choose(f"pictures of {side} px, and about 64 patches are quick", img_size=img_size, patch_size=patch_size)
    budgets, (least, most) = (MASKED_VIEWS, MASKED_EPOCHS) if masked else (VIEWS, EPOCHS)
    views = budgets.get(f"mlit_{model.rpartition('_')[2]}", budgets["mlit_xxs"])  # feather_nano as mlit_nano
    epochs = min(max(round(views / max(count, 1)), least), most)
    choose(f"about {views:,} pictures shown, between {least} and {most} epochs", epochs=epochs)
    epochs = fixed.get("epochs", epochs)
    if fixed.get("start_from") and not masked:
        choose(
            "weights to start from are changed the less, the nearer they are to the pictures", optim__layer_decay=0.9
        )
    choose("a twentieth of the epochs", optim__warmup_epochs=epochs / 20)
    if _sided(summary.class_names):
        choose("the class names are signs, whose left and right may mean something", augment__flip="none")
    else:
        choose("mirrored pictures are taken to mean the same; --augment.flip none if not", augment__flip="random")
    sizes = [n for n in summary.counts.get("train", {}).values() if n]
    if sizes and not masked and max(sizes) / min(sizes) >= IMBALANCE and "loss.class_weights" not in fixed:
        reasons.append(
            f"classes hold from {min(sizes)} to {max(sizes)} pictures: --loss.class-weights balanced weighs them alike"
        )
    return with_fields(config, **chosen), reasons


def _reached(model: str) -> range | tuple[int, ...]:
    """Patch sizes that the model's stem can make."""
    patches = MODELS[model].config.patches if model in MODELS else None
    return tuple(2**n for n in range(patches.layers + 1)) if isinstance(patches, ConvStemConfig) else range(1, 4097)


def _sizes(side: int, fixed: Mapping[str, Any], reached: range | tuple[int, ...]) -> tuple[int, int]:
    """Image and patch size for pictures of `side` pixels; the one that was not asked for fits the one that was."""
    inputs = [i for i in INPUTS if i[1] in reached]
    img_size, patch_size = max(i for i in inputs if i[0] <= max(side, inputs[0][0]))
    if size := fixed.get("img_size"):
        fits = [p for p in range(1, min(size // 4, 4096) + 1) if size % p == 0 and p in reached] or [1]
        return size, min(fits, key=lambda p: abs(size / p - 8))
    if (patch := fixed.get("patch_size") or 0) > 0:
        return max(img_size // patch, 1) * patch, patch
    return img_size, patch_size


def _sided(class_names: tuple[str, ...]) -> bool:
    """Letters, digits or directions: mirrored, they are something else."""
    words = [set(name.lower().replace("-", "_").replace(" ", "_").split("_")) for name in class_names]
    signs = sum(len(name) <= 2 and name.isalnum() for name in class_names)
    return 2 * signs > len(class_names) or any(w & SIDED for w in words)
