"""Defines faster CPU implementations of layers. `accelerate(model, dtype)` installs them in a model.

A fast layer is a subclass with the same parameters, so the state dict does not change. In float32, products use oneDNN. In
bfloat16, products and activations are cast explicitly; weights, statistics of norms, gates and the residual stream stay in
float32. The mixture with shared projections, and attention in bfloat16, are autograd.Functions over chunks that fit into the
cache. First derivatives are exact; second derivatives raise an error.

Legend: T tokens, I and O inputs and outputs, B batch, N tokens of an image, D width, E experts, F hidden size, n tokens of a
chunk, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import ConfigError
from .attention import GroupedQueryAttention, LatentAttention
from .moe import NoisyTopKGate, SharedVW2
from .readout import output_layers

CHUNK = 2048  # tokens; half and double this size are slower
SCORES = 2**19  # attention scores of a chunk of images, one megabyte

_silu, _silu_backward = torch.ops.aten.silu.out, torch.ops.aten.silu_backward.grad_input


@functools.cache
def _has_onednn() -> bool:
    """Returns whether the private operator used below exists and gives the expected result."""
    x, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    try:
        result = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return torch.backends.mkldnn.is_available() and torch.equal(result, F.linear(x, weight))
    except (AttributeError, RuntimeError, TypeError):
        return False


def linear(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Returns x W^T + b, without gradients. In float32, PyTorch's compiler also replaces F.linear with this operator."""
    if x_TI.dtype != torch.float32 or not _has_onednn():
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
    """Returns dropout(((sum_e g_e silu(x W_e + b_e)) * (x V + c)) W2 + d), [B, N, D], computed in the dtype of `x_BND`."""
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


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a backward pass so that a second derivative raises an error.

    `once_differentiable` alone raises no error if the incoming gradient requires no gradient, and the result is then wrong.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "layers in their fast form have no second derivative; compute it with a model that was not accelerated"
            )
        return once_differentiable(backward)(ctx, *gradients)

    return checked


