"""What is made once for all runs of a study: corpus, tokens, difficulty index."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from data_efficiency import files
from megatron.study.study_file import Stage, Study, filled

ROOT = Path(__file__).resolve().parents[2]


def prepare_shared(study: Study, say: Callable[[str], None]) -> None:
    """Run each stage whose command, or anything before it, has changed; others are passed over.

    One process at a time; others wait.

    Raises:
        ChildProcessError: if a stage fails; what it printed stands on the terminal.
    """
    if not study.prepare:
        return
    with files.file_lock(study.output / ".prepare.lock", wait=True):
        for number, (stage, key) in enumerate(_stages(study), 1):
            place = f"[{number}/{len(study.prepare)}] {stage.name}"
            if is_made(stage, study, key):
                say(f"{place}: done before")
            else:
                say(place)
                say(f"{place}: {_make(stage, study, key):.0f}s")


def is_prepared(study: Study) -> bool:
    """Whether every stage is done."""
    return all(is_made(stage, study, key) for stage, key in _stages(study))


def what_runs_share(study: Study) -> str:
    """Another text wherever a stage is another one, or what it reads: the runs that trained on it are too."""
    return "".join(key for _, key in [*_stages(study)][-1:])


def how_it_is_made(study: Study) -> str:
    """Another text wherever a stage's command is another one, wherever the study's folder lies."""
    values = {name: text for name, text in study.values.items() if name != "output"}
    commands = [filled(list(stage.command), values) for stage in study.prepare]
    return hashlib.sha256(json.dumps(commands).encode()).hexdigest()[:16] if commands else ""


def _stages(study: Study) -> Iterator[tuple[Stage, str]]:
    """Each stage and its key, which covers all stages before it."""
    key = ""
    for stage in study.prepare:
        key = _key(stage, study, key)
        yield stage, key


def is_made(stage: Stage, study: Study, key: str) -> bool:
    """Whether a stage has finished with these inputs and its output is there."""
    stamp = _stamp(stage, study)
    makes = Path(filled(stage.makes, study.values))
    return makes.exists() and stamp.is_file() and files.read_json_object(stamp).get("key") == key


def _stamp(stage: Stage, study: Study) -> Path:
    return study.output / "stages" / f"{stage.name}.json"


def _key(stage: Stage, study: Study, before: str) -> str:
    """Over the command, the files it reads, and all stages before."""
    command = filled(list(stage.command), study.values)
    digest = hashlib.sha256(f"{before} {command}".encode())
    for path in map(Path, filled(list(stage.reads), study.values)):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if not file.exists():
                # A study is planned, and its kept results are read, where what it is made of is not.
                digest.update(f"{file} is not there".encode())
                continue
            # Reading all of a large corpus would take long: size and date.
            found = file.stat()
            digest.update(f"{file} {found.st_size} {found.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _make(stage: Stage, study: Study, key: str) -> float:
    """Seconds that the stage took."""
    makes = Path(filled(stage.makes, study.values))
    if makes.is_dir():
        shutil.rmtree(makes)
    makes.unlink(missing_ok=True)
    makes.parent.mkdir(parents=True, exist_ok=True)
    script, *flags = filled(list(stage.command), study.values)
    begin = time.monotonic()
    done = subprocess.run([sys.executable, str(ROOT / script), *flags], env=child_environment())
    if done.returncode:
        raise ChildProcessError(f"stage {stage.name} ended with exit code {done.returncode}")
    if not makes.exists():
        raise ChildProcessError(
            f"stage {stage.name} did not make {makes}: correct `makes` or its command"
        )
    seconds = time.monotonic() - begin
    files.write_file(
        _stamp(stage, study), json.dumps({"key": key, "seconds": round(seconds, 1)}) + "\n"
    )
    return seconds


def child_environment(*, on_gpu: bool = False) -> dict[str, str]:
    """Of a process that runs one of this project's scripts; on a CPU with `cpu.env`, below what is set already."""
    path = os.environ.get("PYTHONPATH")
    lines = (ROOT / "examples_deepspeed" / "cpu.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    found = {**({} if on_gpu else settings), **os.environ}
    return {**found, "PYTHONPATH": f"{ROOT}{os.pathsep + path if path else ''}"}
