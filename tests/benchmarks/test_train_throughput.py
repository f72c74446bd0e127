import json

import pytest
import torch

from benchmarks import train_throughput
from benchmarks.train_throughput import (
    PEERS,
    SMALL,
    TARGETS,
    TrainingSteps,
    main,
    misses,
    table,
    write_table,
)


@pytest.mark.full
def test_small_size_ends_with_figures_of_both_sides(capfd):
    assert main(["--small", "--rounds", "1"]) == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    (found,) = (value for name, value in figures.items() if name.endswith("fp32"))
    for side in ("ours", *train_throughput.PEERS):
        assert found[side]["tokens_per_second"] > 0
        assert found[side]["memory_growth_mib"] >= 0
    assert found["wall_ratio_to_huggingface"] > 0


def test_both_sides_are_the_same_function():
    ours, peer = (TrainingSteps(side, SMALL, "fp32") for side in ("ours", "huggingface"))
    source = dict(peer.model.transformer.named_parameters())
    pairs = {"wte.weight": "word_embeddings.weight", "wpe.weight": "position_embeddings.weight"}
    with torch.no_grad():
        target = dict(ours.model.language_model.named_parameters())
        for theirs, mine in pairs.items():
            target[mine][: len(source[theirs])] = source[theirs]
        for theirs, mine in (
            ("attn.c_attn", "self_attention.query_key_value"),
            ("attn.c_proj", "self_attention.dense"),
            ("mlp.c_fc", "mlp.dense_h_to_4h"),
            ("mlp.c_proj", "mlp.dense_4h_to_h"),
        ):
            target[f"layers.0.{mine}.weight"].copy_(source[f"h.0.{theirs}.weight"].t())
            target[f"layers.0.{mine}.bias"].copy_(source[f"h.0.{theirs}.bias"])
        logits = ours.model(ours.tokens)[..., : SMALL.vocab_size]
        expected = peer.model(input_ids=ours.tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_missed_targets_are_named():
    memory = {"memory_growth_mib": 10}
    good = {
        f"{shape} {precision}": {
            "wall_ratio_to_huggingface": 2.0,
            "ours": {"memory_growth_mib": 5},
            "huggingface": memory,
            "huggingface_tuned": memory,
            "plain": memory,
        }
        for shape, precision in TARGETS
    }
    assert misses(good) == []
    slow = {name: row | {"wall_ratio_to_huggingface": 0.99} for name, row in good.items()}
    assert len(misses(slow)) == len(TARGETS)
    large = {name: row | {"ours": memory} for name, row in good.items()}
    assert len(misses(large)) == 2


def test_check_refuses_the_small_size():
    with pytest.raises(SystemExit):
        main(["--small", "--check"])


def test_the_table_takes_its_place_in_a_page(tmp_path):
    page = tmp_path / "page.md"
    text = "above\n<!-- train_throughput -->\nold\n<!-- end of train_throughput -->\nbelow\n"
    page.write_text(text)
    row = {"tokens_per_second": 1234, "memory_growth_mib": 5}
    ratios = {f"{kind}_ratio_to_{peer}": 1.5 for kind in ("wall", "cpu") for peer in PEERS}
    found = {"2x8x300 bf16": dict.fromkeys(("ours", "ours_bf16_weights", *PEERS), row) | ratios}
    write_table(page, table(found))
    written = page.read_text()
    assert written.startswith("above\n<!--")
    assert written.endswith("\n<!-- end of train_throughput -->\nbelow\n")
    assert "old" not in written
    assert "| 2x8x300 bf16 | plain | 1,234 | 1.50 (1.50) | 5 MiB |" in written
    page.write_text("nothing")
    with pytest.raises(ValueError, match="it has no line <!-- train_throughput -->"):
        write_table(page, "")


def test_rounded_weights_train_by_their_masters():
    rounded = TrainingSteps("ours_bf16_weights", SMALL, "bf16")
    weight = rounded.model.layers[0].mlp.dense_h_to_4h.weight
    before = weight.detach().clone()
    for _ in range(3):
        rounded.step()
    assert weight.dtype == torch.bfloat16
    assert not torch.equal(weight, before)
