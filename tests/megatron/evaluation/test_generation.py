import pytest
import torch

from megatron.evaluation.generation import continue_texts, generate, greedy, sampling, text_pieces
from tests.megatron.small_models import GPT2, LLAMA, make_gpt, make_tokenizer


def without_cache(model, prompt, num_tokens):
    tokens = torch.tensor([prompt])
    with torch.inference_mode():
        for _ in range(num_tokens):
            following = model(tokens)[:, -1, : model.config.vocab_size].argmax(-1)
            tokens = torch.cat((tokens, following[:, None]), dim=1)
    return tokens[0, len(prompt) :].tolist()


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_greedy_equals_generation_without_cache(config):
    model = make_gpt(config)
    prompts = [[5, 9, 200], [7], [1, 2, 3, 4, 5, 6, 7, 8], [250, 3]]
    tokens = torch.stack(list(generate(model, prompts, 40)), dim=1).tolist()
    assert tokens == [without_cache(model, prompt, 40) for prompt in prompts]


def test_padding_of_the_vocabulary_is_never_chosen():
    model = make_gpt(LLAMA)
    assert model.config.padded_vocab_size > 300
    with torch.no_grad():
        model.output_weight[300:] = 100 * model.output_weight[:20]
    draw = sampling(torch.Generator().manual_seed(0), temperature=5.0)
    assert max(int(token.max()) for token in generate(model, [[1]] * 8, 20, draw)) < 300


def test_sampling_follows_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20000, 3)
    generator = torch.Generator().manual_seed(0)

    def shares(**cut):
        drawn = sampling(generator, **cut)(logits)
        return torch.bincount(drawn, minlength=3) / len(drawn)

    assert torch.allclose(shares(), torch.tensor([0.5, 0.3, 0.2]), atol=0.02)
    assert torch.allclose(shares(top_k=2), torch.tensor([0.625, 0.375, 0]), atol=0.02)
    assert torch.allclose(shares(top_p=0.4), torch.tensor([1.0, 0, 0]))
    assert torch.allclose(shares(top_p=0.6), torch.tensor([0.625, 0.375, 0]), atol=0.02)
    squared = torch.tensor([25, 9, 4]) / 38
    assert torch.allclose(shares(temperature=0.5), squared, atol=0.02)


def test_same_seed_same_text():
    model = make_gpt(GPT2)

    def text(seed):
        draw = sampling(torch.Generator().manual_seed(seed))
        return [int(token) for token in generate(model, [[1, 2]], 20, draw)]

    assert text(1) == text(1) != text(2)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"temperature": 0.0}, "--temperature is 0.0: must be above 0"),
        ({"top_k": -1}, "--top-k is -1"),
        ({"top_p": 1.5}, "--top-p is 1.5"),
    ],
)
def test_numbers_out_of_range(cut, message):
    with pytest.raises(ValueError, match=message):
        sampling(torch.Generator(), **cut)


def test_empty_and_too_long_prompts():
    model = make_gpt(GPT2)
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        next(generate(model, [[1], []], 3))
    with pytest.raises(ValueError, match="take 49 positions"):
        next(generate(model, [[1] * 40], 9))
    assert greedy(torch.eye(3)).tolist() == [0, 1, 2]


def choosing(ids):
    """A rule that gives these ids one after the other."""
    remaining = iter(ids)
    return lambda logits: torch.tensor([next(remaining)])


def test_characters_come_whole():
    model, tokenizer = make_gpt(GPT2), make_tokenizer()
    text = "a cat é€🐈 sat"
    ids = tokenizer.encode(text)
    assert len(ids) > len(tokenizer.encode("a cat  sat")) + 3
    pieces = list(text_pieces(model, tokenizer, [1], len(ids), choose=choosing(ids)))
    assert "".join(pieces) == text
    assert {"é", "€", "🐈"} <= set(pieces)
    # Cut within a character: what there is of it comes last.
    place = ids.index(tokenizer.encode("🐈")[0]) + 2
    cut = list(text_pieces(model, tokenizer, [1], place, choose=choosing(ids)))
    assert "".join(cut) == tokenizer.decode(ids[:place])
    assert cut[-1].strip("\ufffd") == ""


def test_pieces_end_with_the_document():
    model, tokenizer = make_gpt(GPT2), make_tokenizer()
    ids = [*tokenizer.encode("a dog"), tokenizer.eod, 5]
    assert "".join(text_pieces(model, tokenizer, [1], 40, choose=choosing(ids))) == "a dog"
    whole = continue_texts(model, tokenizer, [[1, 2]], 20)
    assert ["".join(text_pieces(model, tokenizer, [1, 2], 20))] == whole
