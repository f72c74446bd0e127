import pytest
import torch

from data_efficiency import ConfigError, StepShape, training_flops
from megatron.model.bert_model import BertModel
from megatron.model.gpt_model import GPTModel
from megatron.recipes import prepare_run, read_recipe
from megatron.run_state import model_shape
from tests.megatron.recipes.recipe_files import MODEL, PRETRAINING, RECIPE, SHIPPED, write_family

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
    recipe = read_recipe(SHIPPED, ANY_RECIPE[architecture], model=name)
    assert recipe.architecture == architecture
    config = prepare_run(recipe, num_processes=1).config()
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
    recipe = read_recipe(SHIPPED, "bert_baseline_1049b")
    config = prepare_run(recipe, num_processes=1).config().model
    with torch.device("meta"):
        model = BertModel(config)
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


def test_a_recipe_may_change_its_metrics(tmp_path):
    own = RECIPE + "[metrics.vocab_rarity]\nmin_difficulty = 9\n"
    metrics = read_recipe(write_family(tmp_path, recipe=own), "small_run").metrics
    assert metrics["vocab_rarity"]["min_difficulty"] == 9
    assert metrics["vocab_rarity"]["max_difficulty"] == 100
    assert metrics["seqlen_truncate"]["min_difficulty"] == 8


def test_files_are_laid_over_each_other(tmp_path):
    own = RECIPE.replace("[flags]", "[flags]\nlr = 5e-4\nseed = 8")
    recipe = read_recipe(write_family(tmp_path, recipe=own), "small_run")
    assert (recipe.flags["lr"], recipe.flags["seed"], recipe.flags["seq_length"]) == (5e-4, 8, 64)
    assert (recipe.title, recipe.result) == ("A title", "42.")
    assert recipe.random_ltd == {"min_value": 16, "seq_per_step": 8, "require_steps": 70}
    assert recipe.full_length_steps == 100


@pytest.mark.parametrize(
    ("file", "text", "change", "message"),
    [
        (
            "recipe",
            RECIPE,
            ("train_tokens", "train_token"),
            r"\[flags\]: 'train_token' .*'train_tokens'",
        ),
        ("recipe", RECIPE, ("[curriculum]", "[curiculum]"), "'curiculum' .*'curriculum'"),
        ("recipe", RECIPE, ("total_steps", "steps"), r"\[curriculum\]: 'steps' .*'total_steps'"),
        ("recipe", RECIPE, ("require_steps", "require_step"), "'require_step' .*'require_steps'"),
        ("recipe", RECIPE, ("vocab_rarity", "vocab_rarety"), "'vocab_rarety' .*'vocab_rarity'"),
        (
            "recipe",
            RECIPE,
            ("[random_ltd]", "[metrics.voc]\nmin_difficulty = 2\n[random_ltd]"),
            r"\[metrics\]: 'voc' .*'vocab_rarity'",
        ),
        ("recipe", RECIPE, ('"small"', '"smal"'), "'smal' is no model: near it are small"),
        ("recipe", RECIPE, ('model = "small"', ""), "small_run.toml: model is missing"),
        ("recipe", RECIPE, ("total_steps = 40", ""), "needs both metrics and total_steps"),
        ("model", MODEL, ("num_layers", "num_layer"), "small.toml: .*'num_layers'"),
        ("model", MODEL, ('"gpt"', '"gtp"'), "architecture: 'gtp' .*'gpt'"),
        ("pretraining", PRETRAINING, ("num_checkpoints", "checkpoints"), "'num_checkpoints'"),
    ],
)
def test_a_wrong_key_names_the_nearest(tmp_path, file, text, change, message):
    assert change[0] in text
    catalogue = write_family(tmp_path, **{file: text.replace(*change)})
    with pytest.raises(ConfigError, match=message):
        read_recipe(catalogue, "small_run")
