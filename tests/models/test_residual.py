"""The residual stem: batch statistics under a mask, sizes, and independence of an image from its batch."""

from __future__ import annotations

import pytest
import torch
from timm.utils import freeze
from torch import nn
from torch.testing import assert_close

from feathervit.config import ResidualStemConfig, StageConfig
from feathervit.errors import ConfigError
from feathervit.models import create_model
from feathervit.models.embed import MaskedBatchNorm2d


def test_statistics_use_only_kept_positions():
    """Batch norm over a list of the kept pixels alone, by PyTorch's own layer."""
    torch.manual_seed(0)
    kept = torch.rand(3, 1, 4, 4) < 0.4
    x = torch.randn(3, 5, 4, 4)
    ours, reference = MaskedBatchNorm2d(5), nn.BatchNorm1d(5)
    found = ours(x, kept)
    pixels = x.permute(0, 2, 3, 1)[kept[:, 0]]
    assert_close(found.permute(0, 2, 3, 1)[kept[:, 0]], reference(pixels), atol=1e-5, rtol=1e-5)
    assert_close(ours.running_mean, reference.running_mean)
    assert_close(ours.running_var, reference.running_var)


def test_whole_and_masked_images_in_one_step():
    """As in joint training: both passes, then one backward pass."""
    norm = MaskedBatchNorm2d(5)
    x = torch.randn(3, 5, 4, 4, requires_grad=True)
    (norm(x).sum() + norm(x, torch.rand(3, 1, 4, 4) < 0.5).square().sum()).backward()
    assert x.grad.isfinite().all()


def test_without_a_mask_it_is_batch_norm():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, 4)
    assert_close(MaskedBatchNorm2d(5)(x), nn.BatchNorm2d(5)(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "patch"), [("feather_nano", 4), ("feather_nano", 8), ("feather_attn_xxs", 8)])
def test_kept_tokens_do_not_depend_on_hidden_pixels(name, patch, training):
    torch.manual_seed(0)
    model, side = create_model(name, img_size=32, patch_size=patch).train(training), 32 // patch
    keep = torch.stack([torch.randperm(side**2)[: side + 1] for _ in range(2)])
    shown = torch.zeros(2, side**2).scatter(1, keep, 1.0).view(2, 1, side, side)
    shown = shown.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    x = torch.randn(2, 3, 32, 32)
    other = torch.where(shown.bool(), x, torch.randn_like(x))
    assert_close(model.encode(x, keep)[0], model.encode(other, keep)[0], rtol=0, atol=0)


@pytest.mark.parametrize("size", [16, 28, 36, 50, 97, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_size(size, channels):
    model = create_model("feather_nano", img_size=size, in_chans=channels, num_classes=4).eval()
    assert model(torch.zeros(1, channels, size, size)).shape == (1, 4)
    assert model.patch_embed.grid_size == -(-size // 8)


def test_other_patch_sizes_use_the_same_weights():
    """Half the size drops the stride of the last stage. Twice the size adds a stride at the start."""
    torch.manual_seed(0)
    usual = create_model("feather_nano", patch_size=8).eval()
    for patch, reductions in ((4, [2, 4, 4]), (8, [2, 4, 8]), (16, [4, 8, 16])):
        model = create_model("feather_nano", patch_size=patch).eval()
        model.load_state_dict(usual.state_dict())
        assert [info["reduction"] for info in model.feature_info] == reductions
        assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape[1] == (32 // patch) ** 2
    blocks = [
        (block.stride, block.out_chans) for block in create_model("feather_nano", patch_size=4).patch_embed.residual
    ]
    assert blocks == [(2, 16), (1, 16), (2, 32), (1, 32), (1, 54), (1, 54)]
    with pytest.raises(ConfigError, match="4, 8, 16"):
        create_model("feather_nano", patch_size=2)


def test_reconstruction_needs_whole_patches():
    from feathervit.config import MAEConfig, spec
    from feathervit.models import MaskedAutoencoder

    with pytest.raises(ConfigError, match="36"):
        MaskedAutoencoder(create_model("feather_nano", img_size=36), MAEConfig(decoder=spec("feather_nano").decoder))


def test_other_batch_norms_may_replace_ours():
    """SyncBatchNorm of PyTorch and frozen layers of timm take one argument, and give the same result in evaluation."""
    model = create_model("feather_nano", num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    before = model(x)
    freeze(model, ["patch_embed"])
    assert_close(model(x), before)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(create_model("feather_nano", num_classes=3)).eval()
    assert synchronised(x).shape == (2, 3)


def test_stages_of_equal_width_fit_all_patch_sizes():
    patches = ResidualStemConfig(width=8, stages=(StageConfig(8), StageConfig(16), StageConfig(16)))
    coarse, fine = (create_model("feather_nano", patches=patches, patch_size=size) for size in (8, 4))
    fine.load_state_dict(coarse.state_dict())
