import shlex

from tests.examples_deepspeed.data_efficiency.finished_run import ROOT
from tests.examples_deepspeed.data_efficiency.stopped_script import check_a_stop_ends_what_runs
from tests.examples_deepspeed.shell_runs import start
from tests.megatron.finetuning.bert_task_data import save_bert_run, write_sentiment
from tools.finetune_bert import parse_arguments

SCRIPT = ROOT / "examples_deepspeed/data_efficiency/bert/finetune/ds_finetune_bert_glue_run.sh"


def test_dry_run_prints_a_published_sweep_for_each_device(tmp_path):
    flags = ["--checkpoint", "a b", "--data", "glue", "--output", "out", "--bf16"]
    said = start(SCRIPT, *flags, cwd=tmp_path, DEVICES="0 1", DRY_RUN="1")
    assert (said.returncode, said.stderr) == (0, "")
    lines = [shlex.split(line) for line in said.stdout.splitlines()]
    parsed = [parse_arguments(line[line.index("--checkpoint") :]) for line in lines]
    assert [(one.worker_id, one.num_workers) for one in parsed[:2]] == [(0, 2), (1, 2)]
    assert parsed[2].table
    one = parsed[0]
    assert (str(one.checkpoint), one.data, one.bf16) == ("a b", "glue", True)
    assert one.tasks.count(",") == 7
    assert one.seeds == "1234,1235,1236,1237,1238"
    assert one.learning_rates == "2e-05,3e-05,4e-05,5e-05"
    assert (one.epochs, one.batch_size, one.weight_decay, one.max_length) == (3, 32, 0.1, 512)
    assert not list(tmp_path.iterdir())


def test_it_finetunes(tmp_path):
    save_bert_run(tmp_path / "run")
    write_sentiment(tmp_path / "glue", num_train=8)
    flags = ["--checkpoint", "run", "--data", "glue", "--output", "out", "--tasks", "SST-2"]
    flags += ["--seeds", "1", "--learning-rates", "1e-3", "--max-length", "32", "--epochs", "1"]
    said = start(SCRIPT, *flags, cwd=tmp_path, DEVICES="cpu")
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "out/SST-2/lr0.001_seed1.json").is_file()
    assert "| 0.001 | " in said.stdout


def test_a_stop_ends_what_runs(tmp_path):
    flags = ["--checkpoint", "run", "--data", "glue", "--output", "out"]
    check_a_stop_ends_what_runs(SCRIPT, tmp_path, *flags, DEVICES="cpu cpu")
