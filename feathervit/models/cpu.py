"""What runs otherwise on the CPU in float32: linear layers, and the shared-projection mixture. Both are exact.

Notable: what the mixture costs beyond its products is memory that is touched for the first time. So one
autograd.Function goes through the tokens by chunks that stay in the cache, keeps only the pre-activations and works the
gradient out by hand; W and V are one product. Products go through oneDNN: PyTorch sends its own float32 ones to MKL, which
runs at half the speed on AMD's processors. Dropout's bits come from a fast generator that PyTorch's own seeds.

Legend: T tokens, I and O inputs and outputs, B batch, N tokens of a picture, D width, E experts, F hidden size, n tokens
of a chunk.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2048  # tokens; half and double are slower

_silu, _silu_backward = torch.ops.aten.silu.out, torch.ops.aten.silu_backward.grad_input


def suits(x: Tensor) -> bool:
    """Whether `x` goes this way: float32 on the CPU, neither autocast, compiled nor traced (then plain ops serve)."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    plain = traced or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.enabled
    return x.device.type == "cpu" and x.dtype == torch.float32 and not plain


def project(layer: torch.nn.Module, x: Tensor) -> Tensor:
    """`layer(x)` of a linear layer or a sequence of them, through oneDNN where that suits."""
    if not suits(x):
        return layer(x)
    if isinstance(layer, torch.nn.Sequential):
        return functools.reduce(lambda y, part: project(part, y), layer, x)
    return _Linear.apply(x.flatten(0, -2), layer.weight, layer.bias).unflatten(0, x.shape[:-1])


@functools.cache
def _has_onednn() -> bool:
    """Whether this PyTorch has the operator below and it does what it is taken for: it is no public one."""
    x, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return torch.backends.mkldnn.is_available() and torch.equal(found, F.linear(x, weight))
    except (AttributeError, RuntimeError, TypeError):
        return False


def linear(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b in float32, without gradients. The operator is what PyTorch's own compiler puts in F.linear's place."""
    if not _has_onednn():
        return F.linear(x_TI, weight_OI, bias_O)
    return torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, bias_O, "none", [], "")


def mixture(
    x_BND: Tensor,
    gate_BNE: Tensor,
    w: torch.nn.Linear,
    v: torch.nn.Linear,
    w2: torch.nn.Linear,
    dropout: float = 0.0,
) -> Tensor:
    """dropout(((sum_e g_e silu(x W_e + b_e)) * (x V + c)) W2 + d), [B, N, D]."""
    y_TD = _Mixture.apply(
        x_BND.flatten(0, -2),
        gate_BNE.flatten(0, -2),
        w.weight,
        w.bias,
        v.weight,
        v.bias,
        w2.weight,
        w2.bias,
        dropout,
        torch.is_grad_enabled(),
    )
    return y_TD.view_as(x_BND)


def keep_mask(shape: tuple[int, int], dropout: float) -> Tensor:
    """True with probability 1 - dropout, each entry by itself: 32 random bits against a threshold.

    `Tensor.bernoulli_` takes five times as long. The seed is a draw of PyTorch's global generator.
    """
    n = shape[0] * shape[1]
    bits = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw((n + 1) // 2)
    threshold = min(round(dropout * 2**32) - 2**31, 2**31 - 1)
    return torch.from_numpy(bits).view(torch.int32)[:n].view(shape) >= threshold


def _mix(gate_nE: Tensor, s_nEF: Tensor, out: Tensor) -> None:
    torch.mul(s_nEF[:, 0], gate_nE[:, :1], out=out)
    for e in range(1, s_nEF.shape[1]):
        out.addcmul_(s_nEF[:, e], gate_nE[:, e, None])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_TI, weight_OI)
        return linear(x_TI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x_TI, weight_OI = ctx.saved_tensors
        db_O = dy_TO.sum(0) if ctx.needs_input_grad[2] else None
        return linear(dy_TO, weight_OI.t().contiguous()), dy_TO.t() @ x_TI, db_O


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, gate, w, b, v, c, w2, d, dropout: float, wanted: bool) -> Tensor:
        tokens, experts, hidden = len(x), gate.shape[1], len(v)
        wide = experts * hidden
        wv, bc = torch.cat([w, v]), torch.cat([b, c])
        scale = 1 / (1 - dropout) if dropout < 1 else 0.0
        w2_scaled, d_scaled = w2 * scale, d * scale
        keep = keep_mask(x.shape, dropout) if dropout else None
        y, saved = torch.empty_like(x), []
        for start in range(0, tokens, CHUNK):
            part = slice(start, min(start + CHUNK, tokens))
            n = part.stop - start
            pre = linear(x[part], wv, bc)
            if wanted:
                saved.append(pre)
            s, m = pre.new_empty(n, wide), pre.new_empty(n, hidden)
            _silu(pre[:, :wide], out=s)
            _mix(gate[part], s.view(n, experts, hidden), m)
            m *= pre[:, wide:]
            out = linear(m, w2_scaled, d_scaled)
            y[part] = out if keep is None else out.mul_(keep[part])
        if wanted:
            ctx.scale = scale
            ctx.save_for_backward(x, gate, wv, w2, keep, *saved)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, wv, w2, keep, *saved = ctx.saved_tensors
        experts, hidden = gate.shape[1], w2.shape[1]
        wide = experts * hidden
        wv_t, w2_t = wv.t().contiguous(), (w2 * ctx.scale).t().contiguous()
        dx, dgate = torch.empty_like(x), torch.empty_like(gate)
        dwv, dbc = torch.zeros_like(wv), wv.new_zeros(len(wv))
        dw2, dd = torch.zeros_like(w2), w2.new_zeros(len(w2))
        start = 0
        for pre in saved:
            n = len(pre)
            part = slice(start, start + n)
            start += n
            a, value, g = pre[:, :wide], pre[:, wide:], gate[part]
            s, ds = pre.new_empty(n, wide), pre.new_empty(n, wide)
            m, dpre = torch.empty_like(value), torch.empty_like(pre)
            s_nEF, ds_nEF = s.view(n, experts, hidden), ds.view(n, experts, hidden)
            _silu(a, out=s)
            _mix(g, s_nEF, m)
            dout = dy[part] if keep is None else dy[part] * keep[part]
            dw2.addmm_(dout.t(), m * value)
            dd += dout.sum(0)
            dh = linear(dout, w2_t)
            torch.mul(dh, m, out=dpre[:, wide:])
            dh *= value  # from here on the gradient of the mixed branch
            torch.mul(s_nEF, dh[:, None], out=ds_nEF)
            torch.sum(ds_nEF, 2, out=dgate[part])
            torch.mul(g[..., None], dh[:, None], out=ds_nEF)
            _silu_backward(ds, a, grad_input=dpre[:, :wide])
            dwv.addmm_(dpre.t(), x[part])
            dbc += dpre.sum(0)
            dx[part] = linear(dpre, wv_t)
        return dx, dgate, dwv[:wide], dbc[:wide], dwv[wide:], dbc[wide:], dw2 * ctx.scale, dd * ctx.scale, None, None
