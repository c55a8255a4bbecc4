"""The folder recipe: what it chooses by the pictures, why it says so, and that whatever was asked for is left alone."""

from __future__ import annotations

import numpy as np
import pytest

import feathervit
from feathervit.config import changed
from feathervit.recipes import RECIPES, recipe, recipe_for
from feathervit.recipes.folder import EPOCHS, VIEWS, adapt


def pictures(count: int, size: int, classes=("cat", "dog"), share: float = 0.5):
    """`count` black pictures of `size` px; `share` of them in the first class."""
    labels = np.array([classes[0]] * round(share * count) + [classes[1]] * (count - round(share * count)))
    return np.zeros((count, size, size), np.uint8), labels


def adapted(source, **fixed):
    config, reasons = adapt(recipe("folder"), source, {k.replace("__", "."): v for k, v in fixed.items()})
    return config, "\n".join(reasons)


def test_names_and_data_sets_of_their_own():
    assert all(found.config.recipe == name for name, found in RECIPES.items())
    assert recipe_for("digits").recipe == "digits"
    assert recipe_for("svhn").recipe == "mlit_svhn"
    assert recipe_for("some/folder").recipe == recipe_for("").recipe == "folder"
    assert recipe("mlit_svhn").augment.flip == recipe("digits").augment.flip == "none"  # mirrored digits are no digits


@pytest.mark.parametrize(
    ("size", "sizes"), [(8, (16, 2)), (28, (16, 2)), (36, (32, 4)), (50, (48, 6)), (72, (64, 8)), (300, (64, 8))]
)
def test_sizes_are_chosen_by_the_pictures(size, sizes):
    config, said = adapted(pictures(20, size))
    assert (config.img_size, config.patch_size) == sizes
    assert f"img_size {sizes[0]}, patch_size {sizes[1]}: pictures of {size} px" in said


@pytest.mark.parametrize(("size", "sizes"), [(28, (16, 2)), (50, (32, 4)), (72, (64, 8))])
def test_a_convolutional_stem_gets_patches_it_can_make(size, sizes):
    """It halves the side until the patch size is reached: patches of 6 px are none."""
    config, _ = adapted(pictures(20, size), model="feather_xxs")
    assert (config.img_size, config.patch_size) == sizes


@pytest.mark.parametrize(("count", "model"), [(40, "mlit_nano"), (4_999, "mlit_nano"), (5_000, "mlit_xxs")])
def test_model_and_epochs_are_chosen_by_the_number_of_pictures(count, model):
    config, said = adapted(pictures(count, 8))
    assert config.model == model
    assert f"model {model}: {count} training pictures" in said
    assert EPOCHS[0] <= config.epochs <= EPOCHS[1]
    assert config.epochs * count <= max(VIEWS[model], EPOCHS[0] * count) + count
    assert config.optim.warmup_epochs == config.epochs / 20


def test_flips_and_class_weights():
    config, said = adapted(pictures(40, 8))
    assert config.augment.flip == "random"
    assert "--augment.flip none if not" in said
    assert "class-weights" not in said
    for classes in (("3", "7"), ("turn left", "turn right")):
        config, said = adapted(pictures(40, 8, classes))
        assert config.augment.flip == "none"
        assert "left and right may mean something" in said
    config, said = adapted(pictures(40, 8, share=0.9))
    assert "from 4 to 36 pictures: --loss.class-weights balanced" in said
    assert config.loss.class_weights == "none"  # offered, not taken


@pytest.mark.parametrize(
    ("fixed", "others"),
    [
        ({"epochs": 3}, {"optim.warmup_epochs": 0.15}),
        ({"img_size": 32}, {"patch_size": 4}),
        ({"img_size": 36}, {"patch_size": 4}),
        ({"img_size": 64}, {"patch_size": 8}),
        ({"patch_size": 5}, {"img_size": 60}),
        ({"model": "mlit_xxs"}, {"epochs": 400, "patch_size": 8}),
        ({"model": "feather_xxs"}, {"img_size": 64, "patch_size": 8}),
        ({"model": "feather_nano", "img_size": 36}, {"patch_size": 4, "epochs": 400}),
        ({"model": "timm:resnet10t"}, {"patch_size": None, "img_size": 64}),  # few of timm's take a patch size
        ({"optim__warmup_epochs": 7.0}, {"epochs": 400}),
        ({"augment__flip": "none"}, {}),
    ],
)
def test_what_is_asked_for_is_left_alone_and_the_rest_goes_with_it(fixed, others):
    config, said = adapted(pictures(400, 72), **fixed)
    after = {name: now for name, (_, now) in changed(recipe("folder"), config).items()}
    for name in fixed:
        assert name.replace("__", ".") not in after
        assert not any(line.startswith(name.replace("__", ".")) for line in said.splitlines())
    for name, value in others.items():
        assert after.get(name) == value


def test_a_short_run_of_a_folder_ends_its_warm_up(folder, tmp_path):
    outcome = feathervit.train(data=folder, out=tmp_path / "run", epochs=2, img_size=16, batch_size=32)
    assert outcome.result.config["optim"]["warmup_epochs"] == 0.1
