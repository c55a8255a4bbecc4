"""Many tensors in one copy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from feathervit.data.moving import pack, to_device, unpack


@dataclass(frozen=True)
class Inner:
    values: torch.Tensor
    parts: dict[str, slice]


TREE = (
    Inner(torch.arange(5), {"a": slice(2)}),
    {"bytes": torch.arange(7, dtype=torch.uint8), "none": None},
    (torch.tensor([[True, False, True]]), torch.randn(2, 3, 4), torch.empty(0, 256, dtype=torch.uint8)),
    "text",
)


def test_unpack_inverts_pack():
    tensors = [TREE[0].values, TREE[1]["bytes"], *TREE[2], torch.tensor(2.5), torch.randn(3, 4).mT]
    buffer = pack(tensors)
    assert buffer.dtype == torch.uint8 and buffer.ndim == 1
    for back, tensor in zip(unpack(buffer, tensors), tensors, strict=True):
        assert back.dtype == tensor.dtype and torch.equal(back, tensor)
        assert not back.numel() or back.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()


def test_a_tree_moves_in_one_copy(monkeypatch):
    """The "meta" device stands for a GPU. Its values are never read."""
    assert to_device(TREE, torch.device("cpu")) is TREE
    copies = []
    original = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: copies.append(self) or original(self, *a, **k))
    moved = to_device(TREE, torch.device("meta"))
    assert len(copies) == 1
    assert moved[0].values.is_meta and moved[0].parts == {"a": slice(2)}
    assert moved[1]["bytes"].shape == (7,) and moved[1]["none"] is None and moved[3] == "text"
    assert [t.dtype for t in moved[2]] == [torch.bool, torch.float32, torch.uint8]
    assert to_device(moved, torch.device("meta"))[2][1] is moved[2][1]  # already on the device


@pytest.mark.gpu
def test_values_arrive_on_a_gpu():
    moved = to_device(TREE, torch.device("cuda"))
    assert torch.equal(moved[0].values.cpu(), TREE[0].values)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(moved[2], TREE[2], strict=True))
