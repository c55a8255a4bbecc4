"""Measures: the mixture-of-experts layer, forward + backward and inference, ours against literal dispatch.

On: the CPU (or --device cuda), 18,560 tokens (batch 128 of 145), at the paper's widths, hidden sizes and experts. Literal
dispatch is what the paper's figure 3 shows, in plain eager PyTorch: for each expert, index its tokens, run its SwiGLU,
scatter back weighted by the gate; the gate is the same. Both run in turn in every round; medians of `--rounds`.

    python benchmarks/moe.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feathervit.config import MoE
from feathervit.models.moe import SharedVW2
from feathervit.results import machine

SIZES = ((108, 81, 3), (108, 54, 4), (108, 27, 5), (144, 144, 3), (144, 72, 5))  # width, hidden, experts


class LiteralDispatch(nn.Module):
    """The same layer with its tokens sent to their experts. Shares the weights of a `SharedVW2`."""

    def __init__(self, layer: SharedVW2):
        super().__init__()
        self.layer = layer

    def forward(self, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.layer
        gate_BNE, balance = layer.gate(x_BND)
        x_TD, gate_TE = x_BND.flatten(0, 1), gate_BNE.flatten(0, 1)
        out_TD = torch.zeros_like(x_TD)
        weights = layer.w.weight.view(layer.experts, layer.hidden, -1)
        biases = layer.w.bias.view(layer.experts, layer.hidden)
        for e in range(layer.experts):
            (index_T,) = torch.where(gate_TE[:, e] > 0)
            mine = x_TD[index_T]
            h = F.silu(F.linear(mine, weights[e], biases[e])) * layer.v(mine)
            y = layer.drop(layer.w2(h)) * gate_TE[index_T, e, None]
            out_TD = out_TD.index_add(0, index_T, y)
        return out_TD.view_as(x_BND), balance


def seconds(run, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(dim: int, hidden: int, experts: int, batch: int, rounds: int, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    ours = SharedVW2(dim, hidden, experts, MoE()).to(device)
    forms = {"ours": ours, "literal": LiteralDispatch(ours)}
    x = torch.randn(batch, 145, dim, device=device, requires_grad=True)

    def train(form: nn.Module) -> None:
        form.train()
        y, balance = form(x)
        torch.autograd.grad((y.sum() + balance), [x, *ours.parameters()])

    def infer(form: nn.Module) -> None:
        form.eval()
        with torch.inference_mode():
            form(x)

    times: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for name, form in forms.items():
            for kind, work in (("train", train), ("infer", infer)):
                times.setdefault(f"{kind}_{name}", []).append(seconds(lambda f=form, w=work: w(f), device))
    median = {k: statistics.median(v[1:]) for k, v in times.items()}  # the first round warms up
    return {
        "dim": dim,
        "hidden": hidden,
        "experts": experts,
        **{f"{k}_ms": round(1e3 * v, 2) for k, v in median.items()},
        "train_ratio": round(median["train_literal"] / median["train_ours"], 3),
        "infer_ratio": round(median["infer_literal"] / median["infer_ours"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [compare(*size, args.batch, args.rounds, args.device) for size in SIZES]
    for row in rows:
        print(json.dumps(row))
    for kind in ("train", "infer"):
        ratios = [row[f"{kind}_ratio"] for row in rows]
        print(f"{kind}: geometric mean {math.prod(ratios) ** (1 / len(ratios)):.2f}, least {min(ratios):.2f}")
    print(json.dumps({"machine": machine(), "torch": torch.__version__, **vars(args)}))


if __name__ == "__main__":
    main()
