"""Defines the rows of the papers' tables as arms of one study, with their published results.

An arm trains on the full training split and reports the last epoch. An arm that starts from pre-training names the arm of the
pre-training, which runs once, with the first seed. Rows that are quoted and not run have a published result but no arm.
"""

from __future__ import annotations

from typing import Any

from ...config import DecoderConfig, GQAConfig, MLPConfig
from ...recipes import recipe
from ...recipes.joint import CIFAR10_MEAN, CIFAR10_STD
from ..definition import Published, Size, Stage, Study
from .design import poorvit as poorvit_study

MLIT, MAE_VIT, CCT, SSAT = "arXiv 2407.17783", "arXiv 2402.03752", "arXiv 2104.05704", "arXiv 2310.20704"
POORVIT = "arXiv 2501.06220"
TABLES = {  # name -> caption
    "pretraining": f"Masked pre-training on CIFAR-100 ({MLIT}, section 4.1): loss of the last epoch",
    "table-7": f"{MLIT}, Table 7: CIFAR-100, 300 epochs of training or fine-tuning",
    "table-8": f"{MLIT}, Table 8: 100 epochs of training or fine-tuning",
    "table-9": f"{MLIT}, Table 9: what the experts of a layer share (mmLiT-S, CIFAR-100, 300 epochs)",
    "poorvits": f"{POORVIT}, the main table of its repository: CIFAR-10",
    "cct": f"{CCT}: 200 epochs by the short script of its repository",
    "feather": "Ours, by their own recipe at the 100 epochs of Table 8",
}
SETS = ("cifar100", "cifar10", "svhn", "flowers102")
SIZES = {"s": ("mlit_s", 2.38), "xs": ("mlit_xs", 1.22), "xxs": ("mlit_xxs", 0.67)}  # model, million parameters
SHARINGS = {"v_w": "V, W", "w_w2": "W, W2"}
QUOTED = "quoted as published"

_published: dict[str, Published] = {}  # by arm, in the order of the tables
_stages: dict[str, Stage] = {}


def _row(arm: str, table: str | tuple[str, ...], name: str, data: str, value: float | None, **rest: Any) -> None:
    """Adds a row. `rest`: fields of `Published`, and "stage": the stage of the arm, unless the row is only quoted."""
    if stage := rest.pop("stage", None):
        _stages[arm] = {"data": data, **stage}
    _published[arm] = Published(name, data, value, (table,) if isinstance(table, str) else table, **rest)


def _pretraining() -> None:
    words = {"table": "pretraining", "data": "cifar100", "figure": "train_loss"}
    for size, loss in {"s": 0.020404, "xs": 0.021051, "xxs": 0.021514}.items():
        _row(f"mae-{size}", name=f"mmLiT-{size.upper()}", value=loss, stage={"recipe": f"mae_cifar100_{size}"}, **words)
    for sharing, named in SHARINGS.items():
        fields = {"arch.feedforward.sharing": sharing, "mae.decoder.feedforward.sharing": sharing}
        stage = {"recipe": "mae_cifar100_s", **fields}
        _row(f"mae-s-{sharing}", name=f"mmLiT-S, {named} shared", value=None, stage=stage, **words)
    stage = {"recipe": "mae_cifar100_s", "model": "mae_vit"}
    note = "its hyper-parameters are not available; those of mmLiT-S"
    _row("mae-vit", name="Mae-ViT-C100", value=None, stage=stage, note=note, **words)


def _tables_7_and_9() -> None:
    found = {"s": (79.15, "recovered"), "xs": (76.8, "derived"), "xxs": (74.95, "recovered")}
    for size, (value, certainty) in found.items():
        model, millions = SIZES[size]
        _row(
            f"mmlit-{size}-cifar100-300",
            ("table-7", "table-9") if size == "s" else "table-7",
            "mmLiT-S, V, W2 shared" if size == "s" else f"mmLiT-{size.upper()}",
            "cifar100",
            value,
            stage={"recipe": "mmlit_cifar100", "model": model, "start_from": f"{{mae-{size}}}"},
            certainty=certainty,
            millions=millions,
        )
    _row(
        "mae-vit-cifar100-300",
        "table-7",
        "Mae-ViT-C100",
        "cifar100",
        78.27,
        stage={"recipe": "mmlit_cifar100", "model": "mae_vit", "start_from": "{mae-vit}"},
        certainty="recovered",
        millions=3.62,
        note=f"figure of {MAE_VIT}; fine-tuned as mmLiT is",
    )
    stage = {"recipe": "resnet_cifar100", "model": "timm:resnet_56", "epochs": 300}
    words = {"stage": stage, "certainty": "recovered", "millions": 0.85, "note": f"figure of {CCT}; its usual recipe"}
    _row("resnet-56", "table-7", "ResNet-56", "cifar100", 74.81, **words)
    for sharing, value in {"v_w": 78.34, "w_w2": 78.87}.items():
        stage = {"recipe": "mmlit_cifar100", "model": "mlit_s", "arch.feedforward.sharing": sharing}
        _row(
            f"mmlit-s-{sharing}-cifar100-300",
            "table-9",
            f"mmLiT-S, {SHARINGS[sharing]} shared",
            "cifar100",
            value,
            stage={**stage, "start_from": f"{{mae-s-{sharing}}}"},
        )


