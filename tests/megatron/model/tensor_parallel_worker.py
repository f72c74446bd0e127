"""One of two processes that share each layer and each row of our models; run for test_tensor_parallel.py and others.

Each case trains the model twice, in float64: whole, by a loop written here, and cut, by an engine, whose process 1 began
with other weights. Writes FOLDER/RANK.json: what differs between the two, and what was counted.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from data_efficiency import LayerDropout, RandomLTD, convert_to_random_ltd, initialize, leave_ranks
from data_efficiency.config import DataEfficiencyConfig
from data_efficiency.engine.whole_tensor import gather_all, whole_of
from megatron.config import ModelConfig
from megatron.model.bert_model import BertModel
from megatron.model.gpt_model import GPTModel
from megatron.model.optional_kernels import choose_attention
from megatron.model.output_loss import linear_cross_entropy_sum, output_logits
from megatron.model.tensor_parallel import tensor_parallel
from megatron.model.transformer import TransformerLayer
from megatron.model.vocabulary_parallel import shared_cross_entropy_sum
from tests.megatron.small_models import MODERN

NUM_LAYERS, NUM_ROWS, LENGTH, STEPS, RATE = 4, 4, 12, 2, 0.5
MODELS = {
    "learned": (GPTModel, {}),
    "modern": (GPTModel, MODERN),
    "untied": (GPTModel, MODERN | {"untie_embeddings_and_output_weights": True}),
    "bert": (BertModel, {"num_token_types": 2}),
    "bert_after": (BertModel, {"normalization_position": "after", "gelu": "exact"}),
}
FOUND = {"residual_scale": "inverse_keep", "always_keep": [0, 1]}
SKIP = LayerDropout(start=50, end=50, steps=1, rows_per_group=2, depth="uniform")


def kept(number, **more):
    return RandomLTD(start=number, end=number, steps=1, step_size=1, **more)


ROUTES = {
    "none": lambda _: [],
    "dropping": lambda number: [kept(number)],
    "span": lambda number: [kept(number, layers=[[1, 2]])],
    "span_of_all": lambda number: [kept(number, layers=[[1, 2, 3]])],
    "scaled": lambda number: [kept(number, **FOUND)],
    "rows": lambda number: [kept(number), SKIP],
}
WINDOWS = {"windows": {"attention_window": 4}, "sliding": {"sliding_window": 5}}
DOCUMENTS = (torch.arange(LENGTH) >= 5).long().expand(NUM_ROWS, -1)
DOCUMENTS = {
    "document_ids": DOCUMENTS,
    "position_ids": (torch.arange(LENGTH) - 5 * DOCUMENTS).contiguous(),
}
TOLD = []
"""The mean losses of rows that models have told, each time."""
FEW = [("learned", "dropping"), ("modern", "span"), ("bert", "dropping")]
CASES = [
    *FEW,
    *((model, "dropping") for model in ("modern", "untied", "bert_after")),
    *(("modern", route) for route in ("none", "span_of_all", "scaled", "rows")),
    ("learned", "recomputed"),
    ("modern", "windows"),
    ("learned", "windows"),
    ("modern", "sliding"),
    ("learned", "documents"),
    ("modern", "documents"),
]


def make(name, seed=0, **changes):
    torch.manual_seed(seed)
    make_model, architecture = MODELS[name]
    fields = {"num_layers": NUM_LAYERS, "hidden_size": 16, "num_attention_heads": 4}
    fields |= {"vocab_size": 50, "make_vocab_size_divisible_by": 8}
    fields |= {"max_position_embeddings": 16, "init_method_std": 0.3}
    model = make_model(ModelConfig(**(fields | architecture | changes))).double()
    with torch.no_grad():
        for weight in model.parameters():
            # Norms and biases too are of all kinds.
            weight += 0.1 * torch.randn(weight.shape, dtype=weight.dtype)
    return model


def batch_of(step):
    generator = torch.Generator().manual_seed(step)
    tokens, labels = torch.randint(5, 50, (2, NUM_ROWS, LENGTH), generator=generator)
    labels[:, ::3] = -100
    return tokens, labels


def losses_of(model, batch, called, route=None):
    """The summed loss of a batch, by calling the model or its engine."""
    tokens, labels = batch
    if route == "documents":
        loss, rows = called(tokens, labels=labels, by_row=True, **DOCUMENTS)
        TOLD.append(rows)
        return loss
    if isinstance(model, GPTModel):
        return called(tokens, labels=labels, **WINDOWS.get(route, {}))
    padding = torch.ones_like(tokens)
    padding[1, 9:] = 0
    types = (torch.arange(LENGTH) > 5).long().expand_as(tokens)
    types = types if model.config.num_token_types else None
    return sum(
        called(
            tokens,
            token_types=types,
            padding_mask=padding,
            labels=labels,
            sentence_labels=tokens[:, 0] % 2,
        )
    )


def num_terms(batch):
    return int((batch[1] != -100).sum())


def section(route, number):
    parts = ROUTES[{"sliding": "none"}.get(route, route if route in ROUTES else "dropping")](number)
    return DataEfficiencyConfig.of(*parts, seed=3)


def trained_whole(name, route, settings):
    model = make(name, **settings)
    # What two processes share evenly is 6 of the 5 tokens that are asked for.
    config = section(route, 6)
    if config.layer_routes:
        convert_to_random_ltd(model, TransformerLayer, config)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    losses = []
    for step in range(STEPS):
        batch = batch_of(step)
        if config.layer_routes:
            model.random_ltd_scheduler.set_position(step, 0, NUM_ROWS)
        loss = losses_of(model, batch, model, route) / num_terms(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def trained_cut(name, route, settings):
    model = make(name, seed=dist.get_rank(), **settings)
    engine, *_ = initialize(
        model=model,
        optimizer=lambda weights: torch.optim.SGD(weights, RATE),
        config={
            "train_batch_size": NUM_ROWS,
            "tensor_parallel": {"autotp_size": 2},
            "data_efficiency": section(route, 5),
        },
        tensor_parallel=tensor_parallel(model),
    )
    if engine.data_efficiency_config.layer_routes:
        convert_to_random_ltd(engine, TransformerLayer)
    results = [
        engine.train_step(
            [batch_of(step)], lambda batch: losses_of(model, batch, engine, route), num_terms
        )
        for step in range(STEPS)
    ]
    return engine, results


def largest_gap(left, right):
    return float((left - right).detach().abs().max())


def compare(name, route):
    settings = {"recompute_activations": True} if route == "recomputed" else {}
    TOLD.clear()
    whole, losses = trained_whole(name, route, settings)
    engine, results = trained_cut(name, route, settings)
    weights = {name: one.clone() for name, one in gather_all(engine.whole_weights()).items()}
    expected = whole.state_dict()
    assert list(weights) == list(expected)
    engine.eval()
    whole.eval()
    tokens, _ = batch_of(9)
    with torch.no_grad():
        found, wanted = engine(tokens), whole(tokens)
        evaluations = [losses_of(engine.module, batch_of(9), engine)]
        evaluations.append(losses_of(whole, batch_of(9), whole))
    pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
    start = make(name, **settings).state_dict()
    engine.load_whole_weights(start)
    back = gather_all(engine.whole_weights())
    own = [weight.to_local().numel() for weight in engine.module.parameters()]
    return {
        "losses": max(abs(r.loss - other) for r, other in zip(results, losses, strict=True)),
        "weights": max(largest_gap(weights[one], expected[one]) for one in expected),
        "rows": max(
            (largest_gap(*pair) for pair in zip(TOLD[:STEPS], TOLD[STEPS:], strict=True)), default=0
        ),
        "moved": max(largest_gap(start[one], expected[one]) for one in expected),
        "logits": max(largest_gap(*pair) for pair in pairs),
        "evaluation": largest_gap(*evaluations),
        "round_trip": all(torch.equal(back[one], start[one]) for one in start),
        "kept_length": results[-1].kept_length,
        "layer_tokens": results[-1].counters.layer_tokens,
        "share": sum(own) / sum(one.numel() for one in start.values()),
    }


def dropped_by_dropout():
    """Which numbers of the first layer's hidden states dropout took, of two rehearsals of one step."""
    model = make("learned", hidden_dropout=0.5)
    config = {"train_batch_size": NUM_ROWS, "tensor_parallel": {"autotp_size": 2}}
    engine, *_ = initialize(
        model=model,
        optimizer=lambda weights: torch.optim.SGD(weights, RATE),
        config=config,
        tensor_parallel=tensor_parallel(model),
    )
    seen = []
    model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0] == 0))
    for _ in range(2):
        engine.rehearse([batch_of(0)], lambda one: losses_of(model, one, engine), num_terms, 1)
    assert torch.equal(*seen)
    return {"shape": list(seen[0].shape), "taken": seen[0].flatten().tolist()}


