import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    [*ROOT.glob("pretrain_*.py"), *(ROOT / "tools").glob("*.py")]
    + [
        file
        for file in (ROOT / "examples_deepspeed").rglob("*.py")
        if "__main__" in file.read_text()
    ]
)


@pytest.mark.parametrize("file", COMMANDS, ids=lambda file: file.name)
def test_every_command_ends_by_it_and_imports_it_before_all_that_takes_seconds(file):
    lines = file.read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    names = [line.split()[1].split(".")[0] for line in imports]
    slow = [number for number, name in enumerate(names) if name not in sys.stdlib_module_names]
    first = imports[slow[0]]
    assert first.startswith("from megatron.command import "), first
    assert "run_command(" in file.read_text()


@pytest.mark.parametrize("script", ["pretrain_gpt.py", "tools/report.py"])
def test_interrupted_while_packages_are_imported(script):
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", script, "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        for line in process.stderr:
            if "megatron.command" in line:
                break
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        told = [line for line in process.stderr if "import time:" not in line]
    assert process.returncode == -signal.SIGINT
    assert told == ["interrupted\n"]
