"""Implements Muon with stacked Newton-Schulz iterations, and AdamW for parameters that are not hidden matrices.

Matrices of the same shape are orthogonalised in one batched product. A step therefore runs a few large kernels instead of about
a thousand small ones. The optimiser follows the reference implementation (Keller Jordan, 2024): momentum 0.95 with Nesterov,
five iterations of a quintic, updates scaled by sqrt(max(1, rows / columns)), decoupled weight decay.

Legend: M matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ..models.readout import output_layers

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, chosen for the fastest growth of small singular values
ITERATIONS = 5
EPS = 1e-7


def orthogonalise(update_MRC: Tensor) -> Tensor:
    """Approximates the nearest semi-orthogonal matrices: the singular values are between about 0.7 and 1.2.

    Takes and returns [M, R, C]. Computes in bfloat16 on CUDA and in float32 elsewhere.
    """
    x_MRC = update_MRC.bfloat16() if update_MRC.is_cuda else update_MRC.float()
    tall = x_MRC.shape[-2] > x_MRC.shape[-1]
    if tall:
        x_MRC = x_MRC.mT
    x_MRC = x_MRC / (x_MRC.norm(dim=(-2, -1), keepdim=True) + EPS)
    if x_MRC.is_cuda or x_MRC.shape[-1] < 2 * x_MRC.shape[-2]:
        for _ in range(ITERATIONS):
            x_MRC = torch.baddbmm(x_MRC, _quadratic(torch.bmm(x_MRC, x_MRC.mT)), x_MRC, beta=COEFFICIENTS[0])
    else:  # the same product with small Gram matrices; the precision of bfloat16 is too low for it
        gram_MRR = torch.bmm(x_MRC, x_MRC.mT)  # less overhead than the operator @
        product_MRR = p_MRR = _polynomial(gram_MRR)
        for _ in range(ITERATIONS - 1):
            gram_MRR = torch.bmm(torch.bmm(p_MRR, gram_MRR), p_MRR)
            p_MRR = _polynomial(gram_MRR)
            product_MRR = torch.bmm(p_MRR, product_MRR)
        x_MRC = torch.bmm(product_MRR, x_MRC)
    return (x_MRC.mT if tall else x_MRC).to(update_MRC.dtype)


def _quadratic(gram_MRR: Tensor) -> Tensor:
    """Returns bG + cG^2, where G = X X^T."""
    _, b, c = COEFFICIENTS
    return torch.baddbmm(gram_MRR, gram_MRR, gram_MRR, beta=b, alpha=c)


def _polynomial(gram_MRR: Tensor) -> Tensor:
    """Returns aI + bG + cG^2, the factor of X in one iteration."""
    p_MRR = _quadratic(gram_MRR)
    p_MRR.diagonal(dim1=-2, dim2=-1).add_(COEFFICIENTS[0])
    return p_MRR


def hidden_matrices(model: nn.Module) -> set[str]:
    """Returns the names of the weights that Muon updates: linear layers and convolutions between input and classifier.

    Excludes the classifier, the projection of a decoder to pixels, convolutions with up to four input channels (the first
    layer) and depth-wise convolutions.
    """
    outer = output_layers(model)
    names = set()
    for name, module in model.named_modules():
        if module in outer:
            continue
        convolution = isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels > 4
        if convolution or isinstance(module, nn.Linear):
            names.add(f"{name}.weight")
    return names


class Muon(torch.optim.Optimizer):
    """Applies Muon to parameter groups with `muon` true, and AdamW to other groups.

    Groups may override `lr`, `weight_decay` and, for AdamW, `betas` and `eps`.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ):
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "muon": False,
            "fused": True,  # PyTorch then restores `step` of AdamW on the device of its parameter
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        stacks: dict[tuple[int, ...], list[tuple[Tensor, Tensor, dict[str, Any]]]] = defaultdict(list)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            if not group["muon"]:
                self._adamw(params, group)
                continue
            grads = [p.grad for p in params]
            buffers = [self._state(p, "momentum") for p in params]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            for p, update in zip(params, torch._foreach_lerp(grads, buffers, group["momentum"]), strict=True):
                flat_RC = update.flatten(1)
                stacks[tuple(flat_RC.shape)].append((p, flat_RC, group))
        for (rows, columns), members in stacks.items():
            scale = max(1, rows / columns) ** 0.5
            updates_MRC = orthogonalise(torch.stack([update for _, update, _ in members]))
            for (p, _, group), update_RC in zip(members, updates_MRC, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update_RC.view_as(p), alpha=-group["lr"] * scale)

    def _state(self, p: Tensor, name: str) -> Tensor:
        state = self.state[p]
        if name not in state:
            state[name] = torch.zeros_like(p) if name != "step" else torch.zeros((), device=p.device)
        return state[name]

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        moments = [[self._state(p, name) for p in params] for name in ("exp_avg", "exp_avg_sq")]
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [p.grad for p in params],
            *moments,
            [],
            [self._state(p, "step") for p in params],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
