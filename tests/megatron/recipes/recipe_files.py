"""The shipped recipes, and a family of recipes of one's own to break."""

from pathlib import Path

from megatron.recipes import Catalogue

FOLDER = Path(__file__).resolve().parents[3] / "examples_deepspeed" / "data_efficiency"
SHIPPED = Catalogue(FOLDER)
# The runs of ds_pretrain_gpt_1.3B_dense_run.sh and ds_pretrain_bert_336M_run.sh in Megatron-DeepSpeed: each
# is a block there, the rows of both tables with every token budget counted by itself.
NUM_CASES = {"gpt": 15, "bert": 15}


def _cases(whole, middle, half, ordering):
    """Case -> its token budgets."""
    thrice = dict.fromkeys(("baseline", "ltd", "cl_voc_truncate"), (whole, middle, half))
    once = dict.fromkeys(
        (f"cl_voc_{ordering}", "cl_voc", "cl_truncate", f"cl_{ordering}"), (whole,)
    )
    return thrice | once | {"cl_ltd": (whole, half)}


CASES = {
    "gpt": _cases("300b", "200b", "150b", "reshape"),
    "bert": _cases("1049b", "703b", "524b", "reorder"),
}
PRETRAINING = """\
num_checkpoints = 2
[flags]
seq_length = 64
max_position_embeddings = 64
micro_batch_size = 4
seed = 7
clip_grad = 1.0
[metrics.vocab_rarity]
index_path = "vocab_rarity"
difficulty_type = "percentile"
clustering_type = "schedule_based"
min_difficulty = 1
max_difficulty = 100
schedule_type = "fixed_linear"
schedule_config = { difficulty_step = 1 }
[metrics.seqlen_truncate]
difficulty_type = "value"
clustering_type = "single_cluster"
min_difficulty = 8
schedule_type = "fixed_linear"
schedule_config = { difficulty_step = 8 }
[random_ltd]
min_value = 16
seq_per_step = 8
"""
MODEL = """\
architecture = "gpt"
[flags]
num_layers = 4
hidden_size = 32
num_attention_heads = 2
global_batch_size = 16
lr = 1e-3
"""
RECIPE = """\
# A title
# Result: 42.
model = "small"
[flags]
train_tokens = 102_400
[curriculum]
metrics = ["vocab_rarity", "seqlen_truncate"]
total_steps = 40
[random_ltd]
require_steps = 70
"""


def write_family(folder: Path, **files: str) -> Catalogue:
    """A catalogue of one recipe, `small_run`; keyword arguments replace a file's text."""
    places = {
        "pretraining": ("gpt/pretraining.toml", PRETRAINING),
        "model": ("gpt/models/small.toml", MODEL),
        "recipe": ("gpt/recipes/small_run.toml", RECIPE),
    }
    for name, (place, text) in places.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files.get(name, text))
    return Catalogue(folder)
