"""A run whose attention stays inside documents: counters, a resume, sharded engines, and what cannot keep documents."""

from dataclasses import replace

import numpy as np
import pytest

import pretrain_bert
import pretrain_gpt
from megatron.arguments import parse_run_config
from megatron.training import pretrain
from tests.end_to_end.bert_runs import bert_flags
from tests.end_to_end.engine_runs import log_lines
from tests.end_to_end.test_attention_window import flags_of, write_windows
from tests.end_to_end.tiny_runs import NUM_LAYERS, SEQ_LENGTH, training_flags, write_composed
from tests.processes import run_python

DOCUMENTS = {"reset_attention_mask": True, "reset_position_ids": True, "eod_mask_loss": True}


def train_lines(folder):
    return [line for line in log_lines(folder) if line["kind"] == "train"]


def losses_of(folder):
    return {line["step"]: line["loss"] for line in train_lines(folder)}


def test_counters_are_a_brute_force_count(workspace, tmp_path):
    """Of every batch that the model was given, pair by pair and label by label."""
    seen = []

    def forward_step(engine, batch):
        if engine.module.training:
            seen.append({name: entry.numpy() for name, entry in batch.items()})
        return pretrain_gpt.forward_step(engine, batch)

    flags = training_flags(workspace, save=tmp_path / "run", train_iters=6, **DOCUMENTS)
    plain = training_flags(workspace, save=tmp_path / "plain", train_iters=6)
    task = replace(pretrain_gpt.TASK, forward_step=forward_step)
    assert pretrain(parse_run_config("", flags), task) == 0
    assert pretrain_gpt.main(plain) == 0
    spared = labels = 0
    for number, (line, other) in enumerate(
        zip(train_lines(tmp_path / "run"), train_lines(tmp_path / "plain"), strict=True)
    ):
        pairs = 0
        for batch in seen[2 * number : 2 * number + 2]:
            ids = batch["document_ids"]
            pairs += int((ids[:, :, None] == ids[:, None, :]).sum())
            labels += int((batch["labels"] != -100).sum())
        assert line["attended_share"] == pairs / (8 * SEQ_LENGTH**2)
        spared += 8 * SEQ_LENGTH**2 - pairs
        assert other["flops"] - line["flops"] == 3 * 4 * 32 * NUM_LAYERS * spared
        assert line["loss_tokens"] == labels < other["loss_tokens"]
        assert "attended_share" not in other
    assert spared > 0


def test_a_resume_goes_on_to_the_bit_and_other_documents_are_refused(workspace, tmp_path, capsys):
    config = write_windows(tmp_path / "windows.json")

    def run(folder, **flags):
        whole = {"train_iters": 12, "lr_decay_iters": 12, **DOCUMENTS}
        return pretrain_gpt.main(flags_of(workspace, config, tmp_path / folder, **(whole | flags)))

    assert run("whole") == 0
    assert run("parts", train_iters=5) == 0
    assert run("parts", load=tmp_path / "parts", eod_mask_loss=None) == 1
    refused = capsys.readouterr().err
    assert "documents.eod_mask_loss is False here and True there" in refused
    assert "--override documents" in refused
    assert run("parts", load=tmp_path / "parts") == 0
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")


@pytest.mark.parametrize("flags", [{"fsdp": 3}, {"deepspeed": True}])
def test_sharded_it_is_the_same(workspace, tmp_path, flags):
    """With windows and dropped tokens; in a process of its own, as engines leave their environment behind."""
    config = write_windows(tmp_path / "windows.json")
    both = {"train_iters": 6, **DOCUMENTS}
    assert pretrain_gpt.main(flags_of(workspace, config, tmp_path / "plain", **both)) == 0
    run_python("pretrain_gpt.py", *flags_of(workspace, config, tmp_path / "other", **both, **flags))
    plain, other = train_lines(tmp_path / "plain"), train_lines(tmp_path / "other")
    assert [line["loss"] for line in other] == pytest.approx(
        [line["loss"] for line in plain], rel=1e-5
    )
    for name in ("attended_share", "flops", "loss_tokens"):
        assert [line[name] for line in other] == [line[name] for line in plain]


def test_rows_that_are_reshaped_keep_their_documents(workspace, tmp_path):
    config = write_composed(tmp_path / "reshape.json", workspace, reshape=True, dropping=False)
    flags = {"train_iters": 4, "data_efficiency_curriculum_learning": True}
    flags |= {"deepspeed_config": config, "reset_attention_mask": True, "save": tmp_path / "run"}
    ends = []

    def forward_step(engine, batch):
        if engine.module.training:
            ends.append(batch["document_ids"].numpy())
            # A row of the shorter ones that holds the ends of two samples tells them apart.
            assert (np.diff(ends[-1], axis=1) >= 0).all()
        return pretrain_gpt.forward_step(engine, batch)

    task = replace(pretrain_gpt.TASK, forward_step=forward_step)
    assert pretrain(parse_run_config("", training_flags(workspace, **flags)), task) == 0
    assert ends[0].shape[1] < SEQ_LENGTH
    message = "--reset-position-ids is True: seqlen_reshape lays rows end to end"
    flags |= {"reset_position_ids": True, "save": tmp_path / "other"}
    with pytest.raises(ValueError, match=message):
        pretrain(parse_run_config("", training_flags(workspace, **flags)), task)


def test_what_cannot_keep_documents(workspace, bert_workspace, tmp_path, capsys):
    bags = tmp_path / "bags.json"
    bags.write_text(
        '{"data_efficiency": {"data_routing": {"token_superposition": '
        '{"enabled": true, "bag_size": 2, "num_steps": 2}}}}'
    )
    flags = training_flags(
        workspace, deepspeed_config=bags, save=tmp_path / "a", reset_attention_mask=True
    )
    assert pretrain_gpt.main(flags) == 1
    assert "token_superposition makes one position of tokens of two" in capsys.readouterr().err
    flags = bert_flags(bert_workspace, None, save=tmp_path / "b", reset_attention_mask=True)
    assert pretrain_bert.main(flags) == 1
    assert "it belongs to pretrain_gpt.py" in capsys.readouterr().err
