"""The recipes: the choices of the folder recipe and their reasons; the settings of the papers and their code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform

import feathervit
from feathervit.chance import Chance
from feathervit.checkpoint import load_weights, save_weights
from feathervit.config import Augmentation, changed, spec, with_fields
from feathervit.data.augment import Augmenter
from feathervit.recipes import RECIPES, recipe, recipe_for
from feathervit.recipes.folder import adapt
from feathervit.recipes.planning import planned
from feathervit.studies import study


def black_images(count: int, size: int, classes=("cat", "dog"), share: float = 0.5):
    """`count` black images of `size` px, `share` of them in the first class."""
    labels = np.array([classes[0]] * round(share * count) + [classes[1]] * (count - round(share * count)))
    return np.zeros((count, size, size), np.uint8), labels


def adapted(source, **fixed):
    config, reasons = adapt(recipe("folder"), source, {k.replace("__", "."): v for k, v in fixed.items()})
    return config, "\n".join(reasons)


def test_recipes_have_names_and_datasets():
    assert all(found.config.recipe == name for name, found in RECIPES.items())
    assert recipe_for("digits").recipe == "digits"
    assert recipe_for("svhn").recipe == "mlit_svhn"
    assert recipe_for("cifar100").recipe == "feather_cifar100"  # the most accurate per minute
    assert recipe_for("some/folder").recipe == recipe_for("").recipe == "folder"
    assert recipe("digits").augment.flip == "none"  # mirrored digits are not digits


@pytest.mark.parametrize(("start", "name"), [("none", "feather_cifar100"), ("feather_xxs.cifar100", "mmlit_cifar100")])
def test_the_recipe_for_fine_tuning_needs_weights(start, name):
    assert planned(None, None, "cifar100", {"start_from": start})[0].recipe == name


def test_a_model_of_timm_does_not_get_the_patches_of_our_model():
    assert planned("feather_cifar100", None, "cifar100", {})[0].patch_size == 4
    assert planned("feather_cifar100", None, "cifar100", {"model": "timm:resnet18_xxs"})[0].patch_size is None
    vit = {"model": "timm:vit_twin_xxs", "patch_size": 8}
    assert planned("feather_cifar100", None, "cifar100", vit)[0].patch_size == 8


def test_mirroring_follows_table_4_on_every_dataset():
    """Tables 5 and 6 list deviations, and mirroring is not one. So SVHN's digits are mirrored too."""
    of_the_tables = [name for name in RECIPES if name.startswith(("mlit_", "mmlit_"))]
    assert len(of_the_tables) == 9
    assert {recipe(name).augment.flip for name in of_the_tables} == {"random"}


def ssat_transforms(size: int, mean: tuple, std: tuple) -> list:
    """timm's training transforms with the arguments of the SSAT code (its defaults and util/datasets.py)."""
    arguments = {"color_jitter": None, "auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic"}
    erasing = {"re_prob": 0.25, "re_mode": "pixel", "re_count": 1}
    return create_transform(size, is_training=True, mean=mean, std=std, **arguments, **erasing).transforms


@pytest.mark.parametrize("name", ["joint_cifar100", "vit-t-cifar100", "vit-t-cifar10", "resnet-50-svhn"])
def test_joint_training_augments_like_the_ssat_code(name):
    stage = study("papers").arms.get(name, {})
    config = with_fields(recipe("joint_cifar100"), **{k: v for k, v in stage.items() if k not in ("recipe", "data")})
    cifar10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    mean, std = cifar10 if name.endswith("cifar10") else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    a = config.augment
    crop, flip, policy, _, normalise, erasing = ssat_transforms(32, mean, std)
    assert (a.crop, a.crop_scale, a.crop_ratio) == ("resized", crop.scale, crop.ratio)
    assert a.crop_filter == crop.interpolation.value == "bicubic"
    assert (a.flip, flip.p) == ("random", 0.5)
    assert (a.policy, a.rand_ops) == ("rand", policy.num_layers)
    op = policy.ops[0]
    assert (a.rand_magnitude, a.rand_std, op.prob) == (op.magnitude, op.magnitude_std, 0.5)
    assert op.kwargs["resample"] == Image.Resampling.BICUBIC
    assert torch.equal(torch.tensor(config.images.mean), normalise.mean)
    assert torch.equal(torch.tensor(config.images.std), normalise.std)
    assert (a.fill, op.kwargs["fillcolor"]) == ("mean", tuple(round(255 * m) for m in config.images.mean))
    assert (a.erasing, a.erasing_fill, erasing.per_pixel) == (erasing.probability, "noise", True)
    assert a.erasing_scale == (erasing.min_area, erasing.max_area)
    assert (config.optim.min_lr, config.optim.warmup_epochs, config.lr, config.epochs) == (1e-6, 5, 1e-3, 100)
    assert not (a.mixup or a.cutmix) and config.loss.label_smoothing == 0.1