SIZES = [(4, 64, 128, 2), (3, 256, 64, 8)]
"""Layers, hidden size, length, rows."""
KINDS = [
    (sizes, name, precision, recomputes)
    for sizes in SIZES
    for name in ("learned", "modern")
    for precision in ("fp32", "half")
    for recomputes in (False, True)
]


def large(sizes, name, recomputes):
    num_layers, hidden_size, length, _ = sizes
    return ModelConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_attention_heads=4,
        vocab_size=1024,
        max_position_embeddings=length,
        recompute_activations=recomputes,
        **MODELS[name][1],
    )


def kept_for_backward(sizes, name, precision, recomputes):
    """Bytes that a forward pass leaves for its backward pass on this process, and those of its weights."""
    model = GPTModel(large(sizes, name, recomputes))
    choose_attention(model, "sdpa")
    content = {"train_batch_size": sizes[3], "tensor_parallel": {"autotp_size": 2}}
    content["bf16"] = {"enabled": precision == "half"}
    engine, *_ = initialize(model=model, config=content, tensor_parallel=tensor_parallel(model))
    own = [weight.to_local() for weight in model.parameters()]
    weights = {weight.untyped_storage().data_ptr() for weight in own}
    kept_bytes = {}

    def note(tensor):
        found = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        found = found.wait() if hasattr(found, "wait") else found
        storage = found.untyped_storage()
        if storage.data_ptr() not in weights:
            kept_bytes[storage.data_ptr()] = storage
        return tensor

    tokens = torch.randint(0, 1024, (sizes[3], sizes[2]))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        engine(tokens, labels=tokens)
    activations = sum(storage.nbytes() for storage in kept_bytes.values())
    return activations, sum(weight.numel() * 4 for weight in own)


