"""A Llama of about a million parameters with its own small tokenizer, made from scratch.

It stands in for a pretrained model wherever there is no GPU and nothing to download: the same
code runs, in minutes on two CPU cores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, USER, ASSISTANT, SYSTEM, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# What varies between two texts of a task: a number, a card's name in quotes, and the symbols of a
# formula, which stand next to a digit or a parenthesis.
_VALUE = r"""\d+|(?<=["'])[AJQK](?=["'])|[-+*/()=](?=[\d(])|(?<=[\d)])[-+*/()=]"""


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in which each value, together with the fixed wording before it, is
    one token; any other text is spelt in bytes.

    A prompt costs about a dozen tokens this way, so that a tiny model spends its time on the task.
    """
    pieces = set()
    for text in texts:
        pieces.update(re.findall(rf"(?s).*?(?:{_VALUE})|.+", text))
        pieces.update(re.findall(_VALUE, text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    longer = sorted(piece for piece in pieces if len(piece) > 1)
    fast.add_tokens([AddedToken(piece, normalized=False) for piece in longer])
    return fast


def build_model(
    vocab_size: int, pad_token_id: int, eos_token_id: int, seed: int
) -> LlamaForCausalLM:
    """A Llama with random weights from `seed`: 4 layers of 128, about 0.9 million parameters."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
