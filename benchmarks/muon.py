"""Compares the time of our orthogonalisation in Muon with the plain iteration, for the hidden matrices of a model.

Command: python benchmarks/muon.py --model feather_xxs
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from feathervit.models import create_model
from feathervit.training.muon import COEFFICIENTS, EPS, ITERATIONS, hidden_matrices, orthogonalise


def plain(update_MRC: Tensor) -> Tensor:
    """Runs the iteration of the reference implementation in batches. Every product has the full number of columns."""
    a, b, c = COEFFICIENTS
    tall = update_MRC.shape[-2] > update_MRC.shape[-1]
    x = update_MRC.mT if tall else update_MRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def milliseconds(function: Callable[[Tensor], Tensor], stacks: list[Tensor], repeats: int) -> float:
    """Measures the median milliseconds for all stacks."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for stack in stacks:
            function(stack)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="feather_xxs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=31)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = create_model(args.model, num_classes=100)
    shapes = Counter(tuple(model.get_parameter(name).flatten(1).shape) for name in hidden_matrices(model))
    stacks = [torch.randn(n, *shape) for shape, n in shapes.items()]
    before, after = milliseconds(plain, stacks, args.repeats), milliseconds(orthogonalise, stacks, args.repeats)
    print(
        f"{args.model}, {args.threads} thread(s): plain {before:.1f} ms, ours {after:.1f} ms, ratio {before / after:.2f}"
    )


if __name__ == "__main__":
    main()
