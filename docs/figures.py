"""Draws the documentation's figures and writes its tables, all from the code that they are about: python docs/figures.py

A table stands in its page between `<!-- NAME -->` and `<!-- end -->`; one that is made of the files in results/, in any page
or the README, between `<!-- results: NAME -->` and `<!-- end -->`. tests/test_readme.py fails where one is out of date.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from feathervit.config import MODELS, ConvMLPConfig, MoEConfig, SwiGLUConfig, resolve
from feathervit.models import MaskedAutoencoder, create_model
from feathervit.models.cost import cost
from feathervit.models.feedforward import expert_count, hidden_size
from feathervit.recipes import RECIPES
from feathervit.recipes.folder import INPUTS, LARGE_SET, MASKED_EPOCHS, MASKED_VIEWS, SMALL_SET, STEM_INPUTS
from feathervit.reproduce.table import tables
from feathervit.studies import STUDIES

HERE = Path(__file__).resolve().parent
CLASSES = 100
PARTS = {  # a part of a model, and the beginning of its modules' names inside the model (inside a layer for the middle ones)
    "patches and positions": ("patch_embed", "pos_embed", "readout"),
    "attention": ("attn",),
    "gates": ("ffn.gate",),
    "feed-forward": ("ffn",),
    "norms": ("norm",),
    "head": ("head",),
}


def part_of(name: str) -> str:
    """The part of a model that a parameter or module belongs to: the first of PARTS whose words its name begins with."""
    inside = re.sub(r"^blocks\.\d+\.", "", name)
    return next(part for part, words in PARTS.items() if inside.startswith(words))


def budget(name: str) -> tuple[Counter[str], Counter[str]]:
    """Parameters and multiply-accumulates of a named model by part, counted as `models/cost.py` counts them."""
    model, size = create_model(name, num_classes=CLASSES), MODELS[name].img_size
    parameters: Counter[str] = Counter()
    for path, values in model.named_parameters():
        parameters[part_of(path)] += values.numel()
    twin = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, 3, size, size, device="meta"))
    macs: Counter[str] = Counter()
    within = {"": "", **{path: path for path, _ in twin.named_modules()}}
    for path, by_operator in counter.get_flop_counts().items():
        inside = within.get(path.partition(".")[2], "")
        if re.fullmatch(r"patch_embed|head|blocks\.\d+\.(attn|ffn|ffn\.gate)", inside):
            macs[part_of(inside)] += sum(by_operator.values()) // 2
    macs["feed-forward"] -= macs["gates"]  # they lie in it
    return parameters, macs


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def models_table() -> str:
    rows = []
    for name, known in MODELS.items():
        config, found = known.config, cost(create_model(name, num_classes=CLASSES), known.img_size)
        attention, ffn = config.attention, config.feedforward
        if isinstance(ffn, MoEConfig):
            hidden = f"{'-'.join(map(str, ffn.experts))} experts, {ffn.hidden_first} to {ffn.hidden_last}"
        else:
            kind = "depth-wise MLP" if isinstance(ffn, ConvMLPConfig) else "MLP"
            hidden = f"{kind}, {int(ffn.ratio * config.dim)}"
        heads = f"{attention.heads} / {attention.kv_heads}"
        sizes = f"{known.img_size} px, {known.patch_size} px"
        costs = (f"{found.parameters:,}", f"{found.macs / 1e6:.0f}")
        rows.append((f"`{name}`", config.dim, config.depth, heads, hidden, config.readout, sizes, *costs))
    head = ("Model", "Width", "Layers", "Heads / key-value", "Feed-forward, hidden size", "Read-out", "Image, patch")
    return table((*head, "Parameters", "MMACs"), rows)


def recipes_table() -> str:
    rows = []
    for name, known in RECIPES.items():
        config = resolve(known.config)
        chosen = name in ("folder", "mae_folder")
        sizes = "by the pictures" if chosen else f"{config.img_size} px, {config.patch_size} px"
        model, epochs = ("by the pictures",) * 2 if chosen else (f"`{config.model}`", config.epochs)
        what = (config.data or "your own", model, sizes, epochs, config.batch_size)
        rows.append((f"`{name}`", config.objective, *what, known.source))
    head = ("Recipe", "Objective", "Data", "Model", "Image, patch", "Epochs", "Batch", "Source")
    return table(head, rows)


def sizes_table() -> str:
    """Image and patch size by the images' median short side, as the folder recipes choose them."""
    rows = []
    for verb, inputs in (("train", [(s, 8 if s <= 64 else 16) for s in STEM_INPUTS]), ("pretrain", INPUTS)):
        ends = [f"under {inputs[1][0]} px"]
        ends += [f"{a} to {b - 1} px" for (a, _), (b, _) in itertools.pairwise(inputs[1:])]
        ends += [f"{inputs[-1][0]} px and more"]
        rows += [
            (f"`{verb}`", end, f"{size} px", f"{patch} px") for end, (size, patch) in zip(ends, inputs, strict=True)
        ]
    return table(("Verb", "Short side of your images (median)", "`--img-size`", "`--patch-size`"), rows)


