"""How likely a GPT finds given continuations of given contexts, many at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from megatron.model.gpt_model import GPTModel


class Continuation(NamedTuple):
    """Token ids whose likelihood is asked, and those before them; neither is empty."""

    context: Sequence[int]
    ids: Sequence[int]


class _Row(NamedTuple):
    """What the model reads for one or more continuations: all but the last token."""

    inputs: tuple[int, ...]
    asked: list[int]


@torch.inference_mode()
def score_continuations(
    model: GPTModel,
    continuations: Sequence[Continuation],
    *,
    batch_size: int,
    max_length: int,
    advance: Callable[[int], object] = lambda _: None,
) -> list[tuple[float, bool]]:
    """The log-likelihood of each continuation in nats, and whether greedy decoding would give it.

    Contexts too long for the model lose tokens at their start. Continuations of one text that
    differ in their last token only are computed once, and the output layer sees nothing but the
    positions that are asked for. Likelihoods are among the tokens of the vocabulary, without its padding.

    Args:
        continuations: in any order; longer ones are computed first, so memory runs out at once or never.
        advance: called with the number of finished continuations after each batch.

    Raises:
        ValueError: if a context or continuation is empty, or a continuation longer than the model.
    """
    rows = _distinct_inputs(continuations, max_length)
    rows.sort(key=lambda row: (-len(row.inputs), row.inputs))
    scores: list[tuple[float, bool]] = [(0.0, False)] * len(continuations)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        asked = [(place, number) for place, row in enumerate(batch) for number in row.asked]
        targets = [continuations[number].ids for _, number in asked]
        found = _score_batch(model, [row.inputs for row in batch], [p for p, _ in asked], targets)
        for (_, number), score in zip(asked, found, strict=True):
            scores[number] = score
        advance(len(asked))
    return scores


def _distinct_inputs(continuations: Sequence[Continuation], max_length: int) -> list[_Row]:
    rows: dict[tuple[int, ...], _Row] = {}
    for number, (context, ids) in enumerate(continuations):
        if not context or not ids:
            raise ValueError(f"request {number}: context and continuation need one token at least")
        if len(ids) > max_length:
            raise ValueError(
                f"request {number}: the continuation has {len(ids)} tokens, the model reads"
                f" {max_length} at most"
            )
        inputs = (*context, *ids)[-(max_length + 1) : -1]
        rows.setdefault(inputs, _Row(inputs, [])).asked.append(number)
    return list(rows.values())


def _score_batch(
    model: GPTModel,
    inputs: Sequence[tuple[int, ...]],
    places: Sequence[int],
    targets: Sequence[Sequence[int]],
) -> list[tuple[float, bool]]:
    """Scores of targets, each at the end of the input at its place."""
    device, longest = model.output_weight.device, max(map(len, inputs))
    # What follows a text has no influence on it: any id will do as padding.
    tokens = [[*ids, *[0] * (longest - len(ids))] for ids in inputs]
    hidden_states = model.language_model(torch.tensor(tokens, device=device))
    sizes = [len(target) for target in targets]
    rows = torch.tensor(places).repeat_interleave(torch.tensor(sizes))
    columns = torch.cat(
        [
            torch.arange(len(inputs[place]) - size, len(inputs[place]))
            for place, size in zip(places, sizes, strict=True)
        ]
    )
    # Nothing is said about the rows that pad the vocabulary: they are no tokens.
    weight = model.output_weight[: model.config.vocab_size]
    logits = functional.linear(hidden_states[rows, columns], weight).float()
    ids = torch.tensor([id for target in targets for id in target], device=device)
    chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    likelihoods = (chosen - logits.logsumexp(-1)).split(sizes)
    matches = (logits.argmax(-1) == ids).split(sizes)
    return [
        (float(part.sum()), bool(match.all()))
        for part, match in zip(likelihoods, matches, strict=True)
    ]
