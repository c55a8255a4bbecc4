"""The verb `completion`: a script for bash and zsh that completes verbs, flags and files."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from tyro.conf import Positional

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


@dataclass
class Completion:
    """Print a script that completes verbs and flags: eval "$(feathervit completion bash)"."""

    shell: Positional[Literal["bash", "zsh"]]
    """The shell: bash or zsh."""

    def execute(self) -> int:
        from .verbs import VERBS

        groups: dict[str, list[str]] = {}
        for verb in VERBS:
            group, _, rest = verb.partition(" ")
            groups.setdefault(group, []).extend([rest] if rest else [])
        cases = [f'    "{verb}"*) words="{" ".join(_flags(kind))}" ;;' for verb, kind in VERBS.items()]
        seconds = [f'    2,{group}) words="{" ".join(members)}" ;;' for group, members in groups.items() if members]
        start = "autoload -U +X bashcompinit && bashcompinit\n" if self.shell == "zsh" else ""
        words = {"first": " ".join(groups), "cases": "\n".join(cases), "seconds": "\n".join(seconds)}
        print(SCRIPT.format(start=start, **words))
        return 0


def _flags(kind: type) -> list[str]:
    """Returns the flags of a verb. For training verbs, these are the flags of the short help."""
    if issubclass(kind, Train):
        return [f"--{name}" for names in FLAGS.values() for name in names] + ["--help", "--help-all"]
    taken = positionals(kind)
    return ["--" + f.name.replace("_", "-") for f in fields(kind) if f.name not in taken] + ["--help"]
