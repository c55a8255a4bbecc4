"""README and docs are correct: Python runs, commands run or at least parse, figures come from results/."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from PIL import Image

from feathervit import cli
from feathervit.cli import VERBS
from feathervit.config import MODELS, MAEConfig, RunConfig, to_dict, with_fields
from feathervit.recipes import recipe
from feathervit.studies import read_study
from feathervit.studies.report import table

from .conftest import write_images

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MEASURED = ROOT / "docs" / "measured.md"
# Languages of blocks: python is run, sh is run or parsed, json is parsed. The others are only for readers.
LANGUAGES = {"python", "sh", "json"} | {"text", "py", "math"}
# Commands that are only parsed: they download, take minutes, or have other tests.
HEAVY = re.compile(
    r"^feathervit (demo|benchmark|calibrate|results|serve)|cifar"
    r"|--data DATA|--to (onnx|int8|web|pt2|executorch)|^torchrun|^(make|pip) "
    r"|^python benchmarks/"
)
QUICK = {  # flags of the training runs in these tests
    "--epochs": "1",
    "--arch.depth": "1",
    "--batch-size": "8",
    "--threads": "1",
    "--split.train-per-class": "12",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The arguments of each line in the page's shell blocks, without comments."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [argv for line in lines if (argv := shlex.split(line, comments=True))]


def examples(page: Path) -> dict[str, str]:
    """Blocks of the page that are files: name in the first line -> text."""
    return {m[1]: text for text in blocks(page, "python") if (m := re.match(r'"""(\w+\.py): ', text))}


