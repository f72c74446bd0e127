"""A small language model with its tokenizer and text, a small vision transformer with its images."""

import json
import random

import numpy as np
import pytest

NUM_LAYERS = 4
POSITIONS = 64
WORDS = ["".join(pair) for pair in zip("abcdefghijklmnop" * 8, "qrstuvwxyz" * 13, strict=False)]


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    """Folder of a GPT-2 with random weights, tied embeddings and a byte-level tokenizer."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("language_model")
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(made_up_texts(), vocab_size=300, special_tokens=["<|end|>"])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, eos_token="<|end|>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=POSITIONS,
        n_embd=32,
        n_layer=NUM_LAYERS,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """JSON lines of made-up sentences."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in made_up_texts()))
    return path


def made_up_texts():
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(8, 40))) for _ in range(400)]


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory):
    """Folder of a DINOv2 with random weights for images of 16 pixels in patches of 4."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("vision_model")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    statistics = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """train/ and test/ with two classes each: reddish and bluish noise."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 9)):
        for label, channel in (("blue", 2), ("red", 0)):
            place = folder / part / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 120, (20, 24, 3), np.uint8)
                pixels[..., channel] += 120
                image.fromarray(pixels).save(place / f"{number:02d}.png")
    return folder
