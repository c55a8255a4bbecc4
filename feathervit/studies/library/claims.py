"""Tests the claims of papers at a small scale: 10,000 images of CIFAR-100 (100 per class) at 32 px in 64 patches.

Epochs are fixed, so that a cell takes at most 20 minutes on one thread, and pre-training at most 40. `claims-deep` is three
times as long. No images are held out, and the last epoch is evaluated. Only the learning rates of the optimisers are selected.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...config import ConvMLPConfig, GQAConfig, LatentConfig, MLPConfig, WhitenedPatchesConfig
from ...recipes import recipe
from ..definition import Size, Statement, Study
from ..trials import rates, trials_of
from .pretraining import PRETRAIN

FIELDS = {"img_size": 32, "patch_size": 4, "split.val_fraction": 0.0, "split.keep": "last"}
EPOCHS, PRETRAINING = 6, 20  # epochs of 10,000 images; `claims-deep` has three times as many
_OTHER_DATA = {  # dataset: (images per class, 0 for all; number of epochs with about the steps of one epoch of 10,000 images)
    "cifar10": (100, 11),
    "flowers102": (0, 11),
    "sign-digits": (0, 7),
}
_LABELS = {  # share of labels: (images per class, number of epochs with about the steps of one epoch of 10,000 images)
    "100 per cent": (100, 1),
    "10 per cent": (10, 11),
    "2 per cent": (2, 25),
}


def _arms(times: int) -> dict[str, Any]:
    epochs = times * EPOCHS
    xxs = {"data": "cifar100", "model": "mlit_xxs", "split.train_per_class": 100, "epochs": epochs}
    arms: dict[str, Any] = {"XXS": xxs, "XS": {**xxs, "model": "mlit_xs"}, "S": {**xxs, "model": "mlit_s"}}
    for part in (1, 2, 4):
        name = "pre-trained" if part == 1 else f"pre-trained for 1-{part} of the epochs"
        arms[name] = {**xxs, **PRETRAIN, "epochs": times * PRETRAINING // part}
        if part > 1:
            arms[f"XXS {name}"] = {**xxs, "start_from": f"{{{name}}}"}
    for share, (count, longer) in _LABELS.items():
        few = {**xxs, "split.train_per_class": count, "epochs": epochs * longer}
        arms[f"XXS pre-trained, {share} of labels"] = {**few, "start_from": "{pre-trained}"}
        if count < 100:
            arms[f"XXS, {share} of labels"] = few
    for data, (count, longer) in _OTHER_DATA.items():
        other = {**xxs, "data": data, "split.train_per_class": count, "epochs": epochs * longer}
        arms[f"XXS pre-trained on {data}"] = {**other, "start_from": "{pre-trained}"}
        arms[f"XXS on {data}"] = other
    arms["MLP"] = {**xxs, "arch.feedforward": MLPConfig(1.48, 0.1)}
    arms["depth-wise conv MLP"] = {**xxs, "arch.feedforward": ConvMLPConfig(1.4, 0, 0.1)}
    for sharing in ("v_w", "w_w2", "none"):
        arms[f"sharing {sharing}"] = {**xxs, "arch.feedforward.sharing": sharing}
    for counts in ((4,), (3, 5)):
        name = f"{len(counts)} stage{'s' * (len(counts) > 1)}"
        arms[name] = {**xxs, "arch.feedforward.experts": counts}
    return arms


_MMLIT = (
    Statement(
        1,
        "More parameters, higher accuracy from scratch (Table 8, in %: S 60.58, XS 57.93, XXS 56.98)",
        (("S", "XS"), ("XS", "XXS")),
        "the 100 epochs of all images of the paper",
    ),
    Statement(
        2,
        "Masked pre-training, then fine-tuning, is better than training from scratch (Table 8, XXS, in %: 73.42 against 56.98)",
        (
            ("XXS pre-trained, 100 per cent of labels", "XXS"),
            ("XXS pre-trained, 10 per cent of labels", "XXS, 10 per cent of labels"),
            ("XXS pre-trained, 2 per cent of labels", "XXS, 2 per cent of labels"),
        ),
        "pre-training for hundreds of epochs of all images",
    ),
    Statement(
        3,
        "What was pre-trained on CIFAR-100 helps on other data (Table 8, XXS, in %: CIFAR-10 92.21 against 80.78, Flowers-102 "
        "48.59 against 35.34; sign-digits are ours)",
        tuple((f"XXS pre-trained on {data}", f"XXS on {data}") for data in _OTHER_DATA),
        "pre-training for hundreds of epochs of all images",
    ),
    Statement(
        4,
        "A mixture of shared experts is better than an MLP, and than an MLP with a convolution, of equal parameters (the "
        "paper has no such row)",
        (("XXS", "MLP"), ("XXS", "depth-wise conv MLP")),
        "training until the accuracy of each levels off",
    ),
    Statement(
        5,
        "Experts that share V and W2 are better than others (Table 9, in %: V, W2 79.15; V, W 78.34; W, W2 78.87)",
        (("XXS", "sharing v_w"), ("XXS", "sharing w_w2"), ("XXS", "sharing none")),
        "mmLiT-S after its pre-training, and at least ten seeds: the published differences are 0.3 to 0.8 points",
    ),
    Statement(
        6,
        "Three stages of growing expert counts are better than one or two (section 2; the paper has no figure)",
        (("XXS", "1 stage"), ("XXS", "2 stages")),
        "training until the accuracy of each levels off, and more seeds",
    ),
    Statement(
        7,
        "Longer pre-training gives higher accuracy after fine-tuning (section 5)",
        (
            ("XXS pre-trained, 100 per cent of labels", "XXS pre-trained for 1-2 of the epochs"),
            ("XXS pre-trained for 1-2 of the epochs", "XXS pre-trained for 1-4 of the epochs"),
        ),
        "lengths that differ by a factor of ten",
    ),
)


def _claims(name: str, times: int) -> Study:
    return Study(
        name=name,
        question="Which of the claims of arXiv 2407.17783 hold at a small scale?",
        base=recipe("mlit_cifar100"),
        arms=_arms(times),
        sizes={"cpu": Size(fields=FIELDS)},
        statements=_MMLIT,
    )


claims, claims_deep = _claims("claims", 1), _claims("claims-deep", 3)

_VIT = {"model": "poorvit_tiny", "arch.dim": 96, "arch.depth": 6, "arch.attention": GQAConfig(6, 6)}
_OFF = {"augment.policy": "none", "augment.mixup": 0.0, "augment.cutmix": 0.0, "augment.erasing": 0.0}
_OPTIMISERS: dict[str, Any] = {  # optimiser: (usual learning rate, fields)
    "AdamW": (1e-3, {}),
    "Lion": (1e-4, {"optim.name": "lion", "optim.weight_decay": 0.5}),
    "Muon": (5e-3, {"optim.name": "muon"}),
}
_CHOICES: dict[str, Any] = {
    "baseline": {},
    **{f"low-rank {of}": {"arch.attention": LatentConfig(6, 32, of)} for of in ("q", "k", "v", "qkv")},
    **{f"{count} class tokens": {"arch.class_tokens": count} for count in (2, 4, 8)},
    "whitened patches": {"arch.patches": WhitenedPatchesConfig()},
    "no augmentation": _OFF,
}
_POORVITS = (
    Statement(
        9,
        "Low-rank q costs little, low-rank k more, low-rank q, k and v most (in %: 93.65, 93.32, 92.50, 91.80)",
        (("baseline", "low-rank q"), ("low-rank q", "low-rank k"), ("low-rank k", "low-rank qkv")),
        "its 300 epochs of CIFAR-10 with several seeds: the published figures are single runs",
    ),
    Statement(
        10,
        "Several class tokens raise the accuracy (the paper's summary; no figure at hand)",
        (("2 class tokens", "baseline"), ("4 class tokens", "baseline"), ("8 class tokens", "baseline")),
        "its 300 epochs of CIFAR-10",
    ),
    Statement(
        11,
        "Whitened patches do not raise the accuracy (in %: 93.28 against 93.65)",
        (("baseline", "whitened patches"),),
        "its 300 epochs, and more seeds: the published difference is 0.4 points of single runs",
    ),
    Statement(
        12,
        "Lion, and Muon, are better than AdamW, each at its best of three rates (batch 1024, in %: Lion 92.38, AdamW 92.09)",
        (("Lion", "AdamW"), ("Muon", "AdamW")),
        "its batch of 1,024 images and 300 epochs",
    ),
    Statement(
        13,
        "Augmentation raises the accuracy (in %: without AutoAugment 92.14, without CutMix 92.77, with both 93.65)",
        (("baseline", "no augmentation"),),
        "enough epochs to over-fit without augmentation",
    ),
)

poorvit_claims = Study(
    name="claims-poorvits",
    question="Which of the claims of arXiv 2501.06220 hold at a small scale?",
    base=replace(recipe("poorvit_cifar10"), data="cifar100"),
    arms={**_CHOICES, **{name: {"lr": lr, **fields} for name, (lr, fields) in _OPTIMISERS.items()}},
    sizes={"cpu": Size(epochs=10, fields={**FIELDS, **_VIT, "split.train_per_class": 100}, arms=tuple(_CHOICES))},
    candidates={name: rates(lr) for name, (lr, _) in _OPTIMISERS.items()},
    trials=Size((0,), {**FIELDS, **_VIT, "split.train_per_class": 100, "split.val_fraction": 0.02}, epochs=4),
    statements=_POORVITS,
)
poorvit_claims_trials = trials_of(poorvit_claims)