def keep_mask(shape: tuple[int, int], dropout: float) -> Tensor:
    """Draws a dropout mask: each entry is True with probability 1 - dropout, from 32 random bits.

    This is five times faster than `Tensor.bernoulli_`. PyTorch's global generator draws the seed.
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
    @first_order
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x_TI, weight_OI = ctx.saved_tensors
        db_O = dy_TO.sum(0) if ctx.needs_input_grad[2] else None
        return linear(dy_TO, weight_OI.t().contiguous()), dy_TO.t() @ x_TI, db_O


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, gate, w, b, v, c, w2, d, dropout: float, wanted: bool) -> Tensor:
        tokens, experts, hidden = len(x), gate.shape[1], len(v)
        scale = 1 / (1 - dropout) if dropout < 1 else 0.0
        w, b, v, c, g, w2, d = (t.to(x.dtype) for t in (w, b, v, c, gate, w2 * scale, d * scale))
        keep = keep_mask(x.shape, dropout) if dropout else None
        y, saved = torch.empty_like(x), []
        for start in range(0, tokens, CHUNK):
            part = slice(start, min(start + CHUNK, tokens))
            a, value = linear(x[part], w, b), linear(x[part], v, c)
            s, m = torch.empty_like(a), torch.empty_like(value)
            _silu(a, out=s)
            _mix(g[part], s.view(-1, experts, hidden), m)
            if wanted:
                saved += [a, s, value, m]
            out = linear(m * value, w2, d)
            y[part] = out if keep is None else torch.where(keep[part], out, 0)
        if wanted:
            ctx.scale = scale
            ctx.save_for_backward(x, g, w, v, w2, keep, *saved)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, g, w, v, w2, keep, *saved = ctx.saved_tensors
        experts, hidden = g.shape[1], len(v)
        w_t, v_t, w2_t = (t.t().contiguous() for t in (w, v, w2))
        dx, dgate = torch.empty_like(x), torch.empty(g.shape)
        # The sums over the chunks are in float32.
        dw, db, dv, dc, dw2, dd = [torch.zeros(t.shape) for t in (w, w[:, 0], v, v[:, 0], w2, w2[:, 0])]
        start = 0
        for a, s, value, m in zip(*[iter(saved)] * 4, strict=True):
            part = slice(start, start + len(a))
            start += len(a)
            dout = dy[part] if keep is None else torch.where(keep[part], dy[part], 0)
            dw2 += dout.t() @ (m * value)
            dd += dout.sum(0)
            dh = linear(dout, w2_t)
            dvalue = dh * m
            dh *= value  # dh is now the gradient of the mixed branch
            ds = torch.empty_like(s)
            s_nEF, ds_nEF = s.view(-1, experts, hidden), ds.view(-1, experts, hidden)
            dgate[part] = torch.mul(s_nEF, dh[:, None], out=ds_nEF).sum(2)
            ds_nEF.copy_(g[part, :, None]).mul_(dh[:, None])  # faster than one product with the gates
            da = _silu_backward(ds, a, grad_input=ds)
            dw += da.t() @ x[part]
            db += da.sum(0)
            dv += dvalue.t() @ x[part]
            dc += dvalue.sum(0)
            dx[part] = linear(da, w_t).add_(linear(dvalue, v_t))
        dw2, dd = dw2 * ctx.scale, dd * ctx.scale
        return dx, dgate, dw, db, dv, dc, dw2, dd, None, None


class _Attention(torch.autograd.Function):
    """softmax(q k^T / sqrt(K)) v over chunks of images. The query heads of a key/value head share one product.

    Each key/value head of an image is one matrix of a batched product. The softmax is in float32, which is also faster.
    """

    @staticmethod
    def forward(ctx: Any, q_BHNK: Tensor, k_BGNK: Tensor, v_BGNK: Tensor) -> Tensor:
        _, heads, tokens, width = q_BHNK.shape
        groups, keys = k_BGNK.shape[1:3]
        q = (q_BHNK * width**-0.5).reshape(-1, heads // groups * tokens, width)
        k, v = k_BGNK.reshape(-1, keys, width), v_BGNK.reshape(-1, keys, width)
        ctx.chunk = max(1, SCORES // (heads * tokens * keys)) * groups
        y, saved = torch.empty_like(q), []
        for q_part, k_part, v_part, y_part in zip(*(t.split(ctx.chunk) for t in (q, k, v, y)), strict=True):
            saved.append(torch.bmm(q_part, k_part.mT).float().softmax(-1).to(q.dtype))
            torch.bmm(saved[-1], v_part, out=y_part)
        ctx.save_for_backward(q, k, v, *saved)
        return y.view(q_BHNK.shape)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy_BHNK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *saved = ctx.saved_tensors
        images, _, _, width = dy_BHNK.shape
        inputs = dy_BHNK.reshape(q.shape), q, k, v
        dq, dk, dv = outputs = [torch.empty_like(t) for t in (q, k, v)]
        parts = zip(saved, *(t.split(ctx.chunk) for t in (*inputs, *outputs)), strict=True)
        for p, dy_part, q_part, k_part, v_part, dq_part, dk_part, dv_part in parts:
            torch.bmm(p.mT, dy_part, out=dv_part)
            dp = torch.bmm(dy_part, v_part.mT)
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            torch.bmm(ds, k_part, out=dq_part)
            torch.bmm(ds.mT, q_part, out=dk_part)
        dk, dv = (t.view(images, -1, *t.shape[1:]) for t in (dk, dv))
        return dq.mul_(width**-0.5).view(dy_BHNK.shape), dk, dv


# ----------------------------------------------------------------------------------------------------------------------
# float32


def _suits(x: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Returns whether the fast implementation applies. Compiled and exported graphs need standard operators."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.dtype == dtype and x.device.type == "cpu" and not traced and torch.backends.mkldnn.enabled


class FastLinear(nn.Linear):
    """`nn.Linear` with oneDNN. PyTorch uses MKL for float32 products, which is slower on AMD processors."""

    def forward(self, x: Tensor) -> Tensor:
        if not _suits(x):
            return super().forward(x)
        return _Linear.apply(x.flatten(0, -2), self.weight, self.bias).unflatten(0, x.shape[:-1])


# ----------------------------------------------------------------------------------------------------------------------
# bfloat16


def _low(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.to(torch.bfloat16)


class LowLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(_low(x), _low(self.weight), _low(self.bias))


class LowConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(_low(x), _low(self.weight), _low(self.bias))


class LowLayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return _low(super().forward(x.float()))


class WideLinear(nn.Linear):
    """Linear layer in float32 after layers in bfloat16, for the classifier."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class WideConv2d(nn.Conv2d):
    """First convolution, in float32. With few input channels, bfloat16 is slower."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class LowAttention:
    """Attention as products and a softmax, which sums in float32.

    The backward pass of bfloat16 `scaled_dot_product_attention` is slow on the CPU.
    """

    def attend(self, q_BHNK: Tensor, k_BGNK: Tensor, v_BGNK: Tensor) -> Tensor:
        if not _suits(q_BHNK, torch.bfloat16):
            return super().attend(q_BHNK, k_BGNK, v_BGNK)
        return _Attention.apply(q_BHNK, k_BGNK, v_BGNK)


class LowGroupedQueryAttention(LowAttention, GroupedQueryAttention):
    pass


class LowLatentAttention(LowAttention, LatentAttention):
    pass


# ----------------------------------------------------------------------------------------------------------------------
# both


class FastSharedVW2(SharedVW2):
    """`SharedVW2` in chunks, as long as its projections have the fast form for the dtype of the input."""

    def dropped_mixture(self, x_BND: Tensor, gate_BNE: Tensor) -> Tensor:
        projections = (self.w, self.v, self.w2)
        fast = {torch.float32: FastLinear, torch.bfloat16: LowLinear}.get(x_BND.dtype)
        if not _suits(x_BND, x_BND.dtype) or any(type(layer) is not fast for layer in projections):
            return super().dropped_mixture(x_BND, gate_BNE)
        return mixture(x_BND, gate_BNE, *projections, self.drop.p if self.training else 0.0)


_FORMS: dict[torch.dtype, dict[type[nn.Module], type[nn.Module]]] = {
    torch.float32: {nn.Linear: FastLinear, SharedVW2: FastSharedVW2},
    torch.bfloat16: {
        nn.Linear: LowLinear,
        nn.Conv2d: LowConv2d,
        nn.LayerNorm: LowLayerNorm,
        SharedVW2: FastSharedVW2,
        GroupedQueryAttention: LowGroupedQueryAttention,
        LatentAttention: LowLatentAttention,
    },
}


def accelerate(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Replaces layers of `model` with their fast CPU versions, in place, and returns it. `dtype`: float32 or bfloat16.

    Replaces only exact instances of layers of PyTorch and this package. Adapters, subclasses and gates stay unchanged. Raises
    ConfigError for another dtype.
    """
    if dtype not in _FORMS:
        raise ConfigError(f"the fast layers compute in float32 or bfloat16, not in {dtype}")
    forms = _FORMS[dtype]
    last = output_layers(model)

    def visit(module: nn.Module) -> None:
        kind = type(module)
        if kind in forms:
            wide = dtype != torch.float32 and (module in last or getattr(module, "in_channels", 5) <= 4)
            module.__class__ = {nn.Linear: WideLinear, nn.Conv2d: WideConv2d}.get(kind, kind) if wide else forms[kind]
        elif getattr(module, "fused_attn", False) and dtype != torch.float32:
            module.fused_attn = False  # attention of timm: see LowAttention
        for child in module.children():
            if not isinstance(child, NoisyTopKGate):
                visit(child)

    visit(model)
    return model


def plain(model: nn.Module) -> nn.Module:
    """Restores the standard layers of `model`, in place, and returns it. The inverse of `accelerate`, for exporters."""
    kinds = {fast: kind for forms in _FORMS.values() for kind, fast in forms.items()}
    kinds |= {WideLinear: nn.Linear, WideConv2d: nn.Conv2d}
    for module in model.modules():
        module.__class__ = kinds.get(type(module), type(module))
    return model
