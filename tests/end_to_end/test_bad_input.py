"""Wrong input to pretrain_gpt.py: one clear line, exit code 1, nothing half-written."""

import json
import re
import shutil
from dataclasses import asdict

import pytest

import pretrain_bert
import pretrain_gpt
from data_efficiency.files import result_folder
from megatron.arguments import parse_run_config
from megatron.checkpoint.saving import save_checkpoint
from megatron.run_settings import with_batch_size
from tests.end_to_end.bert_runs import bert_flags
from tests.end_to_end.tiny_runs import composed_flags, training_flags, write_text
from tests.processes import run_python


@pytest.fixture
def failure(refused):
    """A function of flags -> the one line of a refused GPT."""
    return lambda flags: refused(pretrain_gpt.main, flags)


def changed_config(path, target, change):
    content = json.loads(path.read_text())
    change(content["data_efficiency"])
    target.write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"vocab_size": 200}, "was made with a vocabulary of"),
        ({"split": "8,2,0"}, "split: expected .*9,1,0"),
        (
            {"global_batch_size": 10},
            r"--global-batch-size is 10: must be a multiple of --micro-batch-size \(4\)",
        ),
        ({"attention_implementation": "flash"}, "--attention-implementation is 'flash': "),
        (
            {"optimizer_implementation": "apex"},
            "--optimizer-implementation is 'apex': apex cannot be imported",
        ),
        ({"bf16": True, "fp16": True}, "--bf16 is given too"),
        ({"num_layers": 5}, "total_layer_num"),
        ({"split": "nan,1,1"}, "--split is 'nan,1,1': must be up to three numbers"),
        ({"split": "1e308,1e308"}, "--split is '1e308,1e308': must be up to three numbers"),
    ],
)
def test_flags_that_do_not_fit(workspace, composed_config, failure, flags, message):
    assert re.search(message, failure(composed_flags(workspace, composed_config, **flags)))


def test_flag_against_json(workspace, composed_config, tmp_path, failure):
    content = json.loads(composed_config.read_text()) | {"gradient_clipping": 0.5}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    line = failure([*composed_flags(workspace, path), "--clip-grad", "1"])
    assert "gradient_clipping is 0.5 in " in line
    assert "but --clip-grad is 1.0: make them equal" in line
    line = failure(training_flags(workspace, deepspeed_config=path) + ["--no-random-ltd"])
    assert "random_ltd.enabled is True in " in line
    assert "but --random-ltd is False" in line


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"zero_optimization": {"stage": 1}}, "zero_optimization.stage is 1: .* --deepspeed"),
        ({"scheduler": {"type": "WarmupLR"}}, "section 'scheduler': .* set by flags here"),
        ({"optimizer": {"type": "Adam"}}, "section 'optimizer': .* set by flags here"),
        ({"pipeline": {"stages": 2}}, "pipeline is .* would own the step"),
        (
            {"tensor_parallel": {"autotp_size": 2}},
            "autotp_size is 2, but --tensor-model-parallel-size is 1: give the flag",
        ),
        ({"bf16": []}, r"bf16 must be a JSON object, not \[\]"),
        ({"data_efficiency": []}, r"data_efficiency must be a JSON object, not \[\]"),
        ({"zero_optimisation": {"stage": 1}}, "nearest known key is 'zero_optimization'"),
        (
            {"data_efficiency": {"data_sampling": {"curiculum_learning": {}}}},
            "curiculum_learning is not a known key.*'curriculum_learning'",
        ),
        (
            {"data_efficiency": {"data_sampling": {"dynamic_batching": {"enabled": True}}}},
            "dynamic_batching.enabled is true: .* neither a seed nor a metric chooses",
        ),
    ],
)
def test_sections_that_no_engine_or_not_this_one_takes(
    workspace, tmp_path, failure, sections, message
):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(sections))
    assert re.search(message, failure(training_flags(workspace, deepspeed_config=path)))


def test_layer_token_rates_belong_to_the_flags(workspace, composed_config, tmp_path, failure):
    def change(section):
        section["data_routing"]["random_ltd"]["layer_token_lr_schedule"] = {
            "enabled": True,
            "total_layer_tokens": 1000,
        }

    path = changed_config(composed_config, tmp_path / "config.json", change)
    line = failure(composed_flags(workspace, path))
    assert "follows layer tokens by --train-tokens with --token-counter effective" in line


