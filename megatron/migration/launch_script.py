"""What a shell script of another project would start, found out without starting it.

The script runs in a restricted bash whose PATH holds a few programs that only read, and whose launchers are
functions that tell what they were given. So its variables, conditions and loops are bash's own, while it can
write no file, change no folder and start nothing: what is not there is passed over.

Source: bash's manual, "The Restricted Shell".
"""

import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LAUNCHERS = (
    *("deepspeed", "torchrun", "python", "python3", "srun", "mpirun", "mpiexec", "accelerate"),
)
READERS = ("basename", "cat", "cut", "dirname", "expr", "grep", "head", "seq", "tail", "tr", "wc")
"""Programs that a script may really run: without redirection they write nothing."""
LONGEST_SECONDS = 20
_PRELUDE = """
tell() {{ printf '\\n%s' {mark}; printf '%s\\0' "$@"; printf '%s\\n' {mark}; }}
command_not_found_handle() {{ return 0; }}
ssh() {{ return 1; }}
ds_ssh() {{ return 1; }}
nvidia-smi() {{ echo GPU; }}
date() {{ echo date; }}
hostname() {{ echo localhost; }}
sleep() {{ :; }}
nohup() {{ "$@"; }}
env() {{ while [[ "${{1-}}" == *=* ]]; do shift; done; "$@"; }}
exec() {{ "$@"; }}
enable -n kill
"""
# A launch's output goes nowhere here, and an error is no reason to stop.
_LEFT_OUT = (
    re.compile(r"\s*\|&?\s*tee\s[^\n;]*$", re.MULTILINE),
    re.compile(r"\s*2>&1", re.MULTILINE),
    re.compile(
        r"\s*(?:&>>?|[12]?>>?)\s*(?:\"[^\"\n]*\"|[^\s\"';)]+)(?=[\"']?\s*&?\s*$)", re.MULTILINE
    ),
    re.compile(r"^\s*set\s+[-+]\w.*$", re.MULTILINE),
)


def started_by(
    script: Path, arguments: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> list[list[str]]:
    """The words of each command that a script gives a launcher, in their order.

    Args:
        arguments: of the script.
        variables: of its environment, of which it sees nothing else.

    Raises:
        FileNotFoundError: if there is no such script, or no bash.
        ValueError: if it does not come to an end.
    """
    bash = shutil.which("bash")
    if bash is None:
        raise FileNotFoundError("bash is not installed: it reads the script")
    mark = secrets.token_hex(8)
    launchers = "".join(f'{name}() {{ tell {name} "$@"; }}\n' for name in LAUNCHERS)
    text = script.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    for pattern in _LEFT_OUT:
        text = pattern.sub("", text)
    with tempfile.TemporaryDirectory() as folder:
        for name in READERS:
            if found := shutil.which(name):
                Path(folder, name).symlink_to(found)
        whole = Path(folder, script.name)
        whole.write_text(_PRELUDE.format(mark=mark) + launchers + text, encoding="utf-8")
        try:
            ended = subprocess.run(
                [bash, "--restricted", str(whole), *arguments],
                env={**(variables or {}), "PATH": folder},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LONGEST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"{script} does not end within {LONGEST_SECONDS} seconds where nothing is started: give the "
                "command that it starts in a script of its own"
            ) from None
    return list(_told(ended.stdout, mark.encode()))


def _told(output: bytes, mark: bytes) -> Iterator[list[str]]:
    for part in output.split(mark)[1::2]:
        yield [word.decode(errors="replace") for word in part.split(b"\0")[:-1]]


def training_command(commands: Sequence[Sequence[str]]) -> tuple[str, list[str]] | None:
    """Name and flags of the first pretraining script among commands; None where there is none.

    Example:
        >>> training_command([["python", "-V"], ["deepspeed", "--num_gpus", "8", "a/pretrain_gpt.py", "--lr", "1"]])
        ('pretrain_gpt.py', ['--lr', '1'])
    """
    for words in commands:
        for place, word in enumerate(words):
            name = word.rpartition("/")[2]
            if name in ("pretrain_gpt.py", "pretrain_bert.py"):
                return name, [*words[place + 1 :]]
    return None
