"""Small tokenizers of the kinds that are in use, made with the `tokenizers` library, and folders of them."""

import functools

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from megatron.tokenizer import train_bpe, train_wordpiece
from megatron.tokenizer.tokenizer import Tokenizer
from tests.megatron.small_models import TEXTS


def train(backend, trainer, special, template=None):
    backend.train_from_iterator(TEXTS, trainer)
    if template is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=template,
            special_tokens=[(token, backend.token_to_id(token)) for token in special],
        )
    return backend


def llama_like(*, with_template=True):
    """BPE over characters with a fall-back to bytes; a space goes before a text and is taken away after."""
    backend = tokenizers.Tokenizer(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)  # noqa: S106
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        max_token_length=6,
    )
    return train(backend, trainer, ["<s>"], "<s> $A" if with_template else None)


def llama3_like():
    """Byte-level BPE that begins each text with a token of its own."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    return train(backend, trainer, special[:1], "<|begin_of_text|> $A")


def t5_like():
    """Unigram over pieces that begin with a space; each text is ended, none is begun."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80,
        show_progress=False,
        special_tokens=special,
        unk_token="<unk>",  # noqa: S106
    )
    return train(backend, trainer, ["</s>"], "$A </s>")


# Unigram's trainer chooses among equals by chance: one of each kind is made.
KINDS = {
    name: functools.cache(make)
    for name, make in {
        "byte-level": lambda: train_bpe(TEXTS, 290),
        "llama": lambda: Tokenizer(llama_like(), "llama"),
        "llama without a template": lambda: Tokenizer(llama_like(with_template=False), "llama"),
        "llama 3": lambda: Tokenizer(llama3_like(), "llama 3"),
        "t5": lambda: Tokenizer(t5_like(), "t5"),
        "wordpiece": lambda: train_wordpiece(TEXTS, 100),
    }.items()
}
"""Kind -> what makes its tokenizer, the same each time."""
