"""Draws the experts of each patch in each layer, over the image, and the use of the experts by class.

Legend: B batch, N tokens (prefix tokens first), E experts, G grid side, K classes, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.patches import Patch
from torch import Tensor

from ..config import RunConfig
from ..data import ImageSet
from ..data.image import as_input, resize
from ..errors import ConfigError
from ..models import Encoder
from .figures import COLOURS, new_figure, save, short, titled
from .tiles import enlarge, over, rgb, tiles

BATCH = 64
SIDE = 96  # px, minimum side of an image


@torch.inference_mode()
def gates(encoder: Encoder, images_BCRR: Tensor, config: RunConfig) -> dict[int, Tensor]:
    """Returns layer -> gates [B, N, E] on the CPU, for stored uint8 images. Raises ConfigError for a model without experts."""
    encoder.eval()
    x_BCSS = as_input(images_BCRR.to(encoder.norm.weight.device), config)
    named = encoder.intermediates(x_BCSS, ("gate",))
    by_layer = {int(name.split(".")[1]): gate.float().cpu() for name, gate in named.items()}
    if not by_layer:
        raise ConfigError(f"{config.model} has no layer with more than one expert, so it has no routing")
    return by_layer


def expert_use(encoder: Encoder, images: ImageSet, config: RunConfig) -> dict[int, np.ndarray]:
    """Returns layer -> [K, E]: the share of the tokens of a class that are routed to an expert, in evaluation mode.

    A row sums to k, the number of experts per token. Rows of classes without images are NaN. Raises ConfigError for a model
    without experts.
    """
    counts: dict[int, Tensor] = {}
    index_K = torch.zeros(len(images.class_names), dtype=torch.float64)
    for start in range(0, len(images), BATCH):
        labels_B = images.labels[start : start + BATCH]
        index_K.index_add_(0, labels_B, torch.ones(len(labels_B), dtype=torch.float64))
        for layer, gate_BNE in gates(encoder, images.images[start : start + BATCH], config).items():
            share_BE = (gate_BNE > 0).double().mean(1)
            sums_KE = counts.setdefault(layer, share_BE.new_zeros(len(index_K), share_BE.shape[1]))
            sums_KE.index_add_(0, labels_B, share_BE)
    return {layer: (sums_KE / index_K.unsqueeze(1)).numpy() for layer, sums_KE in counts.items()}


def experts_map(gate_NE: np.ndarray, side: int) -> np.ndarray:
    """Returns [side, side], the expert to draw at each pixel. `side` is a multiple of the grid side.

    The width of each patch is divided among its experts in proportion to the gates, from left to right, largest first.
    """
    grid = round(len(gate_NE) ** 0.5)
    wide = side // grid
    order_NE = np.argsort(-gate_NE, axis=1, kind="stable")
    upto_NE = np.take_along_axis(gate_NE, order_NE, 1).cumsum(1)
    middle_W = (np.arange(wide) + 0.5) / wide
    rank_NW = (upto_NE[:, None, :-1] < middle_W[:, None]).sum(-1)
    expert_GS = np.take_along_axis(order_NE, rank_NW, 1).reshape(grid, side)
    return expert_GS.repeat(wide, 0)


def write_routing(
    encoder: Encoder,
    images_BCRR: Tensor,
    config: RunConfig,
    path: Path,
    labelled: ImageSet | None = None,
    names: Sequence[str] = (),
) -> Path:
    """Writes a PNG: each image, then the experts of its patches per layer (see `experts_map`).

    `names` are drawn beside the images. With `labelled`, the use of the experts by class is drawn below. Raises ConfigError
    and RunFolderError.
    """
    by_layer, prefix = gates(encoder, images_BCRR, config), encoder.num_prefix_tokens
    images_B3SS = enlarge(rgb(resize(images_BCRR, config.img_size)), SIDE)
    most = max(gate.shape[-1] for gate in by_layer.values())
    palette_E3 = np.array([matplotlib.colors.to_rgb(COLOURS[e % len(COLOURS)]) for e in range(most)])
    rows = []
    for b, image in enumerate(images_B3SS):
        maps = [palette_E3[experts_map(gate[b][prefix:].numpy(), image.shape[-1])] for gate in by_layer.values()]
        rows.append(torch.cat([image[None], over(image, torch.from_numpy(np.stack(maps)).movedim(-1, 1), 0.65)]))
    canvas = tiles(rows, names, ["image", *(f"layer {layer + 1}" for layer in by_layer)])
    use = expert_use(encoder, labelled, config) if labelled is not None else {}
    width, height = canvas.width / 90, canvas.height / 90
    below = 0.6 + 0.22 * len(labelled.class_names) if use else 0.0
    figure = new_figure(max(width, 5), height + 0.5 + below)
    axes = figure.subplots(2 if use else 1, 1, height_ratios=[height, below] if use else None, squeeze=False)[:, 0]
    axes[0].imshow(canvas)
    axes[0].axis("off")
    titled(axes[0], "Experts of each patch")
    keys = [Patch(color=colour, label=f"expert {e + 1}") for e, colour in enumerate(map(tuple, palette_E3))]
    figure.legend(handles=keys, loc="outside upper center", ncols=min(most, 8), frameon=False, fontsize=9)
    if use:
        draw_use(axes[1], use, labelled.class_names)
    return save(figure, path)


def draw_use(axes, use: dict[int, np.ndarray], class_names: tuple[str, ...]) -> None:
    """Draws the use of the experts: one row per class, one column per expert. Darker cells have more tokens."""
    edges = np.cumsum([0, *(share.shape[1] for share in use.values())])
    drawn = axes.imshow(np.concatenate(list(use.values()), 1), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for edge in edges[1:-1]:
        axes.axvline(edge - 0.5, color="white", linewidth=3)
    axes.set_xticks((edges[:-1] + edges[1:] - 1) / 2, [f"layer {layer + 1}" for layer in use], fontsize=8)
    axes.set_yticks(range(len(class_names)), list(map(short, class_names)), fontsize=8, parse_math=False)
    axes.tick_params(length=0)
    axes.figure.colorbar(drawn, ax=axes, label="share of the tokens\nper expert", fraction=0.03, pad=0.01)
    titled(axes, "Use of the experts by class")
