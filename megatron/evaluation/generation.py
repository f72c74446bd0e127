"""Text that a GPT continues: token after token, greedily or drawn from its distribution."""

from collections.abc import Callable, Iterator, Sequence

import torch

from megatron.model.cached_decoder import CachedDecoder
from megatron.model.gpt_model import GPTModel
from megatron.tokenizer import NO_CHARACTER, Tokenizer

_MOST_TOKENS_OF_A_CHARACTER = 8
Choose = Callable[[torch.Tensor], torch.Tensor]
"""Logits [batch, vocabulary] -> ids int64 [batch]."""


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token of each row, int64 [batch]."""
    return logits.argmax(-1)


def sampling(
    generator: torch.Generator, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Choose:
    """A way to choose that draws from the distribution, cut to its likely part.

    Args:
        generator: on the logits' device.
        temperature: divides the logits; above 0.
        top_p: only the likeliest tokens that together reach this probability; 0 < p <= 1.

    Raises:
        ValueError: if a number is out of its range.
    """
    for name, value, fine, rule in (
        ("temperature", temperature, temperature > 0, "must be above 0; greedy is the limit"),
        ("top_k", top_k, top_k >= 0, "must be at least 0"),
        ("top_p", top_p, 0 < top_p <= 1, "must be above 0 and at most 1"),
    ):
        if not fine:
            raise ValueError(f"--{name.replace('_', '-')} is {value}: {rule}")

    def choose(logits: torch.Tensor) -> torch.Tensor:
        values, ids = (logits.float() / temperature).sort(-1, descending=True)
        probabilities = values.softmax(-1)
        # A token stays while those before it have not reached top_p: the first always does.
        before = probabilities.cumsum(-1) - probabilities
        kept = before < top_p
        if top_k:
            kept[:, top_k:] = False
        drawn = torch.multinomial(probabilities * kept, 1, generator=generator)
        return ids.gather(-1, drawn).squeeze(-1)

    return choose


def generate(
    model: GPTModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, choose: Choose = greedy
) -> Iterator[torch.Tensor]:
    """The next token of every prompt, int64 [batch] on the CPU, `max_new_tokens` times.

    Prompts of different lengths are padded on the left, which changes nothing for them.

    Args:
        prompts: at least one id each.
        max_new_tokens: how often; take fewer by stopping the iteration.

    Raises:
        ValueError: if a prompt is empty, or the longest with the new tokens exceeds the model.
    """
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt has no tokens: begin it with the end-of-document token")
    longest = max(len(prompt) for prompt in prompts)
    padding = [longest - len(prompt) for prompt in prompts]
    rows = [[0] * num + list(prompt) for num, prompt in zip(padding, prompts, strict=True)]
    device = model.output_weight.device
    decoder = CachedDecoder(
        model,
        len(prompts),
        longest + max_new_tokens,
        torch.tensor(padding) if any(padding) else None,
    )
    tokens = torch.tensor(rows, device=device)
    for _ in range(max_new_tokens):
        chosen = choose(decoder.next_logits(tokens))
        yield chosen.cpu()
        tokens = chosen.unsqueeze(1)


def continue_texts(
    model: GPTModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stops: Sequence[str] = (),
    choose: Choose = greedy,
) -> list[str]:
    """The text that follows each prompt, without control tokens or the stop that ended it.

    As lm-eval's model for transformers has it: a tokenizer that takes the space before a text away does
    so here too.

    Args:
        prompts: at least one id each.
    """
    rows: list[list[int]] = [[] for _ in prompts]
    texts = [""] * len(prompts)
    open_rows = set(range(len(prompts)))
    for tokens in generate(model, prompts, max_new_tokens, choose):
        for number in sorted(open_rows):
            token = int(tokens[number])
            rows[number].append(token)
            texts[number] = tokenizer.decode(rows[number], without_control=True)
            if token in tokenizer.end_ids or any(stop in texts[number] for stop in stops):
                open_rows.discard(number)
        if not open_rows:
            break
    return [_before_any(text, stops) for text in texts]


def text_pieces(
    model: GPTModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    choose: Choose = greedy,
) -> Iterator[str]:
    """The text that follows a prompt, in pieces as it comes; ends with the document.

    A character whose bytes are spread over tokens comes when it is whole.

    Args:
        tokenizer: of the model; without a token that ends texts it ends only by its length.
        prompt: at least one id.
    """
    context = prompt[-_MOST_TOKENS_OF_A_CHARACTER:]
    ids: list[int] = []
    given = text = ""
    for tokens in generate(model, [prompt], max_new_tokens, choose):
        token = int(tokens[0])
        if token in tokenizer.end_ids:
            break
        ids.append(token)
        text = tokenizer.decode_after(context, ids)
        whole = text.rstrip(NO_CHARACTER)
        if len(whole) > len(given):
            yield whole[len(given) :]
            given = whole
    if len(text) > len(given):
        yield text[len(given) :]


def _before_any(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
