import json
import tomllib

import pytest

from megatron.arguments import parse_run_config
from tests.megatron.migration.test_words import BERT, GPT
from tools.migrate import main

UNKNOWN = "--some-new-flag 3 --num-experts 8"


@pytest.fixture
def migrated(tmp_path, monkeypatch, capsys):
    """A function (program, flags, arguments of migrate) -> run file, and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(program, flags, *arguments):
        script = tmp_path / "old.sh"
        text = 'options="' + " ".join(flags.split()) + '"\n'
        script.write_text(f"{text}deepspeed ../../{program} $options $1 &>> log\n")
        assert main(["--output", "run.toml", *arguments, str(script)]) == 0
        return (tmp_path / "run.toml").read_text(), capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("program", "flags", "architecture"),
    [("pretrain_gpt.py", GPT, "gpt"), ("pretrain_bert.py", BERT, "bert")],
)
def test_a_published_command_line_becomes_a_run_file_of_the_same_run(
    migrated, tmp_path, program, flags, architecture
):
    (tmp_path / "ds.json").write_text('{"gradient_clipping": 1.0}')
    text, printed = migrated(program, flags)
    assert "NOT TAKEN OVER" not in text
    assert printed.err == ""
    direct = parse_run_config("", flags.split(), architecture=architecture)
    again = parse_run_config("", ["--config", "run.toml"], architecture=architecture)
    for group in ("model", "data", "training", "logging"):
        assert getattr(again, group) == getattr(direct, group)
    assert again.checkpoint.save == again.checkpoint.load == "ckpt"


def test_what_has_no_place_is_told_and_left_out(migrated):
    text, printed = migrated("pretrain_gpt.py", f"{GPT} {UNKNOWN}")
    assert printed.err.splitlines() == [
        "not taken over: --num-experts 8: layers have no experts; instead: leave it out",
        "not taken over: --some-new-flag 3: there is no such flag",
        "not taken over: --deepspeed_config ds.json: there is no such file here; give it beside --config, or "
        "write its data_efficiency section into the run file",
    ]
    for line in printed.err.splitlines():
        assert "# NOT TAKEN OVER: " + line.removeprefix("not taken over: ") in text
    assert "# --checkpoint-activations: --recompute-activations, each layer" in text
    assert tomllib.loads(text)["model"]["num_layers"] == 24


def test_sections_of_the_json_file_are_in_the_run_file(migrated, tmp_path):
    content = {"data_efficiency": {"data_routing": {"random_ltd": {"enabled": False}}}}
    (tmp_path / "ds.json").write_text(json.dumps(content))
    text, _ = migrated("pretrain_gpt.py", GPT)
    assert "data_routing" in tomllib.loads(text)["data_efficiency"]


def test_it_is_printed_where_no_file_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "old.sh"
    script.write_text(
        f'if [ "$2" = "x" ]; then deepspeed $HOME/pretrain_gpt.py {" ".join(GPT.split())}; fi\n'
    )
    assert main(["--set", "HOME=here", str(script), "--first", "x"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# python pretrain_gpt.py --config run.toml\n")
    assert tomllib.loads(printed)["training"]["lr"] == 2e-4


def test_bad_input_is_one_line(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "old.sh"
    script.write_text("python train.py\n")
    assert "starts no pretrain_gpt.py or pretrain_bert.py" in refused(main, [script])
    assert "write NAME=VALUE" in refused(main, ["--set", "x", script])
    script.write_text("deepspeed pretrain_gpt.py --num-layers 2 --zero-stage 1\n")
    assert "not given: --data-path" in refused(main, [script])
    assert "gone.sh" in refused(main, ["gone.sh"])
    script.write_text(f"deepspeed pretrain_gpt.py {' '.join(GPT.split())}\n")
    assert "old.sh" in refused(main, ["--output", script, script])
    assert script.read_text().startswith("deepspeed")
