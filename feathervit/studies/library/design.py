"""Studies of the design space of tiny vision transformers, and of open questions of arXiv 2407.17783.

"At equal parameters" means within 1 %, at 32 px in patches of 4 with 100 classes.
"""

from __future__ import annotations

from typing import Any

from ...config import ConvMLPConfig, ConvStemConfig, LatentConfig, MLPConfig, MoEConfig, WhitenedPatchesConfig
from ...recipes import recipe
from ..definition import Size, Study
from .sizes import FEW, SMALLEST

_BASE = recipe("mlit_cifar100")
_SIZES = {"cpu": Size(epochs=10, fields=SMALLEST), "gpu": Size(epochs=100, fields={"model": "mlit_xxs"})}
_GPU_STEM = {"img_size": 36, "patch_size": 4}  # a stem with strides of 2 has patches of 4 px; all arms have 81 tokens


def _mlit(question: str, name: str, arms: dict[str, Any], **sizes: Size) -> Study:
    return Study(name=name, question=question, base=_BASE, arms=arms, sizes={**_SIZES, **sizes})


moe_vs_conv = _mlit(
    "At equal parameters: what do shared experts add to a plain MLP, and what do convolutions, in the stem or in the "
    "feed-forward?",
    "moe-vs-conv",
    {
        "MoE": {},
        "MLP": {"arch.feedforward": MLPConfig(1.48, 0.1)},
        "MoE, conv stem": {"arch.patches": ConvStemConfig(3), "arch.feedforward": MoEConfig(66, 20)},
        "MLP, conv stem": {"arch.patches": ConvStemConfig(3), "arch.feedforward": MLPConfig(1.18, 0.1)},
        "depth-wise conv MLP": {"arch.feedforward": ConvMLPConfig(1.4, 0, 0.1)},
        "depth-wise conv MLP, conv stem": {
            "arch.patches": ConvStemConfig(3),
            "arch.feedforward": ConvMLPConfig(1.13, 0, 0.1),
        },
    },
    gpu=Size(epochs=100, fields={"model": "mlit_xxs", **_GPU_STEM}),
)

hidden_schedule = _mlit(
    "How far can the experts' hidden size fall from the first layer to the last?",
    "hidden-schedule",
    {f"81 to {last}": {"arch.feedforward.hidden_last": last} for last in (81, 54, 27, 14, 4)},
)

stages = _mlit(
    "Into how many stages of growing expert counts should the depth be divided?",
    "stages",
    {
        f"{len(counts)} ({'-'.join(map(str, counts))})": {"arch.feedforward.experts": counts}
        for counts in ((4,), (3, 5), (3, 4, 5), (3, 4, 4, 5), (2, 3, 4, 5, 6))
    },
)

gates = _mlit(
    "How much do noise, the number of kept experts and the balance losses of the gates matter?",
    "gates",
    {
        "paper": {},
        "no noise": {"arch.feedforward.noise": False},
        "one kept": {"arch.feedforward.top_k": 1},
        "three kept": {"arch.feedforward.top_k": 3},
        "no balance": {"loss.moe": 0.0},
        "balance x 10": {"loss.moe": 5.0},
        "CV squared": {"arch.feedforward.balance": "cv_squared"},
    },
)

kv_groups = _mlit(
    "How many query heads can share a key and value head?",
    "kv-groups",
    {f"{heads} of 6": {"arch.attention.kv_heads": heads} for heads in (6, 3, 2, 1)},
)

readout = _mlit(
    "What should the head read?",
    "readout",
    {
        "dummy patch": {},
        "class token": {"arch.readout": "class"},
        "4 class tokens": {"arch.readout": "class", "arch.class_tokens": 4},
        "mean of patches": {"arch.readout": "mean"},
        "weighted mean": {"arch.readout": "pool"},
    },
)

positions = _mlit(
    "Which positions should tokens have, in heads of width 20, as rotary ones need?",
    "positions",
    {
        kind: {"arch.positions": kind, "arch.dim": 120, "arch.readout": "mean"}
        for kind in ("learned", "sincos", "rotary", "none")
    },
)

training_recipe = _mlit(
    "What do the tricks of fast training add to the paper's recipe?",
    "recipe",
    {
        "paper": {},
        "alternating flip": {"augment.flip": "alternating"},
        "label smoothing": {"loss.label_smoothing": 0.1},
        "averaged weights": {"optim.ema": 0.99},
        "Muon": {"optim.name": "muon", "optim.betas": (0.9, 0.95), "optim.lr_batch": 0},
        "24 px, then 32 px": [{"img_size": 24, "share": 0.5}, {"start_from": "{previous}", "share": 0.5}],
    },
)

_PRETRAINING = {"recipe": "mae_cifar100_xxs", "batch_size": 128, "optim.lr_batch": 0, "lr": 1e-3}
pretrain_length = _mlit(
    "How does accuracy after fine-tuning grow with the length of pre-training?",
    "pretrain-length",
    {
        f"{epochs} epochs": [{**_PRETRAINING, "epochs": epochs}, {"start_from": "{previous}"}]
        for epochs in (10, 20, 40, 80)
    },
    gpu=Size(epochs=100, fields={"model": "mlit_xxs"}),
)

_SMALL_VIT = {
    "model": "poorvit_tiny",
    "arch.dim": 96,
    "arch.depth": 6,
    "arch.attention.heads": 6,
    "arch.attention.kv_heads": 6,
}
_CPU_ROWS = (
    *("baseline", "no AutoAugment", "no mixup", "no CutMix", "sine-cosine positions"),
    *("whitened patches", "4 class tokens", "Muon"),
)
poorvit = Study(
    name="poorvit",
    question="Which of PoorViTs' choices matter?",
    base=recipe("poorvit_cifar10"),
    arms={
        "baseline": {},
        "no AutoAugment": {"augment.policy": "none"},
        "no mixup": {"augment.mixup": 0.0},
        "no CutMix": {"augment.cutmix": 0.0},
        "sine-cosine positions": {"arch.positions": "sincos"},
        "whitened patches": {"arch.patches": WhitenedPatchesConfig()},
        **{f"latent {of}": {"arch.attention": LatentConfig(12, 64, of)} for of in ("q", "k", "v", "qk", "kv", "qkv")},
        **{f"{count} class tokens": {"arch.class_tokens": count} for count in (2, 4, 8)},
        "Lion": {"optim.name": "lion", "lr": 1e-4, "optim.weight_decay": 0.5},
        "Muon": {"optim.name": "muon", "lr": 5e-3},
    },
    sizes={
        "cpu": Size(epochs=20, fields={**FEW, **_SMALL_VIT, "split.train_per_class": 500}, arms=_CPU_ROWS),
        "gpu": Size(epochs=300),
    },
)

DESIGN = (
    *(moe_vs_conv, hidden_schedule, stages, gates, kv_groups),
    *(readout, positions, training_recipe, pretrain_length, poorvit),
)
