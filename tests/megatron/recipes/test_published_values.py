"""What the shipped recipes and models say, beside what was published."""

import pytest
import torch

from data_efficiency import StepShape, load_config, training_flops
from megatron.engine_json import engine_json
from megatron.model.bert_model import BertModel
from megatron.model.gpt_model import GPTModel
from megatron.optimizer_param_scheduler import make_learning_rate
from megatron.recipes import SHIPPED
from megatron.run_state import model_shape
from tests.megatron.recipes.recipe_files import read

# GPT-3: Brown et al. 2020, table 2.1. BERT: the size menu of ds_pretrain_bert_336M_base_script.sh, which is
# that of Devlin et al. 2019 and Shoeybi et al. 2020.
PUBLISHED_SIZES = {
    "gpt": ("125m", "350m", "760m", "1.3b", "2.7b", "6.7b", "13b", "175b"),
    "bert": ("110m", "336m", "1.3b", "3.9b"),
}
MODEL_CLASSES = {"gpt": GPTModel, "bert": BertModel}
ANY_RECIPE = {"gpt": "gpt_baseline_300b", "bert": "bert_baseline_1049b"}


@pytest.mark.parametrize("name", SHIPPED.models)
def test_models_have_their_published_size_and_operations(name):
    architecture, size = name.split("_")
    published = float(size[:-1]) * {"m": 1e6, "b": 1e9}[size[-1]]
    config = read(ANY_RECIPE[architecture], "--model", name)
    with torch.device("meta"):
        model = MODEL_CLASSES[architecture](config.model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters == pytest.approx(published, rel=0.02)

    layers, hidden = config.model.num_layers, config.model.hidden_size
    length, vocabulary = config.data.seq_length, config.model.padded_vocab_size
    # Narayanan et al. 2021, section 5.1, without recomputation: 72 B s l h^2 (1 + s/6h + V/12lh).
    share = 1 + length / (6 * hidden) + vocabulary / (12 * layers * hidden)
    closed_form = 72 * length * layers * hidden**2 * share
    row = StepShape(num_rows=1, sequence_length=length)
    assert training_flops(row, model_shape(config.model)) == pytest.approx(closed_form, rel=1e-12)


def test_bert_large_to_the_last_digit():
    """Its published 336 million, as the sum of its parts."""
    with torch.device("meta"):
        model = BertModel(read("bert_baseline_1049b").model)
    hidden, vocabulary = 1024, 30592
    embeddings = (vocabulary + 512 + 2) * hidden
    layer = 12 * hidden**2 + 13 * hidden
    heads = 2 * (hidden**2 + hidden) + 2 * hidden + vocabulary + 2 * hidden + 2
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == embeddings + 24 * layer + 2 * hidden + heads == 336_297_858


def test_the_size_menu_is_complete():
    assert set(SHIPPED.models) == {
        f"{architecture}_{size}"
        for architecture, sizes in PUBLISHED_SIZES.items()
        for size in sizes
    }


def test_the_composed_recipe_of_gpt():
    config = read("gpt_cl_ltd_150b")
    assert (config.training.lr, config.training.train_tokens) == (4e-4, 150 * 10**9)
    assert (config.training.batch_size, config.training.micro_batch_size) == (512, 8)
    section = load_config(engine_json(config)).data_efficiency
    rarity, length = section.schedules.values()
    assert (rarity.min_difficulty, rarity.total_curriculum_step, rarity.root_degree) == (
        1,
        55_000,
        2,
    )
    assert (length.min_difficulty, length.difficulty_step, length.max_difficulty) == (80, 8, 2048)
    dropping = section.random_ltd
    assert dropping.random_ltd_layer_id == tuple(range(1, 23))
    schedule = dropping.schedule
    assert (schedule.total_curriculum_step, schedule.difficulty_step) == (10**5, 16)


def test_the_composed_recipe_of_bert():
    config = read("bert_cl_ltd_524b")
    training = config.training
    assert (training.lr, training.min_lr, training.lr_decay_style) == (2e-4, 1e-5, "linear")
    section = load_config(engine_json(config)).data_efficiency
    assert section.random_ltd.model_type == "encoder"
    assert [section.num_workers, section.seed] == [4, 1234]
    # 10,000 steps, in which lengths grow from 128 of 512 and no layer drops of what is shorter.
    assert make_learning_rate(config, model_shape(config.model)).warmup == 1_310_720_682


@pytest.mark.parametrize("name", ["bert_cl_reorder_1049b", "bert_cl_voc_reorder_1049b"])
def test_reordering_selects_samples_and_trims_their_padding(name):
    """The published case of `seqlen` says single_cluster, which selects none."""
    section = load_config(engine_json(read(name))).data_efficiency
    (selection,), (length,) = section.selections, section.length_plans
    assert selection.name == length.name
    assert (length.action, length.length_multiple) == ("trim_padding", 8)
    assert (selection.schedule.difficulty(1), selection.schedule.difficulty(960_000)) == (5, 100)


@pytest.mark.parametrize("name", SHIPPED.recipes)
def test_padding_is_trimmed_where_bert_has_a_curriculum_that_does_not_truncate(name):
    section = load_config(engine_json(read(name))).data_efficiency
    actions = {length.action for length in section.length_plans} - {"attention_window"}
    if section.schedules and not actions & {"truncate", "reshape"}:
        assert actions == ({"trim_padding"} if name.startswith("bert") else set())
    else:
        assert "trim_padding" not in actions
