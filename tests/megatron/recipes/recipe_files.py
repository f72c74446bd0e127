"""The shipped recipes, and run files of one's own to break."""

from megatron.arguments import parse_run_config
from megatron.recipes import SHIPPED

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
LATER = (
    "gpt_cl_buckets_1400b",
    "gpt_cl_quality_cdma_30b",
    "gpt_cl_quality_cma_30b",
    "gpt_cl_stages_627b",
    "gpt_cl_window_107b",
    "gpt_pieces_29b",
)
"""Recipes of what was published since."""
BASE = """\
architecture = "gpt"
[model]
num_layers = 4
hidden_size = 32
num_attention_heads = 2
max_position_embeddings = 64
[data]
data_path = ["corpus"]
seq_length = 64
[training]
micro_batch_size = 4
global_batch_size = 16
lr = 1e-3
seed = 7
fp16 = true
lr_warmup_tokens = 1_000
[checkpoint]
num_checkpoints = 2
[deepspeed]
zero_optimization = { stage = 1 }
"""
RUN = """\
# A title
base = ["base.toml"]
[training]
train_tokens = 102_400
[data_efficiency.data_sampling.curriculum_learning]
enabled = true
[data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.vocab_rarity]
index_path = "auto"
difficulty_type = "percentile"
clustering_type = "schedule_based"
min_difficulty = 1
max_difficulty = 100
schedule_type = "fixed_linear"
schedule_config = { total_curriculum_step = 40, difficulty_step = 1 }
[data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.seqlen_truncate]
difficulty_type = "value"
clustering_type = "single_cluster"
min_difficulty = 8
max_difficulty = "auto"
schedule_type = "fixed_linear"
schedule_config = { total_curriculum_step = 40, difficulty_step = 8 }
[data_efficiency.data_routing.random_ltd]
enabled = true
total_layer_num = "auto"
random_ltd_layer_num = "auto"
random_ltd_layer_id = "auto"
model_type = "decoder"
hidden_state_order = "batch_seq_dim"
[data_efficiency.data_routing.random_ltd.random_ltd_schedule]
min_value = 16
max_value = "auto"
schedule_type = "fixed_linear"
schedule_config = { require_steps = 70, seq_per_step = 8 }
"""


def write_run(folder, base=BASE, run=RUN):
    """Path of a run file, beside the one that it builds on."""
    (folder / "base.toml").write_text(base)
    path = folder / "small.toml"
    path.write_text(run)
    return str(path)


def read(name, *flags):
    """The settings of a run file's path, or of a shipped recipe for any corpus."""
    words = ["--config", name, *flags]
    if name in SHIPPED.recipes:
        words += ["--data-path", "corpus"]
    architecture = "bert" if name.startswith("bert") else "gpt"
    return parse_run_config("", words, architecture=architecture)
