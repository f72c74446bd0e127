import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.reporting import RunLogger, read_log
from megatron.run_page.log_tail import LogTail, setting

START = {"kind": "start", "settings": {"training": {"lr": 1.0}}}


def line(kind, step, **more):
    return json.dumps({"kind": kind, "step": step, **more}) + "\n"


def append(folder, text):
    with (folder / "log.jsonl").open("a") as file:
        file.write(text)


def steps(log, kind="train"):
    return [record["step"] for record in log.records(kind)]


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path):
    log = LogTail(tmp_path / "later")
    assert not log.poll()
    assert log.start is None
    (tmp_path / "later").mkdir()
    append(tmp_path / "later", json.dumps(START) + "\n")
    assert log.poll()
    assert log.start == START
    assert not log.poll()


def test_a_half_written_line_counts_once_it_is_whole(tmp_path):
    append(tmp_path, line("train", 1) + line("train", 2)[:9])
    log = LogTail(tmp_path)
    log.poll()
    assert steps(log) == [1]
    assert not log.poll()
    append(tmp_path, line("train", 2)[9:])
    assert log.poll()
    assert steps(log) == [1, 2]
    assert log.num_damaged == 0


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=6), torn=st.integers(0, 30))
def test_pieces_of_any_size_give_what_reading_at_once_gives(tmp_path_factory, cuts, torn):
    folder = tmp_path_factory.mktemp("run")
    text = json.dumps(START) + "\n" + "".join(line("train", step, loss=1.5) for step in range(1, 9))
    text += line("valid", 8, loss=1.0) + line("end", 8, reason="budget")
    text = text[: len(text) - torn]
    log, before = LogTail(folder), 0
    for cut in [*sorted(cuts), len(text)]:
        append(folder, text[before:cut])
        before = max(before, min(cut, len(text)))
        log.poll()
    whole = read_log(folder)
    # A last line that lacks its end of line only is read by the one, and waited for by the other.
    assert steps(log) == [record["step"] for record in whole.train]
    assert steps(log, "valid") == [record["step"] for record in whole.valid]
    assert log.start == whole.start
    if torn != 1:
        assert log.end == whole.end


def test_a_step_logged_twice_counts_once_and_the_later_line(tmp_path):
    append(tmp_path, line("train", 5, loss=1) + line("train", 6, loss=2) + line("train", 5, loss=3))
    log = LogTail(tmp_path)
    log.poll()
    assert [record["loss"] for record in log.records("train")] == [3, 2]


def test_a_resumed_run_cuts_its_log_back(tmp_path):
    with RunLogger(tmp_path, START) as logger:
        for step in range(1, 8):
            logger.write({"kind": "train", "step": step, "loss": 1.0})
        logger.write({"kind": "end", "step": 7, "reason": "signal SIGTERM"})
    log = LogTail(tmp_path)
    log.poll()
    assert steps(log) == [*range(1, 8)]
    assert log.end is not None
    with RunLogger(tmp_path, START, resumed={"step": 4}) as logger:
        logger.write({"kind": "resume", "step": 4})
        log.poll()
        assert steps(log) == [1, 2, 3, 4]
        assert log.end is None
        logger.write({"kind": "train", "step": 5, "loss": 2.0})
        log.poll()
    assert steps(log) == [1, 2, 3, 4, 5]
    assert log.resumes == [4]


def test_a_log_rewritten_in_place_is_read_anew(tmp_path):
    append(tmp_path, line("train", 1, note="a" * 400) + line("train", 2))
    log = LogTail(tmp_path)
    log.poll()
    number = os.stat(tmp_path / "log.jsonl").st_ino
    (tmp_path / "log.jsonl").write_text("".join(line("train", 10 + i) for i in range(40)))
    assert os.stat(tmp_path / "log.jsonl").st_ino == number
    assert log.poll()
    assert steps(log) == [10 + i for i in range(40)]


def test_a_log_that_is_gone_leaves_nothing(tmp_path):
    append(tmp_path, json.dumps(START) + "\n" + line("train", 1))
    log = LogTail(tmp_path)
    log.poll()
    (tmp_path / "log.jsonl").unlink()
    assert log.poll()
    assert log.start is None
    assert steps(log) == []


@pytest.mark.parametrize(
    "bad", ["nonsense\n", "[1]\n", '{"kind": 3}\n', '{"kind": "train", "step": "x"}\n', "\x00\n"]
)
def test_lines_that_are_none_are_counted_and_left_out(tmp_path, bad):
    append(tmp_path, line("train", 1) + bad + line("train", 2))
    log = LogTail(tmp_path)
    log.poll()
    assert steps(log) == [1, 2]
    assert log.num_damaged == 1


def test_settings_of_any_form():
    assert setting(START, "training") == {"lr": 1.0}
    for start in (None, {}, {"settings": 3}, {"settings": {"training": 3}}):
        assert setting(start, "training") == {}