def refused():
    """What is said of rows that cannot be shared evenly, and of a model that nobody cut."""
    model = make("modern")
    config = {"train_batch_size": NUM_ROWS, "tensor_parallel": {"autotp_size": 2}}
    engine, *_ = initialize(model=model, config=config, tensor_parallel=tensor_parallel(model))
    said = []
    engine.eval()
    for act in (
        lambda: engine(torch.zeros(2, 7, dtype=torch.int64)),
        lambda: initialize(model=make("modern"), config=config),
        lambda: initialize(model=make("modern"), config=config, engine="deepspeed"),
        lambda: initialize(
            model=make("modern"),
            config=config | {"bf16": {"enabled": True}},
            tensor_parallel=tensor_parallel(model),
            bf16_weights=True,
        ),
        lambda: initialize(
            model=make("modern", num_attention_heads=2, num_key_value_heads=1),
            config=config,
            tensor_parallel=replace(tensor_parallel(model), fused={"a": (3, 1)}),
        ),
    ):
        try:
            act()
            said.append("accepted")
        except ValueError as error:
            said.append(str(error))
    return said


def shared_vocabulary():
    """Losses and gradients of an output layer that is cut, against one that is not: what differs by type of numbers."""
    mesh, found = init_device_mesh("cpu", (2,)), {}
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(12, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 12, (3, 5), generator=generator)
    labels[0, 2:] = -100
    for name, dtype, given, autocast in (
        ("double", torch.float64, labels, False),
        ("float", torch.float32, labels, False),
        ("bf16", torch.float32, labels, True),
        ("unlabelled", torch.float64, torch.full_like(labels, -100), False),
        ("empty", torch.float64, labels[:0], False),
    ):
        for with_bias in (True, False):
            pair = []
            for is_cut in (False, True):
                own = [one.detach().to(dtype) for one in (hidden[: len(given)], weight, bias)]
                if is_cut:
                    own[1:] = [
                        distribute_tensor(one, mesh, [Shard(0)], src_data_rank=None)
                        for one in own[1:]
                    ]
                rows, matrix, added = (one.clone().requires_grad_() for one in own)
                given_bias = added if with_bias else None
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = 2 * linear_cross_entropy_sum(rows, matrix, given, given_bias)
                    logits = output_logits(rows, matrix, given_bias)
                (loss + logits.float().square().sum()).backward()
                with torch.no_grad():
                    again = 2 * linear_cross_entropy_sum(rows, matrix, given, given_bias)
                gradients = [one.grad for one in (rows, matrix, added)[: 2 + with_bias]]
                whole = [whole_of(one) for one in gradients]
                pair.append([loss, logits, *whole, *([] if autocast else [again])])
            assert [one.dtype for one in pair[0]] == [one.dtype for one in pair[1]]
            gaps = [
                largest_gap(*both) / max(1.0, float(both[0].detach().abs().max()))
                for both in zip(*pair, strict=True)
                if both[0].numel()
            ]
            found[f"{name} {'with' if with_bias else 'without'} bias"] = max(gaps)
    return found


def chunked():
    """The same loss with the logits of two tokens in memory at once, and of all."""
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    weight = distribute_tensor(torch.randn(6, 4).double(), mesh, [Shard(0)], src_data_rank=None)
    hidden, labels = torch.randn(7, 4).double(), torch.arange(7) % 6
    results = []
    for size in (2, 7):
        weight, rows = weight.detach().requires_grad_(), hidden.clone().requires_grad_()
        loss = shared_cross_entropy_sum(rows, weight, labels, None, torch.float64, size)
        loss.backward()
        results.append((loss, rows.grad, weight.grad.full_tensor()))
    return max(largest_gap(*both) for both in zip(*results, strict=True))


def few():
    return {
        "vocabulary": shared_vocabulary(),
        "chunked": chunked(),
        "dropout": dropped_by_dropout(),
        "refused": refused(),
        **{f"{name} {route}": compare(name, route) for name, route in FEW},
    }


def others():
    return {
        "kept": [kept_for_backward(*kind) for kind in KINDS],
        **{f"{name} {route}": compare(name, route) for name, route in CASES[len(FEW) :]},
    }


def main(folder, which):
    dist.init_process_group("gloo")
    found = few() if which == "few" else others()
    (Path(folder) / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    leave_ranks()


if __name__ == "__main__":
    main(*sys.argv[1:])