def test_poorvits_fill_moved_images_with_grey():
    config = recipe("poorvit_cifar10")
    x = torch.full((300, 3, 32, 32), 200, dtype=torch.uint8)
    augment = replace(config.augment, flip="none", crop="none", erasing=0.0, mixup=0.0, cutmix=0.0)
    grey, black = (
        Augmenter(a, 32, 10, (0.0,), (1 / 255,))(x, torch.zeros(300).long(), torch.arange(300), Chance(0), 0)[0].round()
        for a in (augment, replace(augment, fill="black"))
    )
    beyond = grey != black
    assert beyond.float().mean() > 0.01
    assert (grey[beyond] == 128).float().mean() > 0.7  # later operations, such as inversion, change the rest


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(8, (32, 8)), (36, (32, 8)), (50, (32, 4)), (72, (32, 4)), (100, (96, 16)), (150, (128, 16)), (300, (160, 16))],
)
def test_sizes_are_chosen_from_the_images(size, sizes):
    config, reasons = adapted(black_images(20, size))
    assert (config.img_size, config.patch_size) == sizes
    assert f"img_size {sizes[0]}, patch_size {sizes[1]}: images of {size} px" in reasons
    assert ("small size" in reasons) == (sizes == (32, 4))


def test_many_images_are_not_reduced():
    config, _ = adapted(black_images(5_000, 64))
    assert (config.img_size, config.patch_size) == (64, 8)


@pytest.mark.parametrize(
    ("weights", "size", "sizes"),
    [
        ("feather_nano", 20, (48, 4)),
        ("feather_nano", 300, (48, 4)),
        ("feather_xxs", 20, (48, 4)),
        ("feather_xxs", 48, (48, 4)),
        ("feather_xxs", 300, (48, 4)),
    ],
)
def test_images_are_shown_at_the_size_of_the_weights_or_48_px(weights, size, sizes):
    """Both weights in the package were trained at 48 px, in patches of 4 px."""
    fields = {"start_from": f"{weights}.cifar100", "model": weights}
    config, reasons = planned("folder", black_images(20, size), "arrays", fields)
    assert (config.img_size, config.patch_size) == sizes
    (reason,) = [reason for reason in reasons if reason.startswith("img_size")]
    assert ("--img-size" in reason) == (size > sizes[0])
    assert ("enlarged" in reason) == (size < sizes[0])


@pytest.mark.parametrize(("img_size", "patch_size"), [(32, 4), (64, 4), (96, 8), (160, 16)])
def test_the_patch_size_fits_a_given_image_size(img_size, patch_size):
    fields = {"start_from": "feather_xxs.cifar100", "img_size": img_size}
    config, _ = planned("folder", black_images(20, 200), "arrays", fields)
    assert (config.img_size, config.patch_size) == (img_size, patch_size)


@pytest.mark.parametrize(("size", "sizes"), [(28, (16, 2)), (50, (48, 6)), (72, (64, 8))])
def test_a_linear_projection_gets_64_patches(size, sizes):
    config, _ = adapted(black_images(20, size), model="mlit_xxs")
    assert (config.img_size, config.patch_size) == sizes


@pytest.mark.parametrize(("count", "batch_size"), [(40, 32), (5_000, 64)])
def test_epochs_and_batch_size(count, batch_size):
    config, _ = adapted(black_images(count, 8))
    assert config.batch_size == batch_size
    assert config.optim.warmup_epochs == config.epochs / 20
    tuned, _ = adapted(black_images(count, 8), start_from="weights.safetensors")
    assert tuned.epochs < config.epochs
    assert tuned.optim.layer_decay < 1 == config.optim.layer_decay
    assert "12 training images" in adapted(black_images(count, 8), split__train_per_class=6)[1]


