"""Trainings on one or several processes, by each way to hold the weights.

Started as a command by test_sharding.py: `sharded.py FOLDER WAY...`; a way is "whole" (one process, or DDP),
"fsdp2" or "fsdp3". Writes FOLDER/WAY.RANK.json: what each case below came to.
"""

import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from data_efficiency import convert_to_random_ltd, initialize, leave_ranks
from data_efficiency.engine.whole_tensor import gather_all
from data_efficiency.routing.layer_presets import is_as_shipped, known_layer_class
from tests.data_efficiency.small_models import DROPPING, NUM_LAYERS, Block, SmallModel

ROWS, LENGTH, VOCABULARY = 8, 24, 64
MICRO, STEPS = 2, 5


class Recomputed(SmallModel):
    """Each layer recomputed from outside, as a user's model may do."""

    def run(self, layer, hidden):
        return checkpoint(layer, hidden, use_reentrant=False)


class RecomputedBlock(Block):
    """Recomputed from inside."""

    def forward(self, hidden, attention_mask=None):
        return checkpoint(super().forward, hidden, attention_mask, use_reentrant=False)


class Llama(nn.Module):
    """A Hugging Face model that is called as ours, and sums its losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": NUM_LAYERS}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        self.model = LlamaForCausalLM(
            LlamaConfig(**sizes, **heads, vocab_size=VOCABULARY, tie_word_embeddings=True)
        )

    def forward(self, tokens, labels=None):
        logits = self.model(tokens).logits.float()
        if labels is None:
            return logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def small(model_class=SmallModel, block=None):
    model = model_class(32, LENGTH, VOCABULARY)
    for layer in model.layers if block is not None else ():
        layer.__class__ = block
    return model


def compiled():
    model = small()
    for layer in model.layers:
        layer.compile(backend="aot_eager", dynamic=True)
    return model


CASES = {
    "plain": (small, Block, {}, {}),
    "recomputed_outside": (partial(small, Recomputed), Block, {}, {}),
    "recomputed_inside": (partial(small, block=RecomputedBlock), RecomputedBlock, {}, {}),
    "compiled": (compiled, Block, {}, {}),
    "bf16": (small, Block, {"bf16": {"enabled": True}}, {}),
    "bf16_weights": (small, Block, {"bf16": {"enabled": True}}, {"bf16_weights": True}),
    "fp16": (
        small,
        Block,
        {"fp16": {"enabled": True, "initial_scale_power": 22, "hysteresis": 1}},
        {},
    ),
    "huggingface": (Llama, LlamaDecoderLayer, {}, {}),
}
"""Case -> model, its layers, sections of the JSON file, arguments of `initialize`."""


def settings(way, **sections):
    """The JSON file: accumulation, clipping, random-LTD."""
    schedule = {"min_value": 6, "max_value": LENGTH, "schedule_type": "fixed_linear"}
    schedule["schedule_config"] = {"require_steps": 8, "seq_per_step": 2}
    dropping = {
        "enabled": True,
        "total_layer_num": NUM_LAYERS,
        "random_ltd_layer_num": len(DROPPING),
        "random_ltd_layer_id": list(DROPPING),
        "model_mask_name": "attention_mask",
        "model_type": "decoder",
        "hidden_state_order": "batch_seq_dim",
        "random_ltd_schedule": schedule,
    }
    content = {
        "train_batch_size": ROWS,
        "train_micro_batch_size_per_gpu": MICRO,
        "gradient_clipping": 0.5,
        "data_efficiency": {"seed": 3, "data_routing": {"random_ltd": dropping}},
    }
    if way != "whole":
        content["zero_optimization"] = {"stage": int(way[-1])}
    return content | sections


def make(way, case, **changes):
    """An engine whose processes begin with other weights than process 0."""
    make_model, layer, sections, arguments = CASES[case]
    model = make_model()
    with torch.no_grad():
        for weight in model.parameters() if int(os.environ.get("RANK", "0")) else ():
            weight += 1
    arguments = {"optimizer": partial(torch.optim.AdamW, lr=1e-2, fused=True)} | arguments | changes
    engine = initialize(model=model, config=settings(way, **sections), **arguments)[0]
    return convert_to_random_ltd(engine, layer)


def rows_of(step):
    """Tokens of a global batch, [rows, length + 1]."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=generator)


def batches(engine, step):
    """This process's micro-batches of a step."""
    rows, size = rows_of(step), ROWS // engine.ranks.data_parallel_size
    first = size * engine.ranks.data_parallel_rank
    return rows[first : first + size].split(MICRO)


def take_step(engine, step):
    return engine.train_step(
        batches(engine, step),
        lambda rows: engine(rows[:, :-1], labels=rows[:, 1:]),
        lambda rows: rows[:, 1:].numel(),
    )


def evaluate(engine):
    engine.eval()
    rows = rows_of(99)
    with torch.no_grad():
        return float(engine(rows[:, :-1], labels=rows[:, 1:])) / ROWS


def state_of(engine):
    """Weights and the optimizer's state by name, as one dictionary."""
    weights, state = engine.whole_weights(), engine.whole_optimizer_state()
    return gather_all(weights), gather_all(state)


