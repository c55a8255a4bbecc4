"""Compares speed and peak memory of our mixture-of-experts layer and training step with literal dispatch.

The benchmark runs on the CPU (or with --device cuda). The layer: forward + backward and inference of 18,560 tokens (batch 128
of 145), with the widths, hidden sizes and experts of the paper. The step: forward, backward and AdamW of `mlit_xxs` and
`mlit_s`, batch 128, 36 px. The baseline is a step of the same model with literal dispatch and PyTorch's linear layers.

Literal dispatch is figure 3 of the paper in eager PyTorch. The gate uses topk, softmax and scatter over the experts of each
token. Then each expert indexes its tokens, applies its SwiGLU, and scatters the result back, weighted by the gate. Two other
exact forms of the layer are measured: folded with only the selected experts, and folded with standard operators. On the CPU,
our layer uses its fast implementation.

All forms take turns in every round, in one process; the results are medians of `--rounds`. Peak memory on the CPU is the
resident memory of one process per form, including the program. On a GPU, it is the peak of the allocator.

    python benchmarks/moe.py --threads 2 --out results/moe.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in the command line; must be set before torch is imported

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feathervit.benchmark.memory import peak_bytes
from feathervit.config import LossConfig, MoEConfig
from feathervit.device import wait
from feathervit.export.verify import race
from feathervit.models import create_model
from feathervit.models.fast import accelerate
from feathervit.models.moe import NoisyTopKGate, SharedVW2, coefficient_of_variation
from feathervit.results import commit, machine, write_json
from feathervit.training.objectives import Classification

SIZES = ((108, 81, 3), (108, 54, 4), (108, 27, 5), (144, 144, 3), (144, 72, 5))  # width, hidden, experts
MODELS = ("mlit_xxs", "mlit_s")


def literal_gate(gate: NoisyTopKGate, x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Computes equations 2-6 and 10-12 step by step, on [tokens, experts], with the weights of our gate."""
    k, config = gate.config.top_k, gate.config
    clean_TE = gate.w_gate(x_TD)
    h_TE = clean_TE
    if gate.training:
        scale_TE = F.softplus(gate.w_noise(x_TD)).clamp_min(1e-6)
        h_TE = clean_TE + torch.randn_like(clean_TE) * scale_TE
    top, index = h_TE.topk(k + 1, dim=-1)
    gate_TE = torch.zeros_like(h_TE).scatter(-1, index[:, :k], top[:, :k].softmax(-1))
    if not gate.training:
        return gate_TE, clean_TE.new_zeros(())
    psi_TE = torch.where(h_TE >= top[:, k - 1 : k], top[:, k:], top[:, k - 1 : k])
    chance_TE = torch.special.ndtr((clean_TE - psi_TE) / scale_TE)
    importance = config.importance_weight * coefficient_of_variation(gate_TE.sum(0))
    return gate_TE, importance + config.load_weight * coefficient_of_variation(chance_TE.sum(0))


class LiteralDispatch(nn.Module):
    """Computes the layer by dispatching tokens to their experts. Shares the weights of a `SharedVW2`."""

    def __init__(self, layer: SharedVW2):
        super().__init__()
        self.layer = layer

    def forward(self, x_BND: Tensor, _: object = None) -> tuple[Tensor, Tensor]:
        layer = self.layer
        x_TD = x_BND.flatten(0, 1)
        gate_TE, balance = literal_gate(layer.gate, x_TD)
        out_TD = torch.zeros_like(x_TD)
        weights = layer.w.weight.view(layer.experts, layer.hidden, -1)
        biases = layer.w.bias.view(layer.experts, layer.hidden)
        for e in range(layer.experts):
            (index_T,) = torch.where(gate_TE[:, e] > 0)
            x_expert = x_TD[index_T]
            h = F.silu(F.linear(x_expert, weights[e], biases[e])) * layer.v(x_expert)
            y = layer.drop(layer.w2(h)) * gate_TE[index_T, e, None]
            out_TD = out_TD.index_add(0, index_T, y)
        return out_TD.view_as(x_BND), balance


class ChosenOnly(nn.Module):
    """Computes the folded layer: V and W2 once per token, and W of each expert only for its selected tokens."""

    def __init__(self, layer: SharedVW2):
        super().__init__()
        self.layer = layer

    def forward(self, x_BND: Tensor, _: object = None) -> tuple[Tensor, Tensor]:
        layer = self.layer
        gate_BNE, balance = layer.gate(x_BND)
        x_TD, gate_TE = x_BND.flatten(0, 1), gate_BNE.flatten(0, 1)
        mixed_TF = x_TD.new_zeros(len(x_TD), layer.hidden)
        weights = layer.w.weight.view(layer.experts, layer.hidden, -1)
        biases = layer.w.bias.view(layer.experts, layer.hidden)
        for e in range(layer.experts):
            (index_T,) = torch.where(gate_TE[:, e] > 0)
            h = F.silu(F.linear(x_TD[index_T], weights[e], biases[e])) * gate_TE[index_T, e, None]
            mixed_TF = mixed_TF.index_add(0, index_T, h)
        return layer.drop(layer.w2(mixed_TF * layer.v(x_TD))).view_as(x_BND), balance


