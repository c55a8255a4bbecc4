"""Weights files: not safetensors, false headers, and false content with a correct checksum."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save

from .case import Case, Make, copy, file, forged, put, raw_safetensors

EVALUATE = "evaluate {here}/w.safetensors"
PREDICT = "predict {here}/w.safetensors {world}/good.png"
FROM = "train --data {world}/set --out {here}/out --from {here}/w.safetensors"
TEACHER = "train --data {world}/set --out {here}/out --objective distillation --teacher {here}/w.safetensors"
PROBE = "probe {here}/w.safetensors"
EXPORT = "export {here}/w.safetensors --out {here}/out"
ATTENTION = "plot attention {here}/w.safetensors {world}/good.png --out {here}/a.png"
ROUTING = "plot routing {here}/w.safetensors {world}/good.png --out {here}/a.png"
PATCHES = "plot patches {here}/w.safetensors --out {here}/a.png"
POSITIONS = "plot positions {here}/w.safetensors --out {here}/a.png"
PAINT = "plot reconstructions {here}/w.safetensors {world}/good.png --out {here}/a.png"
ANY = (EVALUATE, PREDICT, FROM, TEACHER, PROBE, EXPORT, ATTENTION, ROUTING, PATCHES, POSITIONS, PAINT)


def half(here: Path, world: Path) -> None:
    whole = (world / "run" / "best.safetensors").read_bytes()
    (here / "w.safetensors").write_bytes(whole[: len(whole) // 2])


def at(path: str, of: str) -> Make:
    """Writes another file of the world in place of the weights."""

    def make(here: Path, world: Path) -> None:
        (here / path).write_bytes((world / of).read_bytes())

    return make


def link(target: str) -> Make:
    return lambda here, world: (here / "w.safetensors").symlink_to(here / target)


def sparse(here: Path, world: Path) -> None:
    with (here / "w.safetensors").open("wb") as out:
        out.write(raw_safetensors({"w": tensor("U8", [1 << 34], 0, 1 << 34)}))
        out.truncate(1 << 34)  # takes no room on the disk


def tensor(dtype: str, shape: list, first: int, last: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


W = tensor("F32", [2], 0, 8)
NOT_WEIGHTS = {  # name: content, or function that makes the file
    "eight zeros": b"\0" * 8,
    "the first half": half,
    "a length beyond the file": raw_safetensors({"w": W}, b"\0" * 8, length=10_000),
    "a length of exabytes": raw_safetensors({"w": W}, b"\0" * 8, length=1 << 62),
    "a length below 0": raw_safetensors({"w": W}, b"\0" * 8, length=(1 << 64) - 1),
    "a header that is not JSON": raw_safetensors(b"{'w': 1}"),
    "a header of invalid UTF-8": raw_safetensors(b'{"\xff": {}}'),
    "a header that is a list": raw_safetensors([1, 2]),
    "a header nested deeply": raw_safetensors(b'{"w":' * 5000 + b"1" + b"}" * 5000),
    "a tensor without shape": raw_safetensors({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8),
    "an unknown type": raw_safetensors({"w": tensor("F33", [2], 0, 8)}, b"\0" * 8),
    "a shape below 0": raw_safetensors({"w": tensor("F32", [-2], 0, 8)}, b"\0" * 8),
    "a shape that is a text": raw_safetensors({"w": tensor("F32", "2", 0, 8)}, b"\0" * 8),
    "sizes that overflow": raw_safetensors({"w": tensor("F32", [1 << 62, 1 << 62], 0, 8)}, b"\0" * 8),
    "a place beyond the file": raw_safetensors({"w": tensor("F32", [2], 800, 808)}, b"\0" * 8),
    "a place below 0": raw_safetensors({"w": tensor("F32", [2], -8, 0)}, b"\0" * 8),
    "places that overlap": raw_safetensors({"a": W, "b": tensor("F32", [2], 4, 12)}, b"\0" * 12),
    "a hole between places": raw_safetensors({"a": W, "b": tensor("F32", [2], 16, 24)}, b"\0" * 24),
    "bytes behind the last tensor": raw_safetensors({"w": W}, b"\0" * 80),
    "metadata of numbers": raw_safetensors({"__metadata__": {"feathervit": 1}, "w": W}, b"\0" * 8),
    "a folder": lambda here, world: (here / "w.safetensors").mkdir(),
    "a pipe": lambda here, world: os.mkfifo(here / "w.safetensors"),
    "a link to nothing": link("nothing"),
    "a link to itself": link("w.safetensors"),
    "a file of 16 GiB": sparse,
}
MESSAGES = {"a folder": "no checkpoint", "a pipe": "not a file", "a link to nothing": "no checkpoint"}

NOT_OURS = [
    Case(
        "weights: a checksum of another content",
        PROBE,
        ["checksum"],
        file("w.safetensors", save({"w": torch.zeros(2)}, {"feathervit": "{}", "checksum": "0" * 32})),
    ),
    Case(
        "weights: a training state", PREDICT, ["not a weights file"], at("w.safetensors", "stopped/state.safetensors")
    ),
    Case("weights: a missing file", EVALUATE, ["no checkpoint", "w.safetensors"]),
    Case("weights: a name of 5000 letters", ["evaluate", "w" * 5000], ["name too long"]),
    Case("weights: in a file as if it were a folder", "evaluate {world}/good.png/w", ["not a directory", "good.png"]),
    Case("weights: an empty folder", "evaluate {here}", ["no checkpoint"]),
]

CONFIG = "run/best.safetensors"


def meta(change) -> Make:
    return forged(lambda tensors, found: change(found))


def config(field: str, new) -> Make:
    return forged(lambda tensors, found: put(found["config"], field, new))


def tensors(change) -> Make:
    return forged(lambda found, meta: change(found))


def first(found: dict) -> str:
    return next(name for name in sorted(found) if found[name].ndim == 2)


def only_nan(found: dict) -> None:
    found[first(found)][0, 0] = float("nan")


def only_inf(found: dict) -> None:
    found[first(found)][0, 0] = -float("inf")


def change_first(to):
    def change(found: dict) -> None:
        found[first(found)] = to(found[first(found)])

    return change


FORGED = [  # the checksum is correct, because anyone who forges the content can compute it
    ("no configuration", PREDICT, meta(lambda m: m.pop("config")), "config"),
    ("a configuration that is null", EXPORT, meta(lambda m: m.update(config=None)), "config"),
    ("another format", FROM, meta(lambda m: m.update(format=99)), "format 99"),
    ("no class names", EVALUATE, meta(lambda m: m.update(class_names=[])), "no class names"),
    ("class names that are numbers", PREDICT, meta(lambda m: m.update(class_names=[1, 2, 3])), "no class names"),
    ("fewer class names than outputs", PREDICT, meta(lambda m: m.update(class_names=["a", "b"])), "do not match"),
    ("one class name twice", PREDICT, meta(lambda m: m.update(class_names=["a", "b", "a"])), "class names"),
    ("no channels", ATTENTION, meta(lambda m: m.pop("in_chans")), "in_chans"),
    ("a million channels", ROUTING, meta(lambda m: m.update(in_chans=10**6)), "in_chans"),
    ("channels that are true", PATCHES, meta(lambda m: m.update(in_chans=True)), "in_chans"),
    ("other channels than the filters", PATCHES, meta(lambda m: m.update(in_chans=1)), "do not match"),
    ("an unknown model", EVALUATE, config("model", "mlit_none"), "mlit_none"),
    ("another model with its architecture gone", PREDICT, config("arch", None), "do not match"),
    ("a timm model with an architecture", PREDICT, config("model", "timm:resnet10t"), "arch"),
    ("a width of a trillion", PREDICT, config("arch.dim", 1 << 40), "arch.dim"),
    ("a depth of a trillion", EVALUATE, config("arch.depth", 1 << 40), "do not match"),
    ("a depth that is not the weights'", PROBE, config("arch.depth", 2), "do not match"),
    ("heads that do not divide", ATTENTION, config("arch.attention.heads", 7), "7 heads"),
    ("a trillion experts", ROUTING, config("arch.feedforward.experts", [1 << 40]), "do not match"),
    ("experts below 0", ROUTING, config("arch.feedforward.experts", [-1]), "experts"),
    ("no stages of experts", ROUTING, config("arch.feedforward.experts", []), "experts"),
    ("a top_k above the number of experts", ROUTING, config("arch.feedforward.top_k", 99), "top_k"),
    ("a part of another kind", EVALUATE, config("arch.feedforward.kind", "Latent"), "feedforward"),
    ("a part of an unknown kind", EVALUATE, config("arch.patches", {"kind": "Nothing"}), "patches"),
    ("a trillion class tokens", EVALUATE, config("arch.class_tokens", 1 << 40), "class_tokens"),
    ("an image size the patches do not divide", PREDICT, config("img_size", 17), "patch size 8"),
    ("an image size the positions do not fit", PREDICT, config("img_size", 64), "do not match"),
    ("no patch size", POSITIONS, config("patch_size", None), "do not match"),
    ("a mean that is not a number", PREDICT, config("images.mean", [float("nan")]), "images.mean"),
    ("a deviation of 0", PREDICT, config("images.std", [0.0]), "images.std"),
    ("means of two channels", PREDICT, config("images", {"mean": [0.5] * 2, "std": [0.5] * 2}), "channels"),
    ("an integer too large for a float", PREDICT, config("lr", 10**400), "lr"),
    ("an unknown field", EVALUATE, config("surprise", 1), "surprise"),
    ("a field of another type", EVALUATE, config("epochs", "many"), "epochs"),
    ("pre-training's objective", PAINT, config("objective", "reconstruction"), "decoder"),
    ("no tensors", EVALUATE, tensors(lambda t: t.clear()), "do not match"),
    ("a tensor missing", PREDICT, tensors(lambda t: t.pop(first(t))), "do not match"),
    ("a tensor too many", PROBE, tensors(lambda t: t.update(more=torch.zeros(3))), "do not match"),
    ("a tensor under another name", EXPORT, tensors(lambda t: t.update(w=t.pop(first(t)))), "do not match"),
    ("a tensor of another shape", PREDICT, tensors(change_first(lambda w: w.T.contiguous().view(-1))), "do not match"),
    ("weights that are integers", PREDICT, tensors(change_first(lambda w: w.long())), "do not match"),
    ("weights of complex numbers", EVALUATE, tensors(change_first(lambda w: w.to(torch.complex64))), "do not match"),
    ("a weight that is not a number", PREDICT, tensors(only_nan), "finite"),
    ("a weight that is infinite", EVALUATE, tensors(only_inf), "finite"),
    ("a weight to start from that is not a number", FROM, tensors(only_nan), "finite"),
    ("to start from, with a tensor missing", FROM, tensors(lambda t: t.pop("patch_embed.proj.weight")), "is missing"),
    ("to start from, with a tensor of another shape", FROM, tensors(change_first(lambda w: w.T[:1])), "[1, 16] there"),
    ("a teacher of other classes", TEACHER, meta(lambda m: m.update(class_names=["x", "y", "z"])), "classes"),
    ("data that no longer exists", EVALUATE, config("data", "/no/such/set"), "/no/such/set"),
    ("unnamed data", EVALUATE, config("data", ""), "data"),
    ("data that were arrays", EVALUATE, config("data", "arrays"), "arrays"),
    ("data that were arrays, probed", PROBE, config("data", "arrays"), "arrays"),
    ("data that were arrays, exported", EXPORT, config("data", "arrays"), "arrays"),
    ("data of a missing user", EVALUATE, config("data", "~nobody-of-that-name/set"), "nobody-of-that-name"),
    (
        "a missing fold",
        EVALUATE + " --split val --data {world}/set/train",
        config("split", {"folds": 3, "fold": 9}),
        "fold",
    ),
]

MISUSED = [
    Case("weights: reconstructions of a classifier", PAINT, ["classifier"], at("w.safetensors", CONFIG)),
    *(
        Case(
            f"weights: pre-trained, for {verb.split()[0]}",
            verb,
            ["pre-trained"],
            at("w.safetensors", "pretrained/best.safetensors"),
        )
        for verb in (EVALUATE, PREDICT, EXPORT)
    ),
    Case("weights: a pre-trained teacher", TEACHER, ["classes"], at("w.safetensors", "pretrained/best.safetensors")),
    Case(
        "weights: of another patch size to start from",
        FROM + " --patch-size 4",
        ["patch_size"],
        at("w.safetensors", CONFIG),
    ),
    Case(
        "weights: hub folder with weights of another kind",
        "predict {here}/hub {world}/good.png",
        ["hub", "not a safetensors file"],
        copy("hub", lambda hub: (hub / "model.safetensors").write_text("version https://git-lfs")),
    ),
    Case(
        "weights: hub folder without weights",
        "evaluate {here}/hub",
        ["no checkpoint"],
        copy("hub", lambda hub: (hub / "model.safetensors").unlink()),
    ),
    Case("weights: ONNX file", "predict {world}/onnx/model.onnx {world}/good.png", ["safetensors"]),
    Case("weights: ONNX folder", "predict {world}/onnx {world}/good.png", ["no checkpoint"]),
    Case("weights: study folder", "evaluate {world}/study", ["no checkpoint"]),
]

CASES = [
    *(
        Case(
            f"weights: {what}",
            ANY[i % len(ANY)],
            ["w.safetensors", MESSAGES.get(what, "damaged")],
            content if callable(content) else file("w.safetensors", content),
        )
        for i, (what, content) in enumerate(NOT_WEIGHTS.items())
    ),
    *NOT_OURS,
    *(Case(f"weights: {what}", argv, [word], make) for what, argv, make, word in FORGED),
    *MISUSED,
]
