"""The command line: flags, help and messages only. No other subpackage imports tyro.

Each verb is a dataclass of flags. Each family of verbs has one file, and `verbs` lists all verbs. This module
parses the flags. Defaults come from the recipe, and flags on the command line override its fields. `feathervit VERB --help`
does not import torch. A user error prints one line and returns its exit status; `--debug` shows the traceback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from .. import __version__
from ..config import RunConfig, parts, spec, with_fields
from ..errors import ConfigError, DataWarning, FeatherVitError, UnknownNameError
from ..recipes import recipe, recipe_for
from ..results import read_config
from ..streams import Result, Words, open_closed
from ..text import REPLACED, shown
from .flags import ThreadsFlag, as_fields
from .help import BY_THE_IMAGES, descriptions, overview, positionals, short_help, verb_help
from .train import Pretrain, Train
from .verbs import SUCCESSORS, VERBS

PARTS = {  # the choices for each part of a model, by command-line name
    "attention": {"gqa": parts.GQAConfig, "latent": parts.LatentConfig},
    "feedforward": {
        "moe": parts.MoEConfig,
        "swiglu": parts.SwiGLUConfig,
        "mlp": parts.MLPConfig,
        "conv-mlp": parts.ConvMLPConfig,
    },
    "patches": {
        "linear": parts.LinearPatchesConfig,
        "whitened": parts.WhitenedPatchesConfig,
        "conv-stem": parts.ConvStemConfig,
        "pooled-stem": parts.PooledStemConfig,
    },
}
SHORT = {"from": "--start-from", "folds": "--split.folds", "fold": "--split.fold"}  # short forms of recipe fields


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns the exit status: 0, 1 (a check failed), 2 (a user error), 130 (interrupted)."""
    # Long spin-waits make threads several times slower on a shared machine (see docs/choices.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [_hyphens(_from_home(word)) for word in argv if word != "--debug"]
    open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=REPLACED)  # file names need not be valid Unicode
    with contextlib.redirect_stdout(Result(sys.stdout)), contextlib.redirect_stderr(Words(sys.stderr)):
        return _run(argv, debug)


def _from_home(word: str) -> str:
    """Expands a path that begins with ~, also after "--flag=", where shells do not expand it."""
    flag, equals, value = word.partition("=")
    if word.startswith("-") and value.startswith("~"):
        return flag + equals + os.path.expanduser(value)
    return os.path.expanduser(word) if word.startswith("~") else word


def _run(argv: list[str], debug: bool) -> int:
    try:
        status = _dispatch(argv)
        sys.stdout.flush()
        return status
    except FeatherVitError as error:
        if debug:
            raise
        print(f"feathervit: {shown(' '.join(str(error).split()))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("feathervit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `feathervit models | head`
        return 1
    except OSError as error:  # for example: name too long, permission denied, disk full
        if debug:
            raise
        where = f"{str(error.filename)[:200]}: " if error.filename is not None else ""
        print(f"feathervit: {where}{error.strerror or error}; --debug shows where", file=sys.stderr)
        return 2
    except Exception as error:
        if debug:
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        print(f"feathervit: internal error: {text}; {_kept_traceback(argv)}", file=sys.stderr)
        return 1


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(VERBS))
        return 0
    if argv[0] == "--version":
        print(f"feathervit {__version__}")
        return 0
    verb, rest = _verb(argv)
    if "--tensorboard" in rest:
        raise ConfigError("--tensorboard is now --log tensorboard")
    args = _parse(verb, rest)
    if isinstance(args, ThreadsFlag):
        args.set_threads()
    with _warnings_in_a_line():
        return args.execute()


def _kept_traceback(argv: list[str]) -> str:
    """Writes the traceback of the current error to a file. Returns a message with the path of the file."""
    import platform
    import tempfile
    import traceback

    system = f"feathervit {__version__}, Python {platform.python_version()}, {platform.platform()}"
    text = f"{system}\n{shlex.join(['feathervit', *argv])}\n\n{traceback.format_exc()}"
    try:
        number, path = tempfile.mkstemp(prefix="feathervit-", suffix=".txt", text=True)
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        return f"its traceback could not be written ({error.strerror or error}); --debug shows it"
    return f"its traceback is in {path}"


@contextlib.contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Prints each warning about the user's data on one line, like an error. Python prints all other warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, DataWarning):
                print(f"feathervit: warning: {message}", file=sys.stderr)
            else:
                others(message, category, *rest)

        warnings.showwarning = show
        yield


def _hyphens(word: str) -> str:
    """Replaces underscores in a flag with hyphens, so that `--img_size` also works."""
    return re.sub(r"^--[\w.-]+", lambda match: match[0].replace("_", "-"), word)


def _verb(argv: list[str]) -> tuple[str, list[str]]:
    for words in (1, 2):
        if successor := SUCCESSORS.get(" ".join(argv[:words])):
            raise ConfigError(f"there is no verb {' '.join(argv[:words])}; {successor}")
    groups = {name.split()[0] for name in VERBS if " " in name}
    if argv[0] in groups:
        members = [name.split()[1] for name in VERBS if name.startswith(argv[0] + " ")]
        if len(argv) < 2 or argv[1] in ("-h", "--help"):
            print(overview(VERBS, argv[0]))
            raise SystemExit(0)
        if argv[1] not in members:
            raise UnknownNameError(f"verb of {argv[0]}", argv[1], members)
        return f"{argv[0]} {argv[1]}", argv[2:]
    if argv[0] not in VERBS:
        raise UnknownNameError("verb", argv[0], [*VERBS, *groups])
    return argv[0], argv[1:]