def budgets_table() -> str:
    """Model and images shown by the number of training images, as `pretrain` chooses them for a folder."""
    ends = (f"under {SMALL_SET:,}", f"{SMALL_SET:,} to {LARGE_SET - 1:,}", f"{LARGE_SET:,} and more")
    rows = [(end, f"`{name}`", f"{views:,}") for end, (name, views) in zip(ends, MASKED_VIEWS.items(), strict=True)]
    least, most = MASKED_EPOCHS
    return table(("Training images", "`--model`", f"Images shown ({least} to {most:,} epochs)"), rows)


def studies_table() -> str:
    return table(("Study", "Question"), [(f"`{name}`", study.question) for name, study in STUDIES.items()])


TABLES = {  # page -> name of the table -> what writes it
    "models.md": {"models": models_table},
    "recipes.md": {"recipes": recipes_table},
    "images.md": {"sizes": sizes_table, "budgets": budgets_table},
    "studies.md": {"studies": studies_table},
}


PAGES = ("../README.md", *sorted(path.name for path in HERE.glob("*.md")))


def with_tables(page: str) -> str:
    """The text of a page with its tables as they should be."""
    text = (HERE / page).read_text()
    if "<!-- results:" in text:
        made = tables(HERE.parent / "results")
        pattern = r"(<!-- results: ([\w-]+) -->\n\n).*?(\n\n<!-- end -->)"
        text = re.sub(pattern, lambda m: m[1] + made[m[2]] + m[3], text, flags=re.DOTALL)
    for name, write in TABLES.get(page, {}).items():
        pattern = rf"(<!-- {name} -->\n\n).*?(\n\n<!-- end -->)"
        text, found = re.subn(pattern, lambda m, write=write: m[1] + write() + m[2], text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{page} has {found} places for the table {name!r}")
    return text


# ---------------------------------------------------------------------------------------------------------------------
# Figures


def draw_hidden(plt) -> None:
    """The hidden size of Eq. 15 and the experts of each layer of the models with experts."""
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
    """Where the parameters and the multiply-accumulates of the named models lie, as shares."""
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
    """A digit, what three quarters of masking leave of it, and the sequences that encoder and decoder get."""
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
    axes[0].set_title("picture")
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
    matplotlib.rcParams.update({"svg.hashsalt": "feathervit", "font.size": 9})  # the same file each time
    import matplotlib.pyplot as plt

    (HERE / "figures").mkdir(exist_ok=True)
    for draw in (draw_hidden, draw_budget, draw_masks):
        draw(plt)
    for page in PAGES:
        text = with_tables(page)
        (HERE / page).write_text(text)


if __name__ == "__main__":
    main()
