"""Compares the matrices that the experts of a layer share: Table 9 of arXiv 2407.17783."""

from __future__ import annotations

from ...recipes import recipe
from ..definition import Size, Study
from .sizes import SMALLEST

sharing = Study(
    name="sharing",
    question="Which two of the three matrices of a SwiGLU expert should the experts of a layer share (paper, Table 9)?",
    base=recipe("mlit_cifar100"),
    arms={name: {"arch.feedforward.sharing": name} for name in ("v_w2", "v_w", "w_w2")},
    sizes={
        "cpu": Size(
            minutes=5,
            fields=SMALLEST,
        ),
        "gpu": Size(epochs=100, fields={"model": "mlit_s"}),
    },
)
