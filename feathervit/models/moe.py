"""Mixture of SwiGLU experts that share two of their three projections, with noisy top-k gates.

V and W2 are shared, and the k selected gates sum to one. The mixture of experts therefore equals one gated feed-forward whose
gate branch is a mixture (see `SharedVW2`). Tokens are not dispatched, shapes are static, and the layer can be compiled and
exported. The other sharings of Table 9 are also implemented in their cheapest exact form. Equations: arXiv 2407.17783.

Legend: B batch, N tokens, D width, E experts, F hidden size, k experts kept.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from ..config import MoEConfig
from ..errors import ConfigError
from .place import Place


def coefficient_of_variation(x_E: Tensor) -> Tensor:
    """Returns the (unbiased) standard deviation divided by the mean, a scalar.

    At perfect balance, the gradient of `std` is 0, while the gradient of sqrt is NaN.
    """
    return x_E.std(unbiased=True) / x_E.mean()


@register_notrace_module  # torch.fx cannot trace its autocast
class NoisyTopKGate(nn.Module):
    """Noisy top-k gate, Eq. 2-3, and its balance losses, Eq. 5-6 and 10-12.

    The gates are a softmax over the k largest entries of H = x W_g + noise * softplus(x W_noise), and zero elsewhere. Both
    matrices have no bias (ours: the paper calls them plain matrices). The paper prints Eq. 11 as a vector of constant sum; we
    use its coefficient of variation, as in Eq. 10. The gate runs in float32 under autocast.
    """

    def __init__(self, dim: int, experts: int, config: MoEConfig):
        super().__init__()
        self.experts, self.config = experts, config
        self.w_gate = nn.Linear(dim, experts, bias=False)
        self.w_noise = nn.Linear(dim, experts, bias=False) if config.noise else None
        # Tokens per expert in training since the last call of `starving`, on the device like the counter of batch norm
        self.register_buffer("taken", torch.zeros(experts, dtype=torch.int64), persistent=False)

    def init_non_persistent_buffers(self) -> None:
        """Resets the counts. transformers calls this after `to_empty`."""
        self.taken.zero_()

    def forward(self, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Returns gates [B, N, E], whose rows have k non-zeros and sum to 1, and the weighted balance loss (0 in evaluation).

        Internally, the first dimension holds the experts. On the CPU, operations along a last dimension of 3 to 5 entries
        are several times slower.
        """
        # The meta device has no autocast.
        device = x_BND.device.type if torch.amp.is_autocast_available(x_BND.device.type) else "cpu"
        with torch.autocast(device, enabled=False):
            # One conversion for both products. The weight of a quantised layer has no dtype.
            x_BND = x_BND.to(getattr(self.w_gate.weight, "dtype", torch.float32))
            clean_EBN = self._product(self.w_gate, x_BND)
            if not (self.training and self.w_noise is not None):
                gate_EBN, _, _ = self._softmax_k(clean_EBN)
                balance = self._balance(gate_EBN) if self.training else gate_EBN.new_zeros(())
                return gate_EBN.permute(1, 2, 0), balance
            # Eq. 5 divides by the scale. Its gradient is NaN if softplus underflows (about 1e-19 in float32).
            scale_EBN = F.softplus(self._product(self.w_noise, x_BND)).clamp_min(1e-6)
            shape = (*x_BND.shape[:-1], self.experts)
            noise_BNE = torch.randn(shape, dtype=clean_EBN.dtype, device=x_BND.device)
            noisy_EBN = clean_EBN + noise_BNE.permute(2, 0, 1) * scale_EBN
            gate_EBN, *bounds = self._softmax_k(noisy_EBN)
            return gate_EBN.permute(1, 2, 0), self._balance(gate_EBN, clean_EBN, noisy_EBN, scale_EBN, *bounds)

    @staticmethod
    def _product(layer: nn.Linear, x_BND: Tensor) -> Tensor:
        """Returns the output of a layer as [E, B, N] in float32; float64 stays float64."""
        y_BNE = layer(x_BND)
        y_BNE = y_BNE if y_BNE.dtype == torch.float64 else y_BNE.float()
        return y_BNE.permute(2, 0, 1).contiguous()

    def _softmax_k(self, h_EBN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the softmax over the k largest entries (0 elsewhere), the k-th largest and the next largest, both [B, N].

        The rank of an entry is the number of larger entries. Among equal entries, the first has the higher rank. Comparisons
        can be fused; topk cannot.
        """
        first_EE = torch.ones(self.experts, self.experts, dtype=torch.bool, device=h_EBN.device).triu(1)
        beats_EEBN = (h_EBN[:, None] > h_EBN) | ((h_EBN[:, None] == h_EBN) & first_EE[..., None, None])
        kept_EBN = beats_EEBN.sum(0) < self.config.top_k
        gate_EBN = h_EBN.masked_fill(~kept_EBN, -math.inf).softmax(0)
        if self.training:
            self.taken += kept_EBN.flatten(1).sum(1)
        kth_BN = h_EBN.masked_fill(~kept_EBN, math.inf).amin(0)
        return gate_EBN, kth_BN, h_EBN.masked_fill(kept_EBN, -math.inf).amax(0)

    def _balance(self, gate_EBN: Tensor, *noisy: Tensor) -> Tensor:
        loss = self.config.importance_weight * self._variation(gate_EBN.flatten(1).sum(1))
        if noisy and self.config.top_k < self.experts:  # with all experts selected, P = 1 and the load loss is 0
            chance_EBN = self._load(*noisy)
            loss = loss + self.config.load_weight * self._variation(chance_EBN.flatten(1).sum(1))
        return loss

    def _load(self, clean_EBN: Tensor, noisy_EBN: Tensor, scale_EBN: Tensor, kth_BN: Tensor, next_BN: Tensor) -> Tensor:
        """Returns P of Eq. 5: the probability of selecting an expert if only its noise is drawn again."""
        psi_EBN = torch.where(noisy_EBN >= kth_BN, next_BN, kth_BN)
        return torch.special.ndtr((clean_EBN - psi_EBN) / scale_EBN)

    def _variation(self, x_E: Tensor) -> Tensor:
        cv = coefficient_of_variation(x_E)
        return cv.square() if self.config.balance == "cv_squared" else cv


def starving(model: nn.Module, share: float) -> dict[tuple[str, int], float]:
    """Finds the experts that received less than `share` of the tokens in training since the last call.

    Returns (name of the gate, index of the expert) -> share of the tokens. Resets the counts and synchronises the device.
    """
    gates = {name: gate for name, gate in model.named_modules() if isinstance(gate, NoisyTopKGate)}
    if not gates:
        return {}
    counts = iter(torch.cat([gate.taken for gate in gates.values()]).tolist())
    shares = {}
    for name, gate in gates.items():
        tokens_per_expert = [next(counts) for _ in range(gate.experts)]
        tokens = sum(tokens_per_expert) / gate.config.top_k
        shares |= {(name, e): n / tokens for e, n in enumerate(tokens_per_expert) if n < share * tokens}
        gate.taken.zero_()
    return shares


class _Experts(nn.Module):
    """Base class of all kinds of sharing, with the gate and the dropout of the output.

    The paper draws one dropout mask per expert; we draw one mask for the mixture.
    """

    def __init__(self, dim: int, hidden: int, experts: int, config: MoEConfig):
        super().__init__()
        if not 1 <= config.top_k <= experts:
            raise ConfigError(f"top_k {config.top_k} must be from 1 to the layer's {experts} experts")
        self.hidden, self.experts = hidden, experts
        self.gate = NoisyTopKGate(dim, experts, config) if experts > 1 else None
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x_BND: Tensor, place: Place | None = None) -> tuple[Tensor, Tensor]:
        """Maps [B, N, D] to [B, N, D]. Also returns the balance loss of the layer (a scalar; 0 in evaluation)."""
        if self.gate is None:
            gate_BNE, balance = torch.ones_like(x_BND[..., :1]), x_BND.new_zeros(())
        else:
            gate_BNE, balance = self.gate(x_BND)
        return self.dropped_mixture(x_BND, gate_BNE.to(x_BND.dtype)), balance

    def dropped_mixture(self, x_BND: Tensor, gate_BNE: Tensor) -> Tensor:
        return self.drop(self.mixture(x_BND, gate_BNE))

    def _split(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.experts, self.hidden))

    @staticmethod
    def _mix(gate_BNE: Tensor, y_BNEF: Tensor) -> Tensor:
        return (gate_BNE.to(y_BNEF.dtype).unsqueeze(-1) * y_BNEF).sum(-2)


class SharedVW2(_Experts):
    """V and W2 shared, as in the paper: y = ((sum_e g_e silu(x W_e + b_e)) * (x V + c)) W2 + d."""

    def __init__(self, dim: int, hidden: int, experts: int, config: MoEConfig):
        super().__init__(dim, hidden, experts, config)
        self.w = nn.Linear(dim, experts * hidden)
        self.v = nn.Linear(dim, hidden)
        self.w2 = nn.Linear(hidden, dim)

    def mixture(self, x_BND: Tensor, gate_BNE: Tensor) -> Tensor:
        return self.w2(self._mix(gate_BNE, F.silu(self._split(self.w(x_BND)))) * self.v(x_BND))


class SharedWW2(_Experts):
    """W and W2 shared: y = (silu(x W + b) * sum_e g_e (x V_e + c_e)) W2 + d."""

    def __init__(self, dim: int, hidden: int, experts: int, config: MoEConfig):
        super().__init__(dim, hidden, experts, config)
        self.w = nn.Linear(dim, hidden)
        self.v = nn.Linear(dim, experts * hidden)
        self.w2 = nn.Linear(hidden, dim)

    def mixture(self, x_BND: Tensor, gate_BNE: Tensor) -> Tensor:
        return self.w2(F.silu(self.w(x_BND)) * self._mix(gate_BNE, self._split(self.v(x_BND))))


class OwnW2(_Experts):
    """W2 per expert: y = [g_1 h_1, ..., g_E h_E] W2 + g d. V and W are shared, or also per expert, as `config` says.

    The gates scale the hidden units. One product with the stacked W2 sums over the experts.
    """

    def __init__(self, dim: int, hidden: int, experts: int, config: MoEConfig):
        super().__init__(dim, hidden, experts, config)
        own = 1 if config.sharing == "v_w" else experts
        self.w = nn.Linear(dim, own * hidden)
        self.v = nn.Linear(dim, own * hidden)
        self.w2 = nn.Linear(experts * hidden, dim, bias=False)
        self.b2 = nn.Parameter(torch.empty(experts, dim))
        bound = 1 / math.sqrt(hidden)  # each expert's W2 has fan-in F, not E * F
        nn.init.uniform_(self.w2.weight, -bound, bound)
        nn.init.uniform_(self.b2, -bound, bound)

    def mixture(self, x_BND: Tensor, gate_BNE: Tensor) -> Tensor:
        h_BNF = F.silu(self.w(x_BND)) * self.v(x_BND)
        h_BNEF = h_BNF.unflatten(-1, (-1, self.hidden)) * gate_BNE.to(h_BNF.dtype).unsqueeze(-1)
        return self.w2(h_BNEF.flatten(-2)) + gate_BNE @ self.b2.to(gate_BNE.dtype)


SHARINGS = {"v_w2": SharedVW2, "w_w2": SharedWW2, "v_w": OwnW2, "none": OwnW2}
