"""Draws the figures of the documentation and writes its tables, from the code and the results: python docs/figures.py

`tables.py` names the markers of the tables.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accuracy import draw_accuracy, draw_curves, draw_minutes
from tables import PAGES, PARTS, RESULTS, budget, with_tables
from task import draw_task
from torch import nn

from feathervit.config import MODELS, MoEConfig, SwiGLUConfig, resolve
from feathervit.models import MaskedAutoencoder, create_model
from feathervit.models.feedforward import expert_count, hidden_size

HERE = Path(__file__).resolve().parent


def draw_hidden(plt) -> None:
    """Draws the hidden size of Eq. 15 and the number of experts of each layer, for the models with experts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3), layout="constrained")
    for name, known in MODELS.items():
        ffn, depth = known.config.feedforward, known.config.depth
        if isinstance(ffn, (MoEConfig, SwiGLUConfig)):
            layers = range(1, depth + 1)
            sizes = [hidden_size(i, depth, ffn.hidden_first, ffn.hidden_last) for i in range(depth)]
            left.plot(layers, sizes, marker="o", markersize=3, label=name)
            right.step(layers, [expert_count(i, depth, ffn.experts) for i in range(depth)], where="mid", label=name)
    left.set(xlabel="layer", ylabel="hidden size of an expert", ylim=(0, None), title="Eq. 15")
    right.set(xlabel="layer", ylabel="experts", ylim=(0, 5.5), yticks=range(6), title="experts by thirds of the depth")
    left.legend(frameon=False)
    save(figure, "hidden")


def draw_budget(plt) -> None:
    """Draws the shares of each part in the parameters and multiply-accumulates of the named models."""
    names = list(MODELS)[::-1]
    found = {name: budget(name) for name in names}
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), sharey=True, layout="constrained")
    for kind, axis in enumerate(axes):
        totals = [sum(found[name][kind].values()) for name in names]
        start = [0.0] * len(names)
        for part in PARTS:
            shares = [100 * found[name][kind][part] / total for name, total in zip(names, totals, strict=True)]
            axis.barh(names, shares, left=start, label=part, height=0.7)
            start = [a + b for a, b in zip(start, shares, strict=True)]
        for name, total in zip(names, totals, strict=True):
            axis.text(101, name, f"{total / 1e6:.3g} M", va="center", fontsize=8)
        axis.set(
            xlim=(0, 116), xlabel=f"% of the {('parameters', 'multiply-accumulates')[kind]}", xticks=range(0, 101, 25)
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(PARTS), frameon=False)
    save(figure, "budget")


def draw_masks(plt) -> None:
    """Draws a digit with four masks."""
    from feathervit.data import load_data
    from feathervit.recipes import recipe

    config = resolve(recipe("mae_digits"))
    encoder = create_model("mlit_nano", config=config.arch, img_size=16, patch_size=2, in_chans=1, num_classes=0)
    model = MaskedAutoencoder(encoder, config.mae)
    image = load_data("digits", img_size=16).test.images[:1].float()
    image = nn.functional.interpolate(image, 16, mode="bilinear", antialias=True) / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    kept = 64 - model.masked_patches
    figure, axes = plt.subplots(1, 5, figsize=(8.6, 2), layout="constrained")
    axes[0].imshow(image[0, 0], cmap="gray")
    axes[0].set_title("image")
    for axis in axes[1:]:
        patches = model.patchify(image)
        hidden = model.draw(1, image.device, generator)[:, kept:]
        patches[0, hidden[0]] = float("nan")
        axis.imshow(model.unpatchify(patches)[0, 0], cmap="gray", vmin=-1, vmax=1)
        axis.set_facecolor("#c8d6e5")
        axis.set_title(f"{kept} of 64 patches")
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    save(figure, "masks")


def save(figure, name: str) -> None:
    figure.savefig(HERE / "figures" / f"{name}.svg", metadata={"Date": None})


def main() -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "feathervit", "font.size": 9})  # makes the files reproducible
    import matplotlib.pyplot as plt

    (HERE / "figures").mkdir(exist_ok=True)
    for draw in (draw_hidden, draw_budget, draw_masks):
        draw(plt)
    save(draw_accuracy(plt, RESULTS), "accuracy")
    save(draw_minutes(plt, RESULTS), "minutes")
    save(draw_curves(plt, RESULTS), "curves")
    save(draw_task(), "task")
    for page in PAGES:
        (HERE / page).write_text(with_tables(page))


if __name__ == "__main__":
    main()
