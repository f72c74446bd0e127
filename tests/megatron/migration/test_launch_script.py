import os

import pytest

from megatron.migration import launch_script
from megatron.migration.launch_script import started_by, training_command


def script_of(folder, text):
    path = folder / "old script.sh"
    path.write_text(text)
    return path


def test_variables_conditions_and_continued_lines_are_bashs(tmp_path):
    script = script_of(
        tmp_path,
        """
set -euo pipefail
size=${1:-small}; gpus=$(nvidia-smi --list-gpus | wc -l)
options=" --layers $((6 * 2)) \\
    --name '${NAME}'"
if [[ $size == large ]]; then options="$options --large"; fi
for (( i = 0; i < 2; i++ )); do options+=" --step $i"; done
deepspeed --num_gpus "$gpus" a/pretrain_gpt.py $options "two words" "$(basename /x/y.json .json)"
""",
    )
    [words] = started_by(script, ["large"], {"NAME": "n"})
    assert words == [
        *("deepspeed", "--num_gpus", "1", "a/pretrain_gpt.py", "--layers", "12", "--name", "'n'"),
        *("--large", "--step", "0", "--step", "1", "two words", "y"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "deepspeed x.py --a 1 &>> $LOG/a.log",
        'deepspeed x.py --a 1 > "out/a b.log" 2>&1 &',
        "deepspeed x.py --a 1 2>&1 | tee out.log",
        "nohup deepspeed x.py --a 1 >out.log 2>&1 &\nwait",
        "exec deepspeed x.py --a 1",
        "A=1 deepspeed x.py --a 1",
        "env A=1 B=2 deepspeed x.py --a 1",
        'run="deepspeed x.py --a 1 &> ${HOME:-.}/log"\necho $run\neval $run',
        "mkdir -p out || exit 1\nfalse\ndeepspeed x.py --a 1",
        "x=$((1 / 0))\ndeepspeed x.py --a 1",
        "if $(ssh -q host 'test -f x'); then exit 1; fi\ndeepspeed x.py --a 1",
        "source ./other.sh\ncd /nowhere\ndeepspeed x.py --a 1\r",
    ],
)
def test_however_it_is_started(tmp_path, line):
    assert started_by(script_of(tmp_path, line + "\n")) == [["deepspeed", "x.py", "--a", "1"]]


def test_a_script_changes_nothing_and_sees_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "seen")
    keep = tmp_path / "keep"
    keep.write_text("kept")
    made = tmp_path / "made"
    lines = [
        f"rm -rf {keep}",
        f"echo > {keep}; echo x >> {keep}",
        f": > {made}/x; mkdir {made}; touch {made}; /bin/touch {made}; command touch {made}",
        f"bash -c 'touch {made}'; sh -c 'touch {made}'; command -p touch {made}",
        f"set +r; echo > {made}",
        f"PATH=/usr/bin:/bin; touch {made}",
        f"export PATH=/usr/bin:/bin; touch {made}",
        f"hash -p /bin/touch t; t {made}",
        f"enable -f /bin/touch x; exec 3> {made}",
        f"cat <<< x > {made} ",
        f"tail x | tee {made} | cat",
        f"kill -9 {os.getpid()}",
        "deepspeed seen.py [$SECRET]",
    ]
    found = started_by(script_of(tmp_path, "\n".join(lines) + "\n"))
    assert found == [["deepspeed", "seen.py", "[]"]]
    assert keep.read_text() == "kept"
    assert not made.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep", "old script.sh"]


def test_a_script_that_does_not_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(launch_script, "LONGEST_SECONDS", 1)
    with pytest.raises(ValueError, match="does not end within 1 seconds"):
        started_by(script_of(tmp_path, "while true; do sleep 1; done\n"))


def test_without_bash_or_script_it_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        started_by(tmp_path / "gone.sh")
    monkeypatch.setattr(launch_script.shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="bash is not installed"):
        started_by(tmp_path / "gone.sh")


def test_the_first_pretraining_is_meant():
    commands = [["python", "tools/x.py"], ["srun", "python", "pretrain_bert.py", "--a"], ["python"]]
    assert training_command(commands) == ("pretrain_bert.py", ["--a"])
    assert training_command([["python", "x.py"]]) is None
