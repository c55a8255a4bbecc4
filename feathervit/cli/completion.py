"""Writes a script for bash and zsh that completes verbs, flags and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from .help import FLAGS, positionals
from .train import Train

SCRIPT = """\
{start}_feathervit() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{cases}
  esac
  case "$COMP_CWORD,${{COMP_WORDS[1]}}" in
    1,*) words="{first}" ;;
{seconds}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _feathervit feathervit"""


def script(shell: str, verbs: Mapping[str, type]) -> str:
    """Returns the script for a shell, bash or zsh. `verbs`: name -> dataclass of flags."""
    groups: dict[str, list[str]] = {}
    for verb in verbs:
        group, _, rest = verb.partition(" ")
        groups.setdefault(group, []).extend([rest] if rest else [])
    cases = [f'    "{verb}"*) words="{" ".join(_flags(kind))}" ;;' for verb, kind in verbs.items()]
    seconds = [f'    2,{group}) words="{" ".join(members)}" ;;' for group, members in groups.items() if members]
    start = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    words = {"first": " ".join(groups), "cases": "\n".join(cases), "seconds": "\n".join(seconds)}
    return SCRIPT.format(start=start, **words)


def _flags(kind: type) -> list[str]:
    """Returns the flags of a verb. For training verbs, these are the flags of the short help."""
    if issubclass(kind, Train):
        return [f"--{name}" for names in FLAGS.values() for name in names] + ["--help", "--help-all"]
    taken = positionals(kind)
    return ["--" + f.name.replace("_", "-") for f in fields(kind) if f.name not in taken] + ["--help"]
