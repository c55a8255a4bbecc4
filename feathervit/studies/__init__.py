"""The studies: one file a question or theme. `STUDIES` names them; `feathervit.study` runs them."""

from __future__ import annotations

from ..errors import UnknownNameError
from .base import Size, Study, grid, read_study
from .design import DESIGN
from .feather import feather
from .peers import peers
from .pretraining import pretrain_or_scratch
from .sharing import sharing
from .transfer import transfer

STUDIES: dict[str, Study] = {s.name: s for s in (sharing, pretrain_or_scratch, *DESIGN, feather, peers, transfer)}


def study(name: str) -> Study:
    """A named study, or the one in a file NAME.json. Raises UnknownNameError with the nearest names, ConfigError."""
    if name.endswith(".json"):
        return read_study(name)
    if name not in STUDIES:
        raise UnknownNameError("study", name, STUDIES, "a study of your own is a FILE.json")
    return STUDIES[name]


__all__ = ["STUDIES", "Size", "Study", "grid", "read_study", "study"]
