"""The verbs that look into a model: `probe`, and those of the room `pictures`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..errors import CheckpointError
from .printing import add_row, new_console, new_table, print_json, set_threads


@dataclass
class Probe:
    """What frozen features know of the classes: nearest neighbours and a linear classifier on them."""

    checkpoint: Positional[str]
    """A weights file or a run folder; of pre-training or of a classifier."""
    data: str | None = None
    """A name or folder with labels; the data the checkpoint was trained on if not given."""
    neighbours: int = 20
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    skip_unreadable: bool = False
    threads: int | None = None
    json: bool = False
    """Print one JSON object on standard output and nothing else."""


def probe(args: Probe, _: dict) -> int:
    from ..evaluation.probe import probe as run

    set_threads(args.threads)
    found = run(
        args.checkpoint,
        args.data,
        neighbours=args.neighbours,
        device=args.device,
        skip_unreadable=args.skip_unreadable,
    )
    if args.json:
        print_json({"checkpoint": args.checkpoint, **found})
        return 0
    table = new_table("features", f"{found['neighbours']} nearest neighbours", "linear classifier")
    for name, figures in found["tokens"].items():
        add_row(table, name, *(f"{100 * figures[kind]['top1']:.2f} %" for kind in ("knn", "linear")))
    console = new_console(False)
    console.print(table)
    console.print(f"top-1 on {found['n']} {found['split']} pictures, fitted on {found['n_train']}", highlight=False)
    return 0


@dataclass
class PicturesReconstructions:
    """Original, masked and reconstructed pictures of a pre-trained auto-encoder, as a PNG."""

    checkpoint: Positional[str]
    """A weights file, or the run folder of a pre-training."""
    pictures: Positional[tuple[str, ...]] = ()
    """Picture files; the first ones of the data it was trained on (test, else train) if not given."""
    out: str = "reconstructions.png"
    """The PNG file to write."""


def pictures_reconstructions(args: PicturesReconstructions, _: dict) -> int:
    import torch

    from ..data import load_data
    from ..data.picture import to_stored
    from ..models import MaskedAutoencoder
    from ..pictures.reconstructions import write_reconstructions
    from ..training.checkpoint import load_model, load_weights

    stored = load_weights(args.checkpoint)
    model, config = load_model(stored, args.checkpoint), stored.config
    if not isinstance(model, MaskedAutoencoder):
        raise CheckpointError(f"{args.checkpoint} is a classifier; reconstructions need a run of feathervit pretrain")
    if args.pictures:
        size, fit = config.img_size, config.images.fit
        images = torch.stack([to_stored(Path(p), size, stored.in_chans, fit) for p in args.pictures])
    else:
        splits = load_data(
            config.data,
            img_size=config.img_size,
            images=config.images,
            split=config.split,
            skip_unreadable=True,
            labelled=False,
        )
        images = (splits.test or splits.train).images[:8]
    print(write_reconstructions(model, images, config, Path(args.out)))
    return 0
