import signal
import subprocess
import sys
import urllib.request

import pytest

from tests.megatron.study.made_up_runs import write_made_up_run
from tests.processes import ROOT
from tools.watch import main

pytest.importorskip("plotly", reason="plotly is not installed")


def test_a_page_in_one_file(tmp_path, capsys):
    write_made_up_run(tmp_path / "a & <b>", budget=300_000)
    page = tmp_path / "page.html"
    assert main([str(tmp_path / "a & <b>"), "--html", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert "<title>a &amp; &lt;b&gt;</title>" in text
    assert '"last_valid"' in text
    assert main([str(tmp_path / "a & <b>"), "--title", "For a mail", "--html", str(page)]) == 0
    assert "<title>For a mail</title>" in page.read_text()


def test_served_until_it_is_interrupted(tmp_path):
    write_made_up_run(tmp_path / "a", budget=300_000)
    command = [sys.executable, "tools/watch.py", str(tmp_path / "a"), "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address, _, rest = process.stdout.readline().partition(" ")
        assert rest == "shows a; Ctrl-C ends it\n"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"<title>a</title>" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == "no longer served\n"


def test_bad_input_is_one_line(tmp_path, refused):
    assert "gone is no folder" in refused(main, [tmp_path / "gone"])
    run = write_made_up_run(tmp_path / "a", budget=300_000)
    assert "log.jsonl" in refused(main, [run, "--html", run / "log.jsonl"])
    assert (run / "log.jsonl").read_text().startswith('{"num_parameters"')