def train(engine, evaluates=False):
    """What steps came to, and what the weights and the optimizer's state are then."""
    losses, norms, evaluations, first_gradients = [], [], [], []

    def note_gradients(optimizer, *_):
        if first_gradients:
            return
        for group in optimizer.param_groups:
            for weight in group["params"]:
                gradient = weight.grad
                whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
                first_gradients.extend(whole.flatten().tolist())

    engine.optimizer.register_step_pre_hook(note_gradients)
    for step in range(STEPS):
        result = take_step(engine, step)
        losses.append(result.loss)
        norms.append(result.grad_norm)
        if evaluates:
            # What is asked for right after an evaluation has the weights in parts again.
            evaluations.append(evaluate(engine))
            state_of(engine)
    weights, state = state_of(engine)
    return {
        "losses": losses,
        "norms": norms,
        "counters": vars(engine.counters),
        "skipped": engine.skipped_steps,
        "evaluations": evaluations,
        "first_gradients": first_gradients,
        "weights": {name: tensor.float().tolist() for name, tensor in weights.items()},
        "state": {name: list(tensor.shape) for name, tensor in state.items()},
        "model": f"{type(engine.module).__module__}.{type(engine.module).__name__}",
        "dtypes": sorted({str(one.dtype) for one in engine.parameters()}),
    }


def given_optimizer(way, made_by_function):
    """A training with an optimizer of parameters that were listed before the engine was made."""
    model = small()
    parameters = list(model.parameters())
    optimizer = partial(torch.optim.AdamW, parameters, lr=1e-2, fused=True)
    engine = initialize(
        model=model,
        optimizer=(lambda _: optimizer()) if made_by_function else optimizer(),
        model_parameters=parameters,
        config=settings(way),
    )[0]
    return train(convert_to_random_ltd(engine, Block))


def moved(way):
    """Whether a state that goes from this way to DDP, and back, goes on to the same bits."""
    first = make(way, "plain")
    for step in range(2):
        take_step(first, step)
    weights, state = state_of(first)
    on_ddp = make("whole", "plain")
    on_ddp.load_whole_weights(weights)
    on_ddp.load_whole_optimizer_state(state)
    back = make(way, "plain")
    there = state_of(on_ddp)
    evaluate(back)  # its weights are gathered as it loads
    back.load_whole_weights(there[0])
    back.load_whole_optimizer_state(there[1])
    for engine in (back, on_ddp):
        engine.load_progress_state(first.progress_state())
    for step in (2, 3):
        for engine in (first, on_ddp, back):
            take_step(engine, step)
    final, at_ddp, at_back = (state_of(engine)[0] for engine in (first, on_ddp, back))
    return {
        "equal": all(torch.equal(final[name], at_back[name]) for name in final),
        "gap": max(float((final[name] - at_ddp[name]).abs().max()) for name in final),
    }


def bytes_held(way):
    """What this process holds of the weights and, after a step, of the optimizer's state."""
    engine = make(way, "plain")
    take_step(engine, 0)

    def local(tensors):
        return sum((getattr(t, "to_local", lambda t=t: t)()).nbytes for t in tensors)

    states = [value for one in engine.optimizer.state.values() for value in one.values()]
    return {
        "weights": local(engine.parameters()),
        "optimizer": local(value for value in states if value.ndim),
        "whole": sum(4 * weight.numel() for weight in engine.parameters()),
    }


def broken_off(way):
    """What is wrong with a first step is said, and the next one is taken as if it had not been."""
    engine = make(way, "plain")

    def wrong(batch):
        raise KeyError("of the user's")

    try:
        engine.train_step(batches(engine, 0), wrong, lambda rows: rows[:, 1:].numel())
    except Exception as error:  # noqa: BLE001 - which one it is, is what is asked
        said = str(error)
    return {"said": said, "loss": take_step(engine, 0).loss}


def looked_at(way):
    """What others see of a model whose classes the sharding derived."""
    engine = initialize(model=Llama(), config=settings(way))[0]
    known = known_layer_class(engine.module)
    own = initialize(model=small(block=RecomputedBlock), config=settings(way))[0]
    layers = [*engine.module.model.model.layers, *own.module.layers]
    found = {"known": known.__name__, "as_shipped": [is_as_shipped(layer) for layer in layers]}
    gathered = gather_all(engine.whole_weights())
    if not engine.ranks.is_first:
        return found
    with tempfile.TemporaryDirectory() as folder:
        weights = {
            name.removeprefix("model."): tensor
            for name, tensor in gathered.items()
            if name != "model.lm_head.weight"
        }
        engine.module.model.save_pretrained(folder, state_dict=weights)
        again = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        saved = json.loads((Path(folder) / "config.json").read_text())["architectures"]
    equal = all(torch.equal(again[name], weight) for name, weight in weights.items())
    return found | {"architectures": saved, "read_again": equal}


def main():
    """Every case by every way."""
    folder = Path(sys.argv[1])
    for way in sys.argv[2:]:
        found = {case: train(make(way, case), evaluates=case == "plain") for case in CASES}
        found["given_optimizer"] = given_optimizer(way, made_by_function=False)
        found["listed_before"] = given_optimizer(way, made_by_function=True)
        found["moved"], found["looked_at"] = moved(way), looked_at(way)
        found["bytes"], found["broken_off"] = bytes_held(way), broken_off(way)
        rank = os.environ.get("RANK", "0")
        (folder / f"{way}.{rank}.json").write_text(json.dumps(found))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        leave_ranks()


if __name__ == "__main__":
    main()
