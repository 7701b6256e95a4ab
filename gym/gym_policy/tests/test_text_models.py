"""Text models of today's architectures: sliding windows, experts, norms on queries and keys."""

import numpy as np
import pytest
import torch
import transformers

from gym_policy import ModelPolicy, Renderer
from gym_policy.testing import tiny_tokenizer
from gym_policy.tests.test_vision import played, scored
from gym_policy.training.freezing import check_linear_head

WINDOW = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}
KINDS = {
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Qwen3Moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2},
    "SmolLM3": {},
    "Phi3": {},
    "Glm4": {"head_dim": 8},
    "Mistral": {"head_dim": 8, "sliding_window": 16},
    "Olmo3": {"sliding_window": 16},
    "Gemma3": {"head_dim": 8, "query_pre_attn_scalar": 8, **WINDOW},
    "GptOss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, **WINDOW},
}


def _model(kind, tokenizer):
    config_class = getattr(transformers, f"{kind}TextConfig", None)
    config = (config_class or getattr(transformers, f"{kind}Config"))(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **KINDS[kind],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        for parameter in model.parameters():  # large enough for positions to matter
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_and_recomputed_logprobs_agree_over_three_turns(kind):
    tokenizer = tiny_tokenizer()
    model = _model(kind, tokenizer)
    check_linear_head(model)
    policy = ModelPolicy(model, Renderer(tokenizer), max_new_tokens=6)
    dialogues = played(policy, [None] * 4)
    for dialogue, logprobs in zip(dialogues, scored(policy, dialogues), strict=True):
        sampled = [p for m in dialogue.messages if m.reply for p in m.reply.logprobs]
        np.testing.assert_allclose(logprobs, sampled, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_replies_are_those_of_generate(kind):
    tokenizer = tiny_tokenizer()
    model = _model(kind, tokenizer)
    policy = ModelPolicy(model, Renderer(tokenizer), max_new_tokens=6, greedy=True)
    for dialogue in played(policy, [None, None]):
        rendered = policy.renderer.render(dialogue)
        replies = [m.reply for m in dialogue.messages if m.reply]
        for end, reply in zip(rendered.prompt_ends, replies, strict=True):
            ids = torch.tensor([rendered.token_ids[: end + 1]])
            own = model.generate(
                input_ids=ids,
                max_new_tokens=6,
                do_sample=False,
                eos_token_id=list(policy.renderer.stop_ids),
                pad_token_id=tokenizer.pad_token_id,
            )
            assert own[0, ids.shape[1] :].tolist() == list(reply.token_ids)
