import json
import shutil
import tomllib

import pytest
import yaml

import pretrain_gpt
from megatron.config import ModelConfig
from megatron.conversion.model_card import CardFields, model_card, without_folders
from megatron.reporting import RUN_FILE
from tests.megatron.tiny_pretraining import flags_of, write_corpus

TECHNIQUES = {
    "data_sampling": {
        "enabled": True,
        "curriculum_learning": {
            "enabled": True,
            "curriculum_metrics": {
                "seqlen_truncate": {
                    "difficulty_type": "value",
                    "clustering_type": "single_cluster",
                    "min_difficulty": 8,
                    "max_difficulty": 16,
                    "schedule_type": "fixed_linear",
                    "schedule_config": {"total_curriculum_step": 4, "difficulty_step": 8},
                }
            },
        },
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 6 steps with checkpoints after 4 and 6, evaluated after each second step."""
    folder = tmp_path_factory.mktemp("a_secret_place")
    (folder / "json").write_text(json.dumps({"data_efficiency": TECHNIQUES}))
    flags = flags_of(
        write_corpus(folder),
        *("--save", str(folder / "run"), "--save-interval", "4", "--eval-interval", "2"),
        *("--eval-iters", "1", "--log-interval", "1", "--deepspeed_config", str(folder / "json")),
    )
    assert pretrain_gpt.main(flags) == 0
    return folder / "run"


def card_of(folder, **known):
    config = ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=2, vocab_size=128)
    return model_card("little", config, folder, CardFields(**known), pipeline="text-generation")


def test_a_card_says_what_the_run_did(run):
    text = card_of(run, license="mit", languages=("en",))
    _, metadata, body = text.split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "language": ["en"],
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["data-efficiency", "curriculum-learning"],
    }
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "valid"][-1]
    assert "6 steps of 8 samples." in body
    assert f"- corpus tokens read: {last['corpus_tokens']:,}\n" in body
    assert f"| 6 | {last['lm_loss']:.4f} |" in body
    assert "`seqlen_truncate` (truncate): length from 8 to 16 in 4 steps" in body
    assert "random-LTD" not in body
    assert "mit, for the weights" in body


def test_a_card_of_an_earlier_checkpoint_says_nothing_of_later_steps(run):
    body = card_of(run / "global_step4")
    assert "4 steps of 8 samples." in body
    assert "| 4 |" in body
    assert "| 6 |" not in body


def test_its_settings_run_and_no_folder_of_this_machine_is_in_it(run):
    text = card_of(run)
    assert "a_secret_place" not in text
    (settings,) = [part.split("```")[0] for part in text.split("```toml\n")[1:]]
    shown, ran = tomllib.loads(settings), tomllib.loads((run / RUN_FILE).read_text())
    assert shown["data"] == {**ran["data"], "data_path": ["corpus"]}
    assert shown["data_efficiency"] == ran["data_efficiency"]
    assert "save" not in shown["checkpoint"]


def test_without_a_run_it_says_that_nothing_is_known(tmp_path):
    text = card_of(tmp_path)
    assert "not known" in text
    assert "None was named" in text


def test_a_run_file_of_another_version_is_named_not_fatal(run):
    old = (run / RUN_FILE).read_text()
    try:
        (run / RUN_FILE).write_text(old.replace("[logging]", "[logging]\ntensorboard = true"))
        assert "The run file cannot be read now: " in card_of(run)
    finally:
        (run / RUN_FILE).write_text(old)


@pytest.mark.parametrize("path", ["/data/me/wiki", r"C:\\data\\wiki", "../wiki", "~/a b/wiki"])
def test_of_a_path_its_last_part_is_shown(path):
    assert without_folders(f'a = ["0.3", "{path}", "x"]') == 'a = ["0.3", "wiki", "x"]'


def test_orders_mixes_and_windows_are_told(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    start, *lines = (folder / "log.jsonl").read_text().splitlines()
    metric = {"clustering_type": "sorted", "index_path": "d/quality"}
    learning = {"enabled": True, "order": {"kind": "saw", "num_folds": 3}, "random_rank": True}
    learning["curriculum_metrics"] = {"rarity": metric | {"num_bands": 2}, "quality": metric}
    mix = {"weights": [[3, 1], [1, 1]], "at_tokens": [0, 1e9], "between": "linear"}
    record = json.loads(start)
    record["data_efficiency"] = {"data_sampling": {"curriculum_learning": learning, "mix": mix}}
    (folder / "log.jsonl").write_text("\n".join([json.dumps(record), *lines]) + "\n")
    body = card_of(folder)
    assert (
        "samples sorted by `rarity`, inside by `quality`, played saw, 3 folds over a random order"
        in body
    )
    assert (
        "sources weighted [0.75, 0.25] from 0 tokens on, [0.5, 0.5] from 1e+09 tokens on, linear between"
        in body
    )
