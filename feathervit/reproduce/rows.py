"""The rows of the papers' tables: what is reported, and what is run to get it here.

A row is one figure for one model on one data set. `ROWS` lists them in the order in which their tables are written, `ORDER`
those that can be run in the order in which they are worth running. Models and recipes are named, and looked up when a row
is run. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UnknownNameError
from ..recipes.joint import CIFAR10_MEAN, CIFAR10_STD
from ..studies.library.design import poorvit as poorvit_study

MLIT, MAE_VIT, CCT, SSAT = "arXiv 2407.17783", "arXiv 2402.03752", "arXiv 2104.05704", "arXiv 2310.20704"
POORVIT = "arXiv 2501.06220"
TABLES = {  # name -> what its caption says
    "pretraining": f"Masked pre-training on CIFAR-100 ({MLIT}, section 4.1): loss of the last epoch",
    "table-7": f"{MLIT}, Table 7: CIFAR-100, 300 epochs of training or fine-tuning",
    "table-8": f"{MLIT}, Table 8: 100 epochs of training or fine-tuning",
    "table-9": f"{MLIT}, Table 9: what the experts of a layer share (mmLiT-S, CIFAR-100, 300 epochs)",
    "poorvits": f"{POORVIT}, the main table of its repository: CIFAR-10",
    "feather": "Ours, by their own recipes, for the 100 epochs of Table 8",
}


@dataclass(frozen=True)
class Row:
    """`paper`: the figure reported, top-1 in % (of pre-training the loss); None: there is none.

    `certainty`: printed in a text at hand, recovered from other sources where the table is lost, or derived from differences
    the text gives ("about"). `recipe` "": quoted as published, never run here. `fields`: changes to the recipe, by dotted
    name. `pretraining`: the row whose weights it starts from. `millions`: of parameters, as published.
    """

    id: str
    tables: tuple[str, ...]
    name: str
    data: str
    paper: float | None
    recipe: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    pretraining: str = ""
    certainty: Literal["printed", "recovered", "derived"] = "printed"
    millions: float | None = None
    note: str = ""

    @property
    def is_pretraining(self) -> bool:
        return "pretraining" in self.tables


SIZES = {"s": ("mlit_s", 2.38), "xs": ("mlit_xs", 1.22), "xxs": ("mlit_xxs", 0.67)}
SETS = ("cifar100", "cifar10", "svhn", "flowers102")


def _pretraining() -> list[Row]:
    loss = {"s": 0.020404, "xs": 0.021051, "xxs": 0.021514}
    rows = [
        Row(f"mae-{size}", ("pretraining",), f"mmLiT-{size.upper()}", "cifar100", loss[size], f"mae_cifar100_{size}")
        for size in SIZES
    ]
    for sharing in ("v_w", "w_w2"):
        fields = {"arch.feedforward.sharing": sharing, "mae.decoder.feedforward.sharing": sharing}
        words = ", ".join(sharing.upper().split("_"))
        rows.append(
            Row(
                f"mae-s-{sharing}",
                ("pretraining",),
                f"mmLiT-S, {words} shared",
                "cifar100",
                None,
                "mae_cifar100_s",
                fields,
            )
        )
    note = "its hyper-parameters are not at hand: mmLiT-S's"
    fields = {"model": "mae_vit"}
    return [
        *rows,
        Row("mae-vit", ("pretraining",), "Mae-ViT-C100", "cifar100", None, "mae_cifar100_s", fields, note=note),
    ]


def _table_7() -> list[Row]:
    found = {"s": (79.15, "recovered"), "xs": (76.8, "derived"), "xxs": (74.95, "recovered")}
    rows = [
        Row(
            f"mmlit-{size}-cifar100-300",
            ("table-7", "table-9") if size == "s" else ("table-7",),
            "mmLiT-S, V, W2 shared" if size == "s" else f"mmLiT-{size.upper()}",
            "cifar100",
            paper,
            "mmlit_cifar100",
            {"model": SIZES[size][0]},
            f"mae-{size}",
            certainty,
            SIZES[size][1],
        )
        for size, (paper, certainty) in found.items()
    ]
    return [
        *rows,
        Row(
            "mae-vit-cifar100-300",
            ("table-7",),
            "Mae-ViT-C100",
            "cifar100",
            78.27,
            "mmlit_cifar100",
            {"model": "mae_vit"},
            "mae-vit",
            "recovered",
            3.62,
            note=f"figure of {MAE_VIT}; fine-tuned as mmLiT is",
        ),
        Row(
            "resnet-56",
            ("table-7",),
            "ResNet-56",
            "cifar100",
            74.81,
            certainty="recovered",
            millions=0.85,
            note=f"quoted as published ({CCT})",
        ),
    ]


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
_QUOTED = {
    "CVT-13": (20, (73.50, 89.02, 91.47, 54.29)),
    "ViT-T+SSAT": (5.8, (69.64, 91.65, 97.52, 57.20)),
    "ViT-S+SSAT": (21.8, (73.37, 94.05, 97.87, 61.15)),
    "CVT-13+SSAT": (20.3, (75.16, 95.93, 97.00, 68.82)),
    "Swin-T+SSAT": (29.3, (60.68, 83.12, 85.83, 54.72)),
}


def _peer_fields(model: str, patch: int | None, data: str) -> dict[str, Any]:
    """The supervised training of arXiv 2310.20704, whose figures these are: its recipe without the reconstruction."""
    if data == "flowers102":  # the one set that these models see at 224 px, in patches of their own
        sizes: dict[str, Any] = {"img_size": 224, "batch_size": 64}
    else:
        sizes = {"img_size": 32} | ({"patch_size": patch} if patch else {})
    pixels = {"images.mean": CIFAR10_MEAN, "images.std": CIFAR10_STD} if data == "cifar10" else {}
    return {"objective": "classification", "model": model, **sizes, **pixels}


def _table_8() -> list[Row]:
    tables, rows = ("table-8",), []
    for size, figures in _SCRATCH.items():
        model, millions = SIZES[size]
        for data, paper in zip(SETS, figures, strict=True):
            name = f"mLiT-{size.upper()}"
            rows.append(
                Row(
                    f"mlit-{size}-{data}",
                    tables,
                    name,
                    data,
                    paper,
                    f"mlit_{data}",
                    {"model": model},
                    millions=millions,
                )
            )
    for size, figures in _TUNED.items():
        model, millions = SIZES[size]
        for data, paper in zip(SETS, figures, strict=True):
            rows.append(
                Row(
                    f"mmlit-{size}-{data}",
                    tables,
                    f"mmLiT-{size.upper()}",
                    data,
                    paper,
                    f"mmlit_transfer_{data}",
                    {"model": model},
                    f"mae-{size}",
                    millions=millions,
                )
            )
    for name, (millions, model, patch, figures) in _PEERS.items():
        for data, paper in zip(SETS, figures, strict=True):
            fields = _peer_fields(model, patch, data)
            note = f"recipe of {SSAT}; patch of 32 px pictures ours" if patch else f"recipe of {SSAT}"
            rows.append(
                Row(
                    f"{name.lower()}-{data}",
                    tables,
                    f"{name} (`{model}`)",
                    data,
                    paper,
                    "joint_cifar100",
                    fields,
                    millions=millions,
                    note=note,
                )
            )
    for name, (millions, figures) in _QUOTED.items():
        rows += [
            Row(f"{name.lower()}-{d}", tables, name, d, paper, millions=millions, note="quoted as published")
            for d, paper in zip(SETS, figures, strict=True)
        ]
    return rows


def _table_9() -> list[Row]:
    figures = {"v_w": 78.34, "w_w2": 78.87}
    return [
        Row(
            f"mmlit-s-{sharing}-cifar100-300",
            ("table-9",),
            f"mmLiT-S, {', '.join(sharing.upper().split('_'))} shared",
            "cifar100",
            paper,
            "mmlit_cifar100",
            {"model": "mlit_s", "arch.feedforward.sharing": sharing},
            f"mae-s-{sharing}",
        )
        for sharing, paper in figures.items()
    ]


def _poorvits() -> list[Row]:
    figures = {  # arm of the study `poorvit`: figure
        **{"baseline": 93.65, "no AutoAugment": 92.14, "no mixup": 93.68, "no CutMix": 92.77},
        **{"sine-cosine positions": 93.43, "whitened patches": 93.28},
        **{"latent qkv": 91.80, "latent kv": 92.43, "latent qk": 92.42, "latent q": 93.32, "latent k": 92.50},
    }
    arms: dict[str, tuple[float, Mapping[str, Any]]] = {
        name: (paper, poorvit_study.arms[name]) for name, paper in figures.items()
    }
    arms["batch 1024"] = (92.09, {"batch_size": 1024})
    arms["Lion, batch 1024"] = (92.38, {**poorvit_study.arms["Lion"], "batch_size": 1024})
    return [
        Row(
            "poorvit-" + name.lower().replace(",", "").replace(" ", "-"),
            ("poorvits",),
            name,
            "cifar10",
            paper,
            "poorvit_cifar10",
            fields,
            note="reported: best epoch on the test pictures, one run, 9 or 12 layers",
        )
        for name, (paper, fields) in arms.items()
    ] + [
        Row(
            "poorvit-batch-256-processes",
            ("poorvits",),
            "batch 256, several processes",
            "cifar10",
            93.44,
            note="quoted as published; the baseline's training",
        )
    ]


def _feather() -> list[Row]:
    return [
        Row(
            f"feather-{size}-{data}",
            ("feather",),
            f"feather_{size}",
            data,
            None,
            f"feather_{data}",
            {"model": f"feather_{size}"},
        )
        for size in SIZES
        for data in ("cifar100", "cifar10")
    ]


ROWS: dict[str, Row] = {
    row.id: row
    for part in (_pretraining(), _table_7(), _table_8(), _table_9(), _poorvits(), _feather())
    for row in part
}

_SCRATCH_FIRST = [f"mlit-{size}-{data}" for data in SETS[:2] for size in ("xxs", "xs", "s")]
_TRANSFERS = {size: [f"mmlit-{size}-{data}" for data in SETS] for size in SIZES}
_FIRST = (
    *_SCRATCH_FIRST,
    *("feather-xxs-cifar100", "feather-xxs-cifar10"),
    *("mae-xxs", *_TRANSFERS["xxs"]),
    *("mae-s", *_TRANSFERS["s"]),
    "poorvit-baseline",
    *("mmlit-s-cifar100-300", "mae-s-v_w", "mmlit-s-v_w-cifar100-300", "mae-s-w_w2", "mmlit-s-w_w2-cifar100-300"),
)
ORDER: tuple[str, ...] = tuple(dict.fromkeys([*_FIRST, *(r.id for r in ROWS.values() if r.recipe)]))


def row(name: str) -> Row:
    """A row by its id. Raises UnknownNameError with the nearest."""
    if name not in ROWS:
        raise UnknownNameError("row", name, ROWS)
    return ROWS[name]