# Table 8: CIFAR-100, CIFAR-10, SVHN, Flowers-102
_SCRATCH = {
    "s": (60.58, 84.03, 96.01, 34.41),
    "xs": (57.93, 82.74, 95.43, 35.41),
    "xxs": (56.98, 80.78, 94.97, 35.34),
}
_TUNED = {
    "s": (78.18, 94.62, 97.39, 59.59),
    "xs": (75.91, 94.01, 97.26, 57.46),
    "xxs": (73.42, 92.21, 97.32, 48.59),
}
_PEERS = {  # name: (millions of parameters, timm's model, patch at 32 px, figures)
    "ViT-T": (5.4, "timm:vit_tiny_patch16_224", 4, (55.11, 79.47, 92.04, 45.51)),
    "ViT-S": (21.4, "timm:vit_small_patch16_224", 4, (54.08, 79.93, 94.45, 56.17)),
    "Swin-T": (29, "timm:swin_tiny_patch4_window7_224", 2, (53.28, 59.47, 71.60, 34.51)),
    "ResNet-50": (25.6, "timm:resnet50", None, (72.80, 91.78, 96.45, 46.92)),
}
_VIT_T = {  # ViT-T of timm as one of our encoders, with the decoder in the code of SSAT
    "model": "poorvit_tiny",
    "arch.attention": GQAConfig(3, 3),
    "arch.feedforward": MLPConfig(4.0),
    "arch.positions": "sincos",
    "arch.drop_path_rate": 0.0,
    "mae.decoder": DecoderConfig(128, 2, GQAConfig(16, 16), MLPConfig(4.0), "learned"),
}
_QUOTED = {
    "CVT-13": (20, (73.50, 89.02, 91.47, 54.29)),
    "ViT-S+SSAT": (21.8, (73.37, 94.05, 97.87, 61.15)),
    "CVT-13+SSAT": (20.3, (75.16, 95.93, 97.00, 68.82)),
    "Swin-T+SSAT": (29.3, (60.68, 83.12, 85.83, 54.72)),
}


_JOINT = (5.8, (69.64, 91.65, 97.52, 57.20))  # ViT-T+SSAT


def _peer_stage(model: str, patch: int | None, data: str) -> Stage:
    """Returns the supervised baseline of arXiv 2310.20704, the source of the results: its recipe without reconstruction."""
    if data == "flowers102":  # the only dataset at 224 px, with the default patches of the models
        sizes: Stage = {"img_size": 224, "batch_size": 64}
    else:
        sizes = {"img_size": 32, **({"patch_size": patch} if patch else {})}
    pixels = {"images.mean": CIFAR10_MEAN, "images.std": CIFAR10_STD} if data == "cifar10" else {}
    return {"recipe": "joint_cifar100", "objective": "classification", "model": model, **sizes, **pixels}


def _table_8() -> None:
    for i, data in enumerate(SETS):
        words = {"table": "table-8", "data": data}
        for size, values in _SCRATCH.items():
            model, millions = SIZES[size]
            stage = {"recipe": f"mlit_{data}", "model": model}
            name = f"mLiT-{size.upper()}"
            _row(f"mlit-{size}-{data}", name=name, value=values[i], stage=stage, millions=millions, **words)
        for size, values in _TUNED.items():
            model, millions = SIZES[size]
            stage = {"recipe": f"mmlit_transfer_{data}", "model": model, "start_from": f"{{mae-{size}}}"}
            name = f"mmLiT-{size.upper()}"
            _row(f"mmlit-{size}-{data}", name=name, value=values[i], stage=stage, millions=millions, **words)
        for name, (millions, model, patch, values) in _PEERS.items():
            stage = _peer_stage(model, patch, data)
            words["note"] = f"recipe of {SSAT}; patch of 32 px images ours" if patch else f"recipe of {SSAT}"
            arm = f"{name.lower()}-{data}"
            _row(arm, name=f"{name} (`{model}`)", value=values[i], stage=stage, millions=millions, **words)
        joint = {**_peer_stage("", 16 if data == "flowers102" else 4, data), **_VIT_T, "objective": "joint"}
        joint |= {"patch_size": 16 if data == "flowers102" else 4}
        words["note"] = f"recipe of {SSAT}; patch of 32 px images and the decoder's positions ours"
        _row(f"vit-t+ssat-{data}", name="ViT-T+SSAT", value=_JOINT[1][i], stage=joint, millions=_JOINT[0], **words)
        words["note"] = QUOTED
        for name, (millions, values) in _QUOTED.items():
            _row(f"{name.lower()}-{data}", name=name, value=values[i], millions=millions, **words)


