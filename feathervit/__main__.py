"""Runs `python -m feathervit` and `torchrun -m feathervit`."""

from .cli import main

raise SystemExit(main())
