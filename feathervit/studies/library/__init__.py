"""Defines the studies of the package, one file per question or topic."""

from __future__ import annotations

from ..definition import Study
from .claims import claims, claims_deep, poorvit_claims, poorvit_claims_trials
from .defaults import defaults, defaults_trials
from .design import DESIGN
from .folders import folders
from .papers import papers
from .peers import peers, peers_trials
from .precision import precision
from .pretraining import pretrain_or_scratch
from .sharing import sharing
from .transfer import image_size, transfer, transfer_nano, transfer_trials

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        *(sharing, pretrain_or_scratch, precision, *DESIGN),
        *(peers_trials, peers, folders, image_size, transfer_trials, transfer, transfer_nano),
        *(defaults_trials, defaults),
        *(claims, claims_deep, poorvit_claims_trials, poorvit_claims, papers),
    )
}