def named(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_blocks_have_known_languages(page):
    fences = re.findall(r"^ *(```+.*)$", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert {fence.strip("`") for fence in fences[::2]} <= LANGUAGES
    assert set(fences[1::2]) <= {"```"}


@pytest.mark.parametrize(
    ("page", "number"),
    [pytest.param(p, n, id=f"{p.name}-{n}") for p in PAGES for n in range(len(blocks(p, "python")))],
)
def test_python_blocks_run(page, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("docs_block")
    monkeypatch.setitem(sys.modules, "docs_block", module)  # timm looks up the module of a registered model
    exec(compile(blocks(page, "python")[number], f"{page.name}, block {number}", "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page, tmp_path, monkeypatch):
    """Every command exists, and the real command line accepts all its flags."""
    monkeypatch.chdir(tmp_path)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for argv in commands(page):
        if "--config" in argv:  # the config of a run that an earlier command made
            run = Path(argv[argv.index("--config") + 1])
            run.mkdir()
            (run / "config.json").write_text(json.dumps(to_dict(recipe("digits"))))
        if argv[0] == "make":
            assert argv[1] in targets
        elif argv[0] == "pip":
            assert argv[1] == "install"
            assert set(re.findall(r"\w+", "".join(re.findall(r"\[(.*?)\]", argv[-1])))) <= set(extras)
        elif argv[0] == "python" and (ROOT / argv[1]).exists():
            pass
        else:
            parse(verb_of(argv, page))


def verb_of(argv: list[str], page: Path) -> list[str]:
    """The arguments after `feathervit`, for each way to call it."""
    if argv[0] == "feathervit":
        return argv[1:]
    if argv[0] == "torchrun":
        spot = argv.index("-m")
        assert argv[spot + 1] == "feathervit"
        return argv[spot + 2 :]
    assert argv[0] == "python" and argv[1] in examples(page), f"{page.name}: unknown command {shlex.join(argv)}"
    return argv[2:]


def parse(argv: list[str]) -> None:
    if argv == ["--help"]:
        return
    verb, rest = cli._verb(argv)
    try:
        cli._parse(verb, rest)
    except SystemExit as stop:  # --help
        assert not stop.code


def known_flags() -> set[str]:
    """Every flag of every verb, for all kinds of parts."""
    names = (
        {field.name for kind in VERBS.values() for field in dataclasses.fields(kind)}
        | set(cli.SHORT)
        | {"debug", "help", "help_all"}
    )
    for model in MODELS.values():
        config = RunConfig(arch=model.config, mae=MAEConfig(decoder=model.decoder))
        for part, kinds in cli.PARTS.items():
            for kind in kinds.values():
                names |= set(dotted(with_fields(config, **{f"arch.{part}": kind()})))
    return {name.replace("_", "-") for name in names}


def dotted(config, above: str = ""):
    for field in dataclasses.fields(config):
        name, value = above + field.name, getattr(config, field.name)
        yield name
        if dataclasses.is_dataclass(value):
            yield from dotted(value, f"{name}.")


def test_flags_named_in_the_text_exist():
    known, seen = known_flags(), 0
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`([^`]+)`", text):
            if code.split()[0] in ("torchrun", "hf", "tensorboard"):
                continue
            for flag in re.findall(r"--([a-z][\w.-]*)(\*?)", code):
                name = flag[0].rstrip(".")
                assert any(k.startswith(f"{name}.") for k in known) if flag[1] else name in known, (
                    f"{page.name}: --{name}"
                )
                seen += 1
    assert seen > 60


def test_wrong_commands_are_found():
    with pytest.raises(cli.FeatherVitError, match="--epoch"):
        parse(["train", "--data", "pets", "--epoch", "3"])
    with pytest.raises(cli.FeatherVitError, match="verb"):
        parse(["trian"])


@pytest.mark.filterwarnings("ignore:Overwriting")  # the example registers its model in timm a second time
@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(not HEAVY.search(shlex.join(c)) for c in commands(p))], ids=named
)
def test_commands_run(page, tmp_path, monkeypatch, capsys):
    """Runs the commands in order, as a reader would, with small images, one layer and one epoch."""
    monkeypatch.chdir(tmp_path)
    write_images(Path("pets"), 12, classes=("cat", "dog"))
    write_images(Path("images"), 4)
    rows = [f"pets/{kind}/{n}.png,{kind},{'ab'[n % 2]}{n // 4}" for kind in ("cat", "dog") for n in range(12)]
    Path("images.csv").write_text("\n".join(["path,label,person", *rows]))
    shutil.make_archive("pets", "zip", ".", "pets")
    Path("new").mkdir()
    for n in (1, 2):
        Image.open(f"pets/cat/{n}.png").save(f"new/{n}.jpg")
    programs = {}
    for name, text in examples(page).items():
        Path(name).write_text(text)
        programs[name] = load(Path(name), monkeypatch)
    if page.name == "studies.md":
        Path("rates.json").write_text(json.dumps(study_of(page) | {"epochs": 1, "seeds": [0]} | {"fields": FEW}))
    selected = [argv for argv in commands(page) if not HEAVY.search(shlex.join(argv))]
    if not any(shlex.join(argv).endswith("--out run") for argv in selected):  # a page that starts with a trained model
        selected.insert(0, ["feathervit", "train", "--data", "pets", "--out", "run"])
    for argv in selected:
        rest = [w for word in argv for w in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        rest = shortened(verb_of(rest, page))
        main = cli.main
        if argv[0] == "python":
            main = programs[argv[1]].main
        try:
            status = main(rest)
        except SystemExit as stop:  # --help
            status = stop.code or 0
        assert status == 0, f"{shlex.join(argv)}\n{capsys.readouterr().err}"


def load(path: Path, monkeypatch) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


FEW = {"split.train_per_class": 8, "arch.depth": 1}


def shortened(argv: list[str]) -> list[str]:
    """A training command with the flags of QUICK, each flag once."""
    if argv[0] not in ("train", "pretrain") or {"--resume", "--help"} & set(argv):
        return argv
    timm_model = any(word.startswith("timm:") for word in argv)
    quick = QUICK
    if "--minutes" in argv:  # instead of epochs
        quick = {"--minutes": "1e-9"} | {flag: value for flag, value in QUICK.items() if flag != "--epochs"}
    for flag, value in quick.items():
        if flag in argv:
            argv = [*argv[: argv.index(flag) + 1], value, *argv[argv.index(flag) + 2 :]]
        elif not (timm_model and flag.startswith("--arch")):
            argv = [*argv, flag, value]
    return argv


def study_of(page: Path) -> dict:
    return json.loads(blocks(page, "json")[0])


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "json")], ids=named)
def test_json_blocks_are_studies(page, tmp_path):
    """A block is a complete JSON object, or members that replace the grid of the page's first object."""
    whole = study_of(page)
    for text in blocks(page, "json"):
        found = json.loads(text if text.startswith("{") else f"{{{text}}}")
        rest = {} if "question" in found else {k: v for k, v in whole.items() if k != "grid"}
        path = tmp_path / "study.json"
        path.write_text(json.dumps(rest | found))
        assert len(read_study(path).arms) >= 2


def test_the_site_builds(tmp_path):
    """mkdocs checks links, including links to headings, and that every page is in the navigation."""
    found = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert not list((tmp_path / "site").glob("*.py"))
    html = (tmp_path / "site" / "models" / "index.html").read_text()
    assert not re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(?:https?:)?//', html)


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("tables")


def test_tables_match_the_code(tables):
    for page in tables.PAGES:
        assert tables.with_tables(page) == (ROOT / "docs" / page).read_text(), "run: python docs/figures.py"


def test_figures_of_results_are_in_generated_tables(tables):
    """All figures of docs/results.md are in generated tables, and each table is in the page."""
    text = (ROOT / "docs" / "results.md").read_text()
    made = re.findall(r"<!-- results: ([\w-]+) -->", text)
    assert set(made) | {"headline"} == set(tables.tables_of_papers(ROOT / "results"))
    rest = re.sub(
        r"<!-- (?:results|points).*?<!-- end -->|^#.*?$|^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE
    )
    assert set(re.findall(r"(?<![\w.-])\d+\.\d+(?! ?dB)", rest)) <= {"2407.17783", "2402.03752", "2501.06220"}


@pytest.mark.parametrize("name", ["mlit_nano", "poorvit_tiny"])
def test_the_budget_adds_up_to_the_cost(tables, name):
    from feathervit.models.cost import cost

    parameters, macs = tables.budget(name)
    found = cost(tables.create_model(name, num_classes=tables.CLASSES), tables.MODELS[name].img_size)
    assert (sum(parameters.values()), sum(macs.values())) == (found.parameters, found.macs)


def test_links_point_to_existing_files():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_tables_of_studies_come_from_results():
    """Each table equals the one made from its study.json."""
    kept = sorted((ROOT / "results").glob("*/study.json"))
    assert kept
    for path in kept:
        made = table(json.loads(path.read_text()))
        assert made + "\n" == (path.parent / "table.md").read_text()
        assert made in (ROOT / "docs" / "studies.md").read_text()
