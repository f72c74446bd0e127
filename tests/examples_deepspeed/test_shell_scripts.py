"""Every shell script of the project: clean, without machines' names, and with settings instead of places."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (".ci/run", "examples_deepspeed/**/*.sh", "examples_deepspeed/**/*.sbatch")
    for path in ROOT.glob(pattern)
)
# Outside a function the first word may be a recipe; what comes after it goes to the trainer as it is.
POSITION = re.compile(r"\$\{?[2-9]")
ON_OTHER_MACHINES = re.compile(r"(?:^|[\s;&|(])(?:ssh|pdsh|ds_ssh|scp|nvidia-smi)\s")


def outside_functions(text):
    """The lines of a script that stand in no function."""
    inside = False
    for line in text.splitlines():
        begins = re.match(r"\w+\(\) ", line) is not None
        if not inside and not begins:
            yield line
        inside = (inside and line != "}") or (begins and not line.endswith("}"))


def complaints(text):
    """Lines that read parameters by their place or reach for other machines."""
    for line in outside_functions(text):
        code = line.split(" #")[0]
        if not line.startswith("#") and (POSITION.search(code) or ON_OTHER_MACHINES.search(code)):
            yield line


def test_all_scripts_are_looked_at():
    assert "examples_deepspeed/launch.sh" in SCRIPTS
    assert "examples_deepspeed/slurm/pretrain.sbatch" in SCRIPTS
    assert (
        "examples_deepspeed/data_efficiency/bert/pretrain/ds_pretrain_bert_336M_run.sh" in SCRIPTS
    )


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    ended = subprocess.run(
        ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.stdout == ""
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_settings_have_names_and_other_machines_are_left_to_the_launcher(script):
    assert list(complaints((ROOT / script).read_text())) == []


@pytest.mark.parametrize(
    "line", ['lr="${2:-1}"', "tokens=$3", 'ssh worker-1 "cat a"', "n=$(nvidia-smi -L | wc -l)"]
)
def test_what_is_complained_about(line):
    assert list(complaints(line)) == [line]


def test_what_is_not():
    text = 'f() {\n    a=${1}\n    echo "$2"\n}\ng() { echo "$2"; }\necho "$1"\n# ssh to 2\n'
    assert list(complaints(text)) == []