def test_processes_that_cannot_share_the_batch(workspace):
    config = parse_run_config("", training_flags(workspace, global_batch_size=8))
    with pytest.raises(ValueError, match=r"must be a multiple of .* x processes \(3\)"):
        with_batch_size(config, 3)
    alone = with_batch_size(
        parse_run_config("", training_flags(workspace, global_batch_size=None)), 3
    )
    assert alone.training.global_batch_size == 12


@pytest.fixture(scope="module")
def finished(workspace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert pretrain_gpt.main(training_flags(workspace, train_iters=2, save=folder)) == 0
    return folder


def test_checkpoint_of_another_model(workspace, finished, tmp_path, failure):
    before = sorted(path.name for path in finished.rglob("*"))
    flags = training_flags(workspace, load=finished, hidden_size=64, save=tmp_path / "new")
    line = failure(flags)
    assert "another model: --hidden-size is 64 here and 32 there" in line
    assert sorted(path.name for path in finished.rglob("*")) == before
    assert not (tmp_path / "new" / "latest").exists()


@pytest.mark.parametrize(
    ("flags", "message", "name"),
    [
        ({"seed": 4321}, "seed is 4321 here and 1234 there", "seed"),
        ({"split": "8,2,0"}, "split is '8,2,0' here and '9,1,0' there", "split"),
        ({"seq_length": 16}, "seq_length is 16 here and 32 there", "seq_length"),
        ({"global_batch_size": 4}, "global_batch_size is 4 here and 8 there", "global_batch_size"),
        ({"lr_decay_samples": 80}, "clock is 'samples' here and 'iters' there", "clock"),
    ],
)
def test_checkpoint_of_a_run_with_other_settings(
    workspace, finished, capsys, failure, flags, message, name
):
    line = failure(training_flags(workspace, load=finished, **flags))
    assert line == (
        "error: the checkpoint is of a run with other settings: "
        f"{message}; if this is meant, add --override {name}"
    )
    arguments = training_flags(workspace, load=finished, train_iters=3, **flags)
    assert pretrain_gpt.main([*arguments, "--override", name, "tokenizer"]) == 0
    output = capsys.readouterr().out
    assert f"overridden: {message}" in output
    assert "--override tokenizer lifts nothing" in output
    assert "stopped after step 3" in output
    assert ("as if none had been drawn" in output) == (name in ("seed", "split", "seq_length"))


def test_curriculum_and_token_dropping_of_another_run(
    workspace, composed_config, tmp_path, capsys, failure
):
    run = tmp_path / "run"
    flags = {"train_iters": 3, "save": run, "keep_last": 0}
    assert pretrain_gpt.main(composed_flags(workspace, composed_config, **flags)) == 0

    def change(section):
        metrics = section["data_sampling"]["curriculum_learning"]["curriculum_metrics"]
        metrics["seqlen_truncate"]["schedule_config"]["total_curriculum_step"] = 13
        metrics["vocab_rarity"]["min_difficulty"] = 11
        section["data_routing"]["random_ltd"]["random_ltd_schedule"]["min_value"] = 8

    path = changed_config(composed_config, tmp_path / "config.json", change)
    again = composed_flags(workspace, path, **flags | {"load": run, "train_iters": 5})
    line = failure(again)
    for text in (
        "curriculum.seqlen_truncate.schedule.total_curriculum_step is 13 here and 12 there",
        "curriculum.vocab_rarity.min_difficulty is 11 here and 10 there",
        "random_ltd.schedule.min_difficulty is 8 here and 4 there",
        "add --override curriculum random_ltd",
    ):
        assert text in line
    assert pretrain_gpt.main([*again, "--override", "curriculum", "random_ltd"]) == 0
    assert "stopped after step 5" in capsys.readouterr().out
    # The new settings are the checkpoint's from now on: the same command goes on without a word.
    again[again.index("--train-iters") + 1] = "6"
    assert pretrain_gpt.main(again) == 0
    assert "overridden" not in capsys.readouterr().out


def test_corpus_and_index_replaced_between_runs(
    workspace, composed_config, tmp_path, capsys, failure
):
    """The same paths, other content."""
    text, corpus, difficulty = (tmp_path / name for name in ("text.jsonl", "corpus", "difficulty"))

    def prepare(seed):
        write_text(text, seed=seed)
        run_python(
            *("tools/preprocess_data.py", "--input", text, "--workers", 1, "--append-eod"),
            *("--tokenizer-file", workspace / "tokenizer.json", "--output-prefix", corpus),
            *(["--overwrite"] if seed else []),
        )
        shutil.rmtree(difficulty, ignore_errors=True)
        run_python(
            *("tools/analyze_data.py", "run", "--data-path", f"{corpus}_text_document"),
            *("--split", "9,1,0", "--seq-length", 32, "--metric", "vocab_rarity"),
            *("--save", difficulty, "--num-processes", 1),
        )

    def change(section):
        metrics = section["data_sampling"]["curriculum_learning"]["curriculum_metrics"]
        metrics["vocab_rarity"]["index_path"] = str(difficulty / "vocab_rarity")

    path = changed_config(composed_config, tmp_path / "config.json", change)
    flags = {"data_path": f"{corpus}_text_document", "save": tmp_path / "run"}
    prepare(seed=0)
    assert pretrain_gpt.main(composed_flags(workspace, path, train_iters=2, **flags)) == 0
    prepare(seed=1)
    again = composed_flags(workspace, path, train_iters=4, load=tmp_path / "run", **flags)
    line = failure(again)
    for text in ("data.identity.corpus is '", "difficulty_index.vocab_rarity is '"):
        assert text in line
    assert line.endswith("add --override data difficulty_index")
    assert pretrain_gpt.main([*again, "--override", "data", "difficulty_index"]) == 0
    assert "samples are drawn as if none had been drawn before" in capsys.readouterr().out


def test_checkpoint_of_a_gpt_for_a_bert(bert_workspace, finished, refused):
    off = {"random_ltd": None, "data_efficiency_curriculum_learning": None}
    line = refused(pretrain_bert.main, bert_flags(bert_workspace, None, load=finished, **off))
    assert "global_step2 is of a GPTModel: this run trains a BertModel" in line


def test_whole_words_without_a_tokenizer(bert_workspace, refused):
    line = refused(pretrain_bert.main, bert_flags(bert_workspace, None, mask_whole_words=True))
    assert "--mask-whole-words is True: give the tokenizer by --vocab-file" in line


def test_checkpoint_of_a_newer_format(workspace, finished, tmp_path, failure):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    manifest = json.loads((run / "global_step2" / "manifest.json").read_text())
    del manifest["sha256"]
    result_folder.write_manifest(run / "global_step2", manifest | {"version": 3})
    line = failure(training_flags(workspace, load=run))
    assert "of version 3, this program reads version 2: update it" in line


def test_a_model_without_a_run(workspace, finished, tmp_path, failure):
    config = parse_run_config("", training_flags(workspace)).model
    state = {"model": asdict(config)}
    save_checkpoint(tmp_path, 0, weights=[], optimizer_state=[], state=state, keep_last=0)
    line = failure(training_flags(workspace, load=tmp_path))
    assert "holds a model alone, such as a converted one: no run to go on" in line


def test_damaged_checkpoints(workspace, finished, tmp_path, capsys, failure):
    run = tmp_path / "run"
    flags = training_flags(workspace, train_iters=4, save_interval=2, keep_last=1, save=run)
    shutil.copytree(finished, run)
    assert pretrain_gpt.main([*flags, "--load", str(run)]) == 0
    shutil.copytree(finished / "global_step2", run / "global_step2")
    whole = (run / "global_step4" / "model.safetensors").read_bytes()
    (run / "global_step4" / "model.safetensors").write_bytes(whole[:-4])
    capsys.readouterr()
    assert pretrain_gpt.main([*flags, "--load", str(run)]) == 0
    output = capsys.readouterr().out
    assert "warning: " in output
    assert "model.safetensors has " in output
    assert "global_step4 is set aside as global_step4.damaged" in output
    assert f"continuing from {run / 'global_step2'}" in output
    assert (run / "global_step4" / "model.safetensors").read_bytes() == whole
    for file in run.glob("global_step4/*.safetensors"):
        file.unlink()
    line = failure([*flags, "--load", str(run)])
    assert "no checkpoint in" in line
    assert "safetensors is missing" in line


def test_missing_checkpoint(workspace, tmp_path, failure):
    line = failure(training_flags(workspace, load=tmp_path))
    assert "has no checkpoint; to start afresh there, add --allow-missing-checkpoint" in line
    flags = training_flags(workspace, load=tmp_path, train_iters=1, allow_missing_checkpoint=True)
    assert pretrain_gpt.main(flags) == 0
