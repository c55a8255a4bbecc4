"""scripts/gpu.py: its plan for given minutes, how it runs the plan, and a complete run on the CPU at toy sizes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from feathervit.cli import VERBS

from .conftest import load_script, write_images

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu.py"


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPT)


@pytest.fixture
def step(script):
    def make(name: str, code: str, seconds: float = 60.0, **rest):
        return script.Step(name, ("-c", code), seconds, **{"until": 60.0, **rest})

    return make


def statuses(records) -> dict[str, str]:
    return {record.name: record.status for record in records}


@pytest.mark.parametrize("minutes", [1.0, 9.0, 60.0])
def test_the_plan_fills_the_minutes_in_order(script, minutes):
    steps = script.plan(minutes, Path("out"), Path("sets"))
    names = [step.name for step in steps]
    assert names[0] == "tests"
    assert names[-5:] == list(script.ROWS)
    assert names.index("speed-mlit-xxs-eager") < names.index("speed-mlit-xxs-compiled") < names.index("mixture")
    assert steps[0].seconds <= 90
    ends = [step.until for step in steps]
    assert ends == sorted(ends)
    assert ends[-1] + script.GRACE <= 60 * minutes  # also if the last run is killed
    assert all(step.seconds <= 120 for step in steps if not step.continues)


def test_without_data_there_are_no_rows(script):
    assert not {step.name for step in script.plan(9, Path("out"))} & set(script.ROWS)


def test_the_commands_exist(script):
    for step in script.plan(9, Path("out"), Path("sets")):
        first, *arguments = step.command
        if arguments[0] == "feathervit":
            assert arguments[1] in VERBS or f"{arguments[1]} {arguments[2]}" in VERBS
        else:
            assert first == "-m" or (SCRIPT.parents[1] / first).is_file()


def test_a_failing_step_does_not_stop_the_next(script, step, tmp_path):
    steps = [
        step("fails", "raise SystemExit(3)"),
        step("hangs", "import time; time.sleep(60)", 0.3),
        step("speaks", "print('a word')"),
        step("late", "pass", until=0.0),
    ]
    began = time.monotonic()
    records = script.run(steps, tmp_path)
    assert time.monotonic() - began < 20
    assert statuses(records) == {"fails": "failed", "hangs": "out of time", "speaks": "done", "late": "not started"}
    assert records[0].exit_code == 3
    assert "a word" in (tmp_path / "speaks.log").read_text()
    assert [found["status"] for found in json.loads((tmp_path / "steps.json").read_text())] == [
        record.status for record in records
    ]


def test_a_second_call_runs_the_remaining_steps(script, step, tmp_path):
    flag = tmp_path / "flag"
    steps = [
        step("once", f"open({str(tmp_path / 'once')!r}, 'a').write('x')"),
        step("again", f"open({str(tmp_path / 'again')!r}, 'a').write('x')", continues=True),
        step("fixed", f"import os; raise SystemExit(not os.path.exists({str(flag)!r}))"),
    ]
    script.run(steps, tmp_path)
    flag.touch()
    assert set(statuses(script.run(steps, tmp_path)).values()) == {"done"}
    assert (tmp_path / "once").read_text() == "x"
    assert (tmp_path / "again").read_text() == "xx"


def test_child_processes_end_with_their_step(script, step, tmp_path):
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(3); open({str(mark)!r}, 'w')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    script.run([step("parent", parent, 1.0)], tmp_path)
    time.sleep(3)
    assert not mark.exists()


def test_wheels_are_added_to_the_path(script, step, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried_along/__init__.py", "")
    assert statuses(script.run([step("import", "import carried_along")], tmp_path / "out", wheels))["import"] == "done"


@pytest.mark.parametrize(
    "arguments", [["--minutes", "0", "--out", "o"], ["--minutes", "1", "--out", "o", "--data", "gone"]]
)
def test_mistakes_give_a_short_error(arguments, tmp_path):
    found = subprocess.run([sys.executable, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr


@pytest.mark.slow  # processes that each import PyTorch
def test_a_complete_run_on_the_cpu(script, tmp_path):
    """Each step writes its result, at toy sizes. A second call continues only the row."""
    sets, out = tmp_path / "sets", tmp_path / "out"
    for split in ("train", "test"):
        write_images(sets / "cifar100" / split, 8, size=32)
    scale = script.Scale(
        device="cpu",
        forms=(("eager", "off"),),
        tests=("tests/test_device.py", "-q"),
        speed=("--batch-size", "4", "--rounds", "1", "--threads", "1"),
        augment=("--sizes", "16", "--threads", "1", "--batch", "8", "--repeats", "1"),
        row=("--threads", "1"),
    )
    kept = ("tests", "speed-mlit-xxs-eager", "augment", "mlit-xxs-cifar100")
    steps = [
        replace(step, seconds=600.0, until=3600.0) for step in script.plan(60, out, sets, scale) if step.name in kept
    ]
    steps[-1] = replace(steps[-1], command=tuple("0.02" if w == "{minutes}" else w for w in steps[-1].command))
    logs = {record.name: (record.status, (out / f"{record.name}.log").read_text()) for record in script.run(steps, out)}
    assert {name: status for name, (status, _) in logs.items()} == dict.fromkeys(kept, "done"), logs
    (speed,) = json.loads((out / "speed-mlit-xxs-eager.json").read_text())["rows"]
    assert speed["images_per_s"] > 0
    assert json.loads((out / "augment.json").read_text())["rows"]
    assert list((out / "papers").rglob("state*.safetensors"))  # to continue from
    script.run(steps, out)
    calls = {name: (out / f"{name}.log").read_text().count("$ ") for name in kept}
    assert calls == dict.fromkeys(kept, 1) | {"mlit-xxs-cifar100": 2}
