"""The studies that come with the package, one file per question or theme."""

from __future__ import annotations

from ..definition import Study
from .design import DESIGN
from .feather import feather
from .papers import papers
from .peers import peers, peers_trials
from .pretraining import pretrain_or_scratch
from .sharing import sharing
from .transfer import transfer

STUDIES: dict[str, Study] = {
    s.name: s for s in (sharing, pretrain_or_scratch, *DESIGN, feather, peers, peers_trials, transfer, papers)
}