def _parse(verb: str, argv: list[str]) -> Any:
    """Parses the flags of a verb and returns its dataclass."""
    kind, default = VERBS[verb], tyro.MISSING_NONPROP
    config, remaining = None, argv
    if issubclass(kind, Train):
        argv = [re.sub(r"^--(from|folds|fold)(?==|$)", lambda m: SHORT[m[1]], word) for word in as_fields(argv)]
        config = _starting_point(argv, pretraining=kind is Pretrain)
        config, remaining = _chosen_parts(config, argv)
        default = kind(config=config)
        if {"-h", "--help"} & set(remaining):
            print(short_help(verb, default))
            raise SystemExit(0)
        remaining = ["--help" if word == "--help-all" else word for word in remaining]
    elif {"-h", "--help"} & set(remaining):
        print(verb_help(verb, kind))
        raise SystemExit(0)
    if verb == "predict":  # --from NAME is the first argument, before the images
        name, rest = _taken(argv, "from")
        remaining = argv if name is None else [name, *rest]
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            args = tyro.cli(
                kind,
                prog=f"feathervit {verb}",
                args=remaining,
                default=default,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            if config is not None and (chosen := BY_THE_IMAGES.get(config.recipe)):
                print(f"The recipe {config.recipe} chooses these fields from the images: {', '.join(chosen)}.")
            raise
        text = _first_words(messages.getvalue())
        if "Missing from" in messages.getvalue():
            missing = [
                f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING
            ]
            words = [n.upper() if n in positionals(kind) else f"--{n.replace('_', '-')}" for n in missing]
            means = " ".join(f"{word}: {descriptions(kind)[n]}" for word, n in zip(words, missing, strict=True))
            text = f"{verb} needs {' and '.join(words)}. {means}"
        raise ConfigError(text) from None
    if config is not None:
        args.command, args.given = shlex.join(["feathervit", verb, *argv]), _given(argv, args.config)
    return args


def _starting_point(argv: list[str], pretraining: bool) -> RunConfig:
    """Returns the recipe with the default values of the flags. Includes the architecture, for the defaults of `--arch.*`."""
    named = {name: _taken(argv, name)[0] for name in ("recipe", "model", "data", "out", "config")}
    if named["config"] and named["recipe"]:
        raise ConfigError("--config and --recipe exclude each other: the file holds every field of a recipe")
    if "--resume" in argv and named["out"] and (Path(named["out"]) / "config.json").exists():
        config = read_config(Path(named["out"]))
    elif named["config"]:
        config = read_config(Path(named["config"]))
    else:
        config = recipe(named["recipe"]) if named["recipe"] else recipe_for(named["data"] or "", pretraining)
    if named["model"] and named["model"] != config.model:
        config = dataclasses.replace(config, model=named["model"], arch=None)
    if config.arch is None and not config.model.startswith("timm:"):
        config = dataclasses.replace(config, arch=spec(config.model).config)
    if config.mae.decoder is None and not config.model.startswith("timm:"):
        config = dataclasses.replace(config, mae=dataclasses.replace(config.mae, decoder=spec(config.model).decoder))
    return config


def _chosen_parts(config: RunConfig, argv: list[str]) -> tuple[RunConfig, list[str]]:
    """Applies the model parts named in `argv` (`--arch.attention latent`). Returns the configuration and the other arguments.

    tyro would need a subcommand for them. Fields that both kinds share, such as the number of heads, keep their values.
    """
    for field, kinds in PARTS.items():
        flag = f"arch.{field}"
        name, others = _taken(argv, flag)
        if name is None or config.arch is None:
            continue
        if name not in kinds:
            raise UnknownNameError(f"kind of --{flag}", name, kinds)
        named = {"model", "config"} & {word[2:].partition("=")[0] for word in argv if word.startswith("--")}
        if config.recipe == "mae_folder" and not named and "--resume" not in argv:
            raise ConfigError(f"the recipe mae_folder chooses the model from the images; --{flag} needs --model NAME")
        old, kind = getattr(config.arch, field), kinds[name]
        if type(old) is not kind:
            shared = {f.name for f in dataclasses.fields(old)} & {f.name for f in dataclasses.fields(kind)}
            config = with_fields(config, **{flag: kind(**{f: getattr(old, f) for f in shared})})
        argv = others
    return config, argv


def _taken(argv: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Returns the value of a flag, or None, and the other arguments."""
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name == f"--{flag}" and equals:
            return value, argv[:i] + argv[i + 1 :]
        if name == f"--{flag}" and i + 1 < len(argv):
            return argv[i + 1], argv[:i] + argv[i + 2 :]
    return None, argv


def _given(argv: list[str], after: RunConfig) -> dict[str, Any]:
    """Returns the fields set in `argv`, even if set to their default, because an adaptive recipe does not change them."""
    given = {}
    for word in argv:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            head, _, last = name.rpartition(".")
            for candidate in (name, f"{head}.{last.removeprefix('no_')}" if head else last.removeprefix("no_")):
                value: Any = after
                for part in candidate.split("."):
                    value = getattr(value, part, tyro.MISSING)
                if value is not tyro.MISSING:
                    given[candidate] = value
                    break
    return given


def _first_words(box: str) -> str:
    """Returns the first paragraph of tyro's boxed message as one line."""
    lines = [re.sub(r"^[│╭╰]\s?|\s*[│╮╯]$", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if not line.startswith("─") or not line.strip("─ ")]
    text: list[str] = []
    for line in lines:
        if line and not line.strip("─"):
            break
        if line:
            text.append(line)
    hint = re.findall(r"^│\s+(--[\w.-]*\w)", box, flags=re.MULTILINE) if "Perhaps you meant" in box else []
    return " ".join(text) + (f"; did you mean {' or '.join(dict.fromkeys(hint))}?" if hint else "")
