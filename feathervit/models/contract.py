"""Implements timm's model interface beyond `forward`: heads, pooling, intermediates, pruning, image sizes, groups.

`Encoder` inherits these methods, so that timm's scripts and wrappers work as with timm's VisionTransformer. Arguments and
defaults are the same. Invalid arguments raise ConfigError instead of an assertion.

Legend: B batch, C channels, S image side, N tokens (prefix tokens first), D width, G grid side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import global_pool_nlc, resample_abs_pos_embed
from torch import Tensor, nn

from ..errors import ConfigError
from .positions import rotary_turns, sincos_positions
from .readout import Mean
from .taken import Taken

# In addition to the pooling of the read-out; "": no pooling, the head receives all tokens
POOLS = ("", "avg", "avgmax", "max")


class TimmContract:
    """Mixin of `Encoder` for timm's interface. It uses `patch_embed`, `readout`, `blocks`, `norm` and `head`."""

    # ------------------------------------------------------------------------------------------------------------------
    # Head and pooling

    def forward_features(self, x_BCSS: Tensor) -> Tensor:
        """Returns the normalised tokens [B, N, D]."""
        return self.encode(x_BCSS)[0]

    def pool(self, tokens_BND: Tensor) -> Tensor:
        """Returns the input of the head: [B, head_hidden_size], or [B, N, D] without pooling."""
        if self.global_pool == self.readout.pool:
            return self.readout(tokens_BND)
        return global_pool_nlc(tokens_BND, self.global_pool, self.num_prefix_tokens)

    def forward_head(self, tokens_BND: Tensor, pre_logits: bool = False) -> Tensor:
        features_BD = self.head_drop(self.pool(tokens_BND))
        return features_BD if pre_logits else self.head(features_BD)

    def forward(self, x_BCSS: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_BCSS))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head with a new head for `num_classes` classes (0: none), with the device and dtype of the model.

        `global_pool`: the pooling of the tokens: that of the read-out ("token", "avg" or "map"), "avg", "max", "avgmax", or
        "" for no pooling. None keeps the current pooling. Removes the scores of a read-out that is no longer used.
        """
        if global_pool is not None:
            if global_pool not in (*POOLS, self.readout.pool):
                known = ", ".join(repr(pool) for pool in dict.fromkeys((self.readout.pool, *POOLS)))
                raise ConfigError(f"global_pool must be one of {known} in this model, got {global_pool!r}")
            if self.readout.pool == "map" != global_pool:
                self.readout = Mean(self.embed_dim)
            self.global_pool = global_pool
        if num_classes < 0:
            raise ConfigError(f"num_classes must be at least 0 (0: no head), got {num_classes}")
        self.num_classes = num_classes
        self.head_hidden_size = self.readout.features if self.global_pool == self.readout.pool else self.embed_dim
        head = nn.Linear(self.head_hidden_size, num_classes, bias=False) if num_classes > 0 else nn.Identity()
        self.head = head.to(self.patch_embed.proj.weight).train(self.training)

    # ------------------------------------------------------------------------------------------------------------------
    # Intermediates

    def forward_intermediates(
        self,
        x_BCSS: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Returns (`forward_features`, [output per selected level]), like timm's models. `feature_info` lists the levels.

        Levels are the stages of a residual or pooled stem, followed by the layers.

        - `indices`: an integer n for the last n levels, a list of levels (negative: from the end), or None for all levels.
        - `return_prefix_tokens`: return pairs (patches, prefix tokens). A stage has no prefix tokens, [B, 0, D].
        - `norm`: apply the final norm to the outputs of layers.
        - `stop_early`: do not run layers after the last selected level.
        - `output_fmt`: patches are [B, D, G, G] for "NCHW" and [B, G^2, D] for "NLC". The width and grid of stages differ.
        - `intermediates_only`: return only the list.
        - `output_dict`: return a dict of "image_features", "image_intermediates" and "image_intermediates_prefix".
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError(f"output_fmt must be NCHW or NLC, got {output_fmt!r}")
        names, stages = [info["module"] for info in self.feature_info], self._stages
        chosen, taken = _chosen(indices, len(names)), Taken(("output",))
        layers = max(chosen[-1] + 1 - stages, 0) if stop_early else None
        features_BND, _ = self.encode(x_BCSS, taken=taken, layers=layers)
        prefix, patches = [], []
        for i in chosen:
            x = taken[f"{names[i]}.output"]
            if i < stages:
                prefix.append(x.new_empty(len(x), 0, x.shape[1]))
                patches.append(x)
                continue
            x, grid = self.norm(x) if norm else x, (self.patch_embed.grid_size, self.patch_embed.grid_size)
            prefix.append(x[:, : self.num_prefix_tokens])
            patches.append(x[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid))
        patches = [x.contiguous() if output_fmt == "NCHW" else x.flatten(2).transpose(1, 2) for x in patches]
        if output_dict:
            outputs: dict[str, Any] = {"image_intermediates": patches}
            if return_prefix_tokens and self.num_prefix_tokens:
                outputs["image_intermediates_prefix"] = prefix
            return outputs if intermediates_only else outputs | {"image_features": features_BND}
        if return_prefix_tokens and self.num_prefix_tokens:
            patches = list(zip(patches, prefix, strict=True))
        return patches if intermediates_only else (features_BND, patches)

    def get_intermediate_layers(
        self,
        x_BCSS: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> list:
        """Returns the outputs of the last `n` levels, or of a list of levels `n`, like the models of DINO."""
        return self.forward_intermediates(
            x_BCSS,
            n,
            return_prefix_tokens,
            norm,
            output_fmt="NCHW" if reshape else "NLC",
            intermediates_only=True,
        )

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the layers after the last selected level, and optionally the head and the final norm. Returns the indices.

        The stem stays complete, because its last stage makes the tokens.
        """
        chosen = _chosen(indices, len(self.feature_info))
        self.blocks = self.blocks[: max(chosen[-1] + 1 - self._stages, 0)]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Description of each level for timm's `features_only`: the stages of a residual or pooled stem, then the layers."""
        stem = [{**info, "module": f"patch_embed.{info['module']}"} for info in self.patch_embed.feature_info]
        size = {"num_chs": self.embed_dim, "reduction": self.patch_embed.patch_size}
        return stem + [{"module": f"blocks.{i}", **size} for i in range(len(self.blocks))]

    @property
    def _stages(self) -> int:
        """The number of levels before the layers."""
        return len(self.patch_embed.feature_info)

    # ------------------------------------------------------------------------------------------------------------------
    # Sizes and training

    @torch.no_grad()
    def set_input_size(self, img_size: int | Sequence[int] | None = None, patch_size: int | None = None) -> None:
        """Changes the image size of the model. Resizes the positions and keeps the other weights.

        Raises ConfigError for an image that is not square, a size that is not a multiple of the patch size, or another patch
        size.
        """
        embed = self.patch_embed
        if patch_size not in (None, embed.patch_size, (embed.patch_size,) * 2):
            raise ConfigError(
                f"the weights are for patch size {embed.patch_size}; create a model for patch size {patch_size}"
            )
        before = embed.grid_size
        embed.set_size(embed.img_size if img_size is None else side(img_size))
        if self.config.positions == "learned" and embed.grid_size != before:  # an equal one stays in its optimiser
            resized = self._resized(self.pos_embed)
            self.pos_embed = nn.Parameter(resized, requires_grad=self.pos_embed.requires_grad)
        self.init_non_persistent_buffers()
        self._traits = {**getattr(self, "_traits", {}), "img_size": (embed.img_size,) * 2}  # timm stores these traits

    @torch.no_grad()
    def init_non_persistent_buffers(self) -> None:
        """Computes the positions that are not stored with the weights. timm and transformers call this method."""
        grid, prefix, like = self.patch_embed.grid_size, self.num_prefix_tokens, self.patch_embed.proj.weight
        if self.config.positions == "sincos":
            self.pos_embed = sincos_positions(grid, prefix, self.embed_dim).to(like)
        elif self.config.positions == "rotary" and self.blocks:  # pruning may have removed all layers
            self.turns = rotary_turns(grid, prefix, self.blocks[0].attn.head_dim).to(like)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resizes the positions in a state dict of the same model with another image size to the grid of this model."""
        pos = state.get("pos_embed")
        if pos is None or pos.shape == self.pos_embed.shape:
            return state
        return {**state, "pos_embed": self._resized(pos)}

    def _resized(self, pos_1ND: Tensor) -> Tensor:
        """Resizes learned positions bicubically to the grid of this model. Those of prefix tokens stay."""
        grid = self.patch_embed.grid_size
        return resample_abs_pos_embed(pos_1ND, [grid, grid], num_prefix_tokens=self.num_prefix_tokens)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Sets whether the backward pass recomputes the activations of each layer instead of storing them.

        The activations of a stem are always stored.
        """
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """Returns layer groups for layer-wise decay, like timm's models: the stem, each residual block, each layer.

        The head is not in a group and comes last. The final norm and a pooling read-out are in the group of the last layer,
        and the projection after residual blocks in that of the last block.
        """
        return {
            "stem": r"^pos_embed|^patch_embed(?!\.(?:residual|out)\b)|^readout\.token",
            "residual": [(r"^patch_embed\.residual\.(\d+)", None), (r"^patch_embed\.out\b", (99999,))],
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm|^readout\.score", (99999,))],
        }

    def no_weight_decay(self) -> set[str]:
        """Returns the names of the parameters without weight decay: positions, tokens and per-expert output biases.

        These biases are 2-D, so rules based on the number of dimensions do not find them.
        """
        spared = {"pos_embed", "readout.token"}
        return {name for name, _ in self.named_parameters() if name in spared or name.endswith(".b2")}


def side(img_size: int | Sequence[int]) -> int:
    """Returns the side of a square image size, given as one number or as (height, width). Raises ConfigError otherwise."""
    if isinstance(img_size, int):
        return img_size
    if len(set(img_size)) != 1:
        raise ConfigError(f"images are square here, got size {tuple(img_size)}")
    return img_size[0]


def _chosen(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Returns the selected levels in ascending order (see `forward_intermediates`). Raises ConfigError for invalid indices."""
    if isinstance(indices, int):
        indices = range(count - indices, count)
    levels = sorted({i + count if i < 0 else i for i in (range(count) if indices is None else indices)})
    if not levels or not 0 <= levels[0] <= levels[-1] < count or (isinstance(indices, range) and indices.start < 0):
        raise ConfigError(
            f"indices must be levels from 0 to {count - 1}, or a number of last levels from 1 to {count}; got {indices}"
        )
    return levels