class Folded(nn.Module):
    """Computes the folded layer with all experts as one product, with standard operators as in a compiled graph."""

    def __init__(self, layer: SharedVW2):
        super().__init__()
        self.layer = layer

    def forward(self, x_BND: Tensor, _: object = None) -> tuple[Tensor, Tensor]:
        gate_BNE, balance = self.layer.gate(x_BND)
        return self.layer.drop(self.layer.mixture(x_BND, gate_BNE)), balance


LAYERS = {"literal": LiteralDispatch, "chosen": ChosenOnly, "folded": Folded}


def layer_works(form: str, dim: int, hidden: int, experts: int, batch: int, device: str) -> dict:
    """Returns the functions of a layer to measure: "train" and "infer"."""
    torch.manual_seed(0)
    ours = SharedVW2(dim, hidden, experts, MoEConfig()).to(device)
    if form == "ours" and device == "cpu":
        accelerate(ours, torch.float32)
    layer = ours if form == "ours" else LAYERS[form](ours)
    x = torch.randn(batch, 145, dim, device=device, requires_grad=True)
    dy = torch.randn(batch, 145, dim, device=device)

    def train() -> None:
        layer.train()
        y, balance = layer(x)
        torch.autograd.grad([y, balance], [x, *ours.parameters()], [dy, torch.ones_like(balance)])

    def infer() -> None:
        layer.eval()
        with torch.inference_mode():
            layer(x)

    return {f"train_{form}": train, f"infer_{form}": infer}


def step_work(form: str, name: str, batch: int, device: str):
    """Returns a function that performs a training step of a model, without data and augmentation."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=100)
    if form == "literal":
        for layer in model.blocks:
            layer.ffn = LiteralDispatch(layer.ffn)
    elif device == "cpu":
        accelerate(model, torch.float32)
    objective = Classification(model, LossConfig()).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.randn(batch, 3, 36, 36, device=device)
    targets = (torch.arange(batch) % 100).to(device)

    def step() -> None:
        loss, _ = objective(x, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return {f"step_{form}": step}


def compare(works, forms, args: argparse.Namespace) -> dict:
    """Measures the milliseconds of each form, and the ratio of literal dispatch to ours for each kind of work."""
    functions = {}
    for form in ("ours", *forms):
        for name, work in works(form).items():
            functions[name] = lambda work=work: (work(), wait(torch.device(args.device)))
    median = race(functions, args.rounds)
    kinds = [name.removesuffix("_ours") for name in median if name.endswith("_ours")]
    ratios = {f"{kind}_ratio": round(median[f"{kind}_literal"] / median[f"{kind}_ours"], 3) for kind in kinds}
    return {f"{name}_ms": round(value, 2) for name, value in median.items()} | ratios


def peak_mb(args: argparse.Namespace, form: str, what: str) -> float:
    """Measures the peak memory of three runs of one function, on the CPU in a separate process."""
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work_thrice(args, form, what)
        return torch.cuda.max_memory_allocated() / 1e6
    arguments = ["--threads", args.threads, "--batch", args.batch, "--memory", form, what]
    run = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=True)
    return float(run.stdout)


def work_thrice(args: argparse.Namespace, form: str, what: str) -> None:
    if what in MODELS:
        work = step_work(form, what, args.batch, args.device)[f"step_{form}"]
    else:
        work = layer_works(form, *map(int, what.split(",")), args.batch, args.device)[f"train_{form}"]
    for _ in range(3):
        work()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS, help="models for the training step")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--memory", nargs=2, metavar=("FORM", "WORK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        work_thrice(args, *args.memory)
        print(peak_bytes() / 1e6)
        return
    peaks = {
        what: {f"peak_{form}_mb": round(peak_mb(args, form, what)) for form in ("ours", "literal")}
        for what in (*args.models, *(",".join(map(str, size)) for size in SIZES))
    }
    layers, steps = [], []
    for size in SIZES:
        row = dict(zip(("dim", "hidden", "experts"), size, strict=True))
        row |= compare(lambda form, size=size: layer_works(form, *size, args.batch, args.device), LAYERS, args)
        layers.append(row | peaks[",".join(map(str, size))])
        print(json.dumps(layers[-1]))
    for name in args.models:
        row = compare(lambda form, name=name: step_work(form, name, args.batch, args.device), ["literal"], args)
        steps.append({"model": name} | row | peaks[name])
        print(json.dumps(steps[-1]))
    summary = {}
    for kind in ("train", "infer"):
        ratios = [row[f"{kind}_ratio"] for row in layers]
        summary[kind] = {
            "geometric_mean": round(math.prod(ratios) ** (1 / len(ratios)), 3),
            "least": min(ratios),
        }
    print(json.dumps(summary))
    if args.out:
        record = {"command": shlex.join(["python", *sys.argv]), "commit": commit(), "machine": machine()}
        record |= {"torch": torch.__version__, "threads": args.threads, "batch": args.batch, "rounds": args.rounds}
        record |= {"device": args.device, "layers": layers, "steps": steps, "summary": summary}
        write_json(args.out, record)


if __name__ == "__main__":
    main()
