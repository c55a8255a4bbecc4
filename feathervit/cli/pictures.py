"""The verbs that look into a model: `probe`, and those of the room `pictures`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..errors import CheckpointError
from .printing import add_row, new_console, new_table, print_json, set_threads

SHOWN = 6  # pictures of the data that are drawn
COUNTED = 512  # pictures of the data by which the use of the experts is counted


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
    from ..models import MaskedAutoencoder
    from ..pictures.reconstructions import write_reconstructions
    from ..pictures.subject import own_data, read_pictures
    from ..training.checkpoint import load_model, load_weights

    stored = load_weights(args.checkpoint)
    model, config = load_model(stored, args.checkpoint), stored.config
    if not isinstance(model, MaskedAutoencoder):
        raise CheckpointError(f"{args.checkpoint} is a classifier; reconstructions need a run of feathervit pretrain")
    images = read_pictures(args.pictures, stored) if args.pictures else own_data(config).images[:8]
    print(write_reconstructions(model, images, config, Path(args.out)))
    return 0


@dataclass
class PicturesRouting:
    """The experts of each patch in each layer, over the picture, and the use of the experts by class, as a PNG."""

    checkpoint: Positional[str]
    """A weights file or a run folder; of pre-training or of a classifier."""
    pictures: Positional[tuple[str, ...]] = ()
    """Picture files; if not given, some of the data it was trained on (test, else val, else train), and the use by class."""
    out: str = "routing.png"
    """The PNG file to write."""


def pictures_routing(args: PicturesRouting, _: dict) -> int:
    from ..pictures.routing import write_routing
    from ..pictures.subject import load_encoder, own_data, read_pictures, some

    encoder, stored = load_encoder(args.checkpoint)
    if args.pictures:
        images, labelled = read_pictures(args.pictures, stored), None
    else:
        data = own_data(stored.config)
        images, labelled = some(data, SHOWN).images, some(data, COUNTED)
    print(write_routing(encoder, images, stored.config, Path(args.out), labelled))
    return 0


@dataclass
class PicturesAttention:
    """Where the read-out token looks, in the last layer's heads and through all layers (rollout), as a PNG."""

    checkpoint: Positional[str]
    """A weights file or a run folder; of pre-training or of a classifier."""
    pictures: Positional[tuple[str, ...]] = ()
    """Picture files; some of the data it was trained on (test, else val, else train) if not given."""
    out: str = "attention.png"
    """The PNG file to write."""


def pictures_attention(args: PicturesAttention, _: dict) -> int:
    from ..pictures.attention import write_attention
    from ..pictures.subject import load_encoder, own_data, read_pictures, some

    encoder, stored = load_encoder(args.checkpoint)
    if args.pictures:
        images = read_pictures(args.pictures, stored)
    else:
        images = some(own_data(stored.config), SHOWN).images
    print(write_attention(encoder, images, stored.config, Path(args.out)))
    return 0


@dataclass
class PicturesPatches:
    """The filters of the patch embedding, as a PNG."""

    checkpoint: Positional[str]
    """A weights file or a run folder; of pre-training or of a classifier."""
    out: str = "patches.png"
    """The PNG file to write."""


def pictures_patches(args: PicturesPatches, _: dict) -> int:
    from ..pictures.patches import write_patches
    from ..pictures.subject import load_encoder

    encoder, _ = load_encoder(args.checkpoint)
    print(write_patches(encoder, Path(args.out)))
    return 0


@dataclass
class PicturesPositions:
    """How alike the learned positions of the patches are, as a PNG."""

    checkpoint: Positional[str]
    """A weights file or a run folder; of pre-training or of a classifier."""
    out: str = "positions.png"
    """The PNG file to write."""


def pictures_positions(args: PicturesPositions, _: dict) -> int:
    from ..pictures.positions import write_positions
    from ..pictures.subject import load_encoder

    encoder, stored = load_encoder(args.checkpoint)
    print(write_positions(encoder, stored.config, Path(args.out)))
    return 0


@dataclass
class Report:
    """The report of a finished run as one HTML page in its folder, and as PNGs: figures, curves, mistakes, data, settings."""

    run: Positional[str]
    """The run folder."""


def report(args: Report, _: dict) -> int:
    from ..pictures.report import report as write

    print(write(args.run))
    return 0
