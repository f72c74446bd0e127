import pytest

from megatron.study.stages import (
    child_environment,
    is_prepared,
    prepare_shared,
    what_runs_share,
)
from tests.megatron.study.studies import STUDY, a_study

MAKER = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"


@pytest.fixture
def two_stages(tmp_path):
    """A study whose two stages append to a file each."""
    maker = tmp_path / "maker.py"
    maker.write_text(MAKER)
    (tmp_path / "read").write_text("1")

    def read(first="a"):
        text = STUDY
        for name, word in (("first", first), ("second", "b")):
            reads = f'reads = ["{tmp_path}/read"]' if name == "first" else ""
            text += f"""
[[prepare]]
name = "{name}"
makes = "{{output}}/{name}"
command = ["{maker}", "{{output}}/{name}", "{word}"]
{reads}
"""
        return a_study(tmp_path, text)

    return read


def test_each_is_made_once(two_stages, tmp_path):
    lines = []
    assert not is_prepared(two_stages())
    prepare_shared(two_stages(), lines.append)
    prepare_shared(two_stages(), lines.append)
    assert is_prepared(two_stages())
    assert (tmp_path / "runs" / "first").read_text() == "a"
    assert lines[-2:] == ["[1/2] first: done before", "[2/2] second: done before"]


def test_a_changed_command_redoes_it_and_all_after(two_stages, tmp_path):
    prepare_shared(two_stages(), print)
    (tmp_path / "runs" / "second").write_text("older")
    prepare_shared(two_stages(first="c"), print)
    assert (tmp_path / "runs" / "first").read_text() == "c"
    assert (tmp_path / "runs" / "second").read_text() == "b"


def test_a_file_that_is_read_counts_too(two_stages, tmp_path):
    prepare_shared(two_stages(), print)
    (tmp_path / "read").write_text("longer")
    assert not is_prepared(two_stages())


def test_a_file_that_is_not_given_is_not_read(two_stages, tmp_path, monkeypatch):
    """An empty name is no folder: not the one that the command was started in either."""
    monkeypatch.chdir(tmp_path)
    text = STUDY + '[values]\ncorpus = ""\n'
    text += "[[prepare]]\nname = 'a'\nmakes = 'b'\ncommand = ['c']\nreads = ['{corpus}']\n"
    before = what_runs_share(a_study(tmp_path, text))
    (tmp_path / "another").write_text("file")
    assert what_runs_share(a_study(tmp_path, text)) == before
    (tmp_path / "own").write_text("text")
    assert what_runs_share(a_study(tmp_path, text, values={"corpus": "own"})) != before


def test_lost_output_is_made_again(two_stages, tmp_path):
    prepare_shared(two_stages(), print)
    (tmp_path / "runs" / "second").unlink()
    prepare_shared(two_stages(), print)
    assert (tmp_path / "runs" / "second").read_text() == "b"


def test_a_stage_that_fails_is_named_and_tried_again(two_stages, tmp_path):
    (tmp_path / "maker.py").write_text("raise SystemExit(3)")
    with pytest.raises(ChildProcessError, match="stage first ended with exit code 3"):
        prepare_shared(two_stages(), print)
    (tmp_path / "maker.py").write_text(MAKER)
    prepare_shared(two_stages(), print)
    assert is_prepared(two_stages())


def test_a_stage_must_make_what_it_says(two_stages, tmp_path):
    (tmp_path / "maker.py").write_text("")
    with pytest.raises(ChildProcessError, match=r"stage first did not make .*runs/first"):
        prepare_shared(two_stages(), print)
    assert not is_prepared(two_stages())


def test_a_cpus_environment_is_below_what_is_set_and_not_for_a_gpu(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    found = child_environment()
    assert found["OMP_WAIT_POLICY"] == "ACTIVE"
    assert found["GLIBC_TUNABLES"].startswith("glibc.malloc.hugetlb=1:")
    assert "GLIBC_TUNABLES" not in child_environment(on_gpu=True)