def test_flips_and_class_weights():
    config, reasons = adapted(black_images(40, 8))
    assert config.augment.flip == "random"
    assert "--augment.flip none" in reasons
    assert "class-weights" not in reasons
    for classes in (("3", "7"), ("turn left", "turn right")):
        config, reasons = adapted(black_images(40, 8, classes))
        assert config.augment.flip == "none"
        assert "directions" in reasons
    config, reasons = adapted(black_images(40, 8, share=0.9))
    assert "from 4 to 36 images: --loss.class-weights balanced" in reasons
    assert config.loss.class_weights == "none"  # suggested, not applied


@pytest.mark.parametrize(
    ("fixed", "others"),
    [
        ({"epochs": 3}, {"optim.warmup_epochs": 0.15}),
        ({"img_size": 32}, {"patch_size": 8}),
        ({"img_size": 64}, {"patch_size": 8}),
        ({"img_size": 224}, {"patch_size": 16}),
        ({"model": "mlit_xxs", "img_size": 36}, {"patch_size": 4}),
        ({"model": "mlit_xxs", "patch_size": 5}, {"img_size": 60}),
        ({"model": "mlit_xxs"}, {"patch_size": 8}),
        ({"model": "feather_nano"}, {"img_size": 32, "patch_size": 4}),
        ({"model": "timm:resnet10t"}, {"patch_size": None, "img_size": 64}),  # few timm models take a patch size
        ({"optim__warmup_epochs": 7.0}, {"epochs": 200}),
        ({"augment__flip": "none"}, {}),
    ],
)
def test_given_fields_are_kept_and_others_adapt(fixed, others):
    config, reasons = adapted(black_images(400, 72), **fixed)
    after = {name: now for name, (_, now) in changed(recipe("folder"), config).items()}
    for name in fixed:
        assert name.replace("__", ".") not in after
        assert not any(line.startswith(name.replace("__", ".")) for line in reasons.splitlines())
    for name, value in others.items():
        assert after.get(name) == value


def test_a_short_run_has_a_shorter_warmup(folder, tmp_path):
    outcome = feathervit.train(data=folder, out=tmp_path / "run", epochs=2, img_size=16, batch_size=32)
    assert outcome.result.config["optim"]["warmup_epochs"] == 0.1


def test_values_of_an_edited_recipe_are_kept():
    base = recipe("folder")
    arch = spec("feather_nano").config
    given = replace(
        base, model="feather_nano", arch=arch, start_from="none", epochs=5, batch_size=8, augment=Augmentation(cutout=4)
    )
    config, reasons = planned(given, black_images(40, 48, ("cat", "dog")), "arrays", {"lr": 0.5})
    assert (config.arch, config.start_from, config.epochs, config.batch_size, config.lr) == (arch, "", 5, 8, 0.5)
    assert (config.augment.flip, config.augment.cutout) == ("none", 4)
    assert config.img_size == 32  # as before: not edited
    assert not any(line.startswith(("epochs", "start_from")) for line in reasons)


@pytest.mark.parametrize("fields", [{"start_from": "timm:resnet18"}, {"model": "timm:resnet18.a1_in1k"}])
def test_weights_of_timm_are_fine_tuned(fields):
    config, _ = planned("folder", black_images(40, 32), "arrays", fields)
    assert (config.epochs, config.optim.layer_decay) == (60, 0.9)
    config, _ = planned("folder", black_images(40, 32), "arrays", {"model": "timm:resnet18"})
    assert (config.epochs, config.optim.layer_decay) == (200, 1.0)


def test_the_normalisation_of_the_weights_is_inherited(tmp_path):
    stored = load_weights("mlit_nano.digits")
    images = replace(stored.config.images, mean=(0.2, 0.3, 0.4), std=(0.1, 0.1, 0.2))
    save_weights(tmp_path / "w.safetensors", replace(stored, config=replace(stored.config, images=images)))
    start = {"start_from": str(tmp_path / "w.safetensors")}
    config, _ = planned("folder", black_images(40, 32), "arrays", start)
    assert (config.images.mean, config.images.std, config.images.channels) == (images.mean, images.std, 3)
    config, _ = planned("folder", black_images(40, 32), "arrays", {**start, "images.mean": (0.5,)})
    assert (config.images.mean, config.images.std) == ((0.5,), (0.5,))


def test_joint_training_starts_from_weights():
    fields = {"objective": "joint", "start_from": "mlit_nano.digits"}
    config, _ = planned("folder", black_images(40, 32), "arrays", fields)
    assert (config.objective, config.optim.layer_decay, config.epochs) == ("joint", 1.0, 60)