def _poorvits() -> None:
    arms = {  # arm of the study `poorvit`: figure
        **{"baseline": 93.65, "no AutoAugment": 92.14, "no mixup": 93.68, "no CutMix": 92.77},
        **{"sine-cosine positions": 93.43, "whitened patches": 93.28},
        **{"latent qkv": 91.80, "latent kv": 92.43, "latent qk": 92.42, "latent q": 93.32, "latent k": 92.50},
    }
    rows: dict[str, tuple[float, Any]] = {name: (value, poorvit_study.arms[name]) for name, value in arms.items()}
    rows["batch 1024"] = (92.09, {"batch_size": 1024})
    rows["Lion, batch 1024"] = (92.38, {**poorvit_study.arms["Lion"], "batch_size": 1024})
    for name, (value, fields) in rows.items():
        arm = "poorvit-" + name.lower().replace(",", "").replace(" ", "-")
        note = "reported: best epoch on the test images, one run, 9 or 12 layers"
        _row(arm, "poorvits", name, "cifar10", value, stage={"recipe": "poorvit_cifar10", **fields}, note=note)
    name, note = "batch 256, several processes", f"{QUOTED}; the baseline's training"
    _row("poorvit-batch-256-processes", "poorvits", name, "cifar10", 93.44, note=note)


def _peers() -> None:
    """Adds the rows of CCT, trained as in the short script of its repository."""
    for depth, (millions, *values) in {2: (0.284, 66.90, 89.17), 4: (0.482, 70.46, 91.45)}.items():
        for data, value in zip(SETS[:2], values, strict=True):
            pixels = {"images.mean": CIFAR10_MEAN, "images.std": CIFAR10_STD} if data == "cifar10" else {}
            stage = {"recipe": "cct_cifar100", "model": f"cct_{depth}_3x2", **pixels}
            words = {
                "stage": stage,
                "millions": millions,
                "note": "the repository's figure, best epoch on the test images",
            }
            _row(f"cct-{depth}-3x2-{data}", "cct", f"CCT-{depth}/3x2", data, value, **words)


def _feather() -> None:
    for size in ("nano", *SIZES):
        for data in SETS[:2]:
            name = f"feather_{size}"
            stage = {"recipe": f"feather_{data}", "model": name, "epochs": 100}
            _row(f"feather-{size}-{data}", "feather", name, data, None, stage=stage)


for _part in (_pretraining, _tables_7_and_9, _table_8, _poorvits, _peers, _feather):
    _part()

# The arms, most useful first. An arm follows the arms that it starts from.
_TRANSFERS = {size: [f"mmlit-{size}-{data}" for data in SETS] for size in SIZES}
_FIRST = (
    *(f"mlit-{size}-{data}" for data in SETS[:2] for size in ("xxs", "xs", "s")),
    *("feather-xxs-cifar100", "feather-xxs-cifar10", "feather-nano-cifar100"),
    *("mae-xxs", *_TRANSFERS["xxs"]),
    *("mae-s", *_TRANSFERS["s"]),
    "poorvit-baseline",
    *("mmlit-s-cifar100-300", "mae-s-v_w", "mmlit-s-v_w-cifar100-300", "mae-s-w_w2", "mmlit-s-w_w2-cifar100-300"),
)

papers = Study(
    name="papers",
    question="What accuracy do the rows of the papers' tables reach here?",
    base=recipe("mlit_cifar100"),
    arms={arm: _stages[arm] for arm in dict.fromkeys([*_FIRST, *_stages])},
    sizes={"": Size(fields={"split.val_fraction": 0.0, "split.keep": "last"})},
    published=_published,
)
