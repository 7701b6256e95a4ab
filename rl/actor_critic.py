"""The policy with a value head, scored in one forward pass that never returns logits."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from gym_command.checkpoints import training_file
from gym_dialogue import InputError
from gym_policy.logprobs import score_states
from gym_policy.vision import Images, image_inputs, image_token_id

VALUE_HEAD_FILE = "value_head.safetensors"


class Scores(NamedTuple):
    """Log-probabilities and entropies (N,) of N reply tokens in nats, values (M,) of M turns."""

    logprobs: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor


class ActorCritic(nn.Module):
    """A causal language model (the actor) and an MLP on its last hidden state (the critic).

    The value of a turn is read at the last prompt token before the reply, as in the paper:
    hidden -> 1024 -> 512 -> 1 by default. The last layer starts at zero, so that the critic
    starts by predicting 0.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        temperature: float,
        value_hidden: tuple[int, ...] = (1024, 512),
        detach_value: bool = False,
        adapter: PeftModel | None = None,
        base_fingerprint: str | None = None,
    ):
        super().__init__()
        self.model = model
        # The wrapper that put an adapter into `model`; outside the module tree, in which each
        # parameter has one name.
        self._adapter = [adapter]
        self.base_fingerprint = base_fingerprint
        self.temperature, self.forbidden = temperature, image_token_id(model)
        self.entropy_learns = True  # whether a loss has the entropy in it
        self.detach_value = detach_value
        hidden = model.config.get_text_config().hidden_size
        layers: list[nn.Module] = []
        for width in value_hidden:
            layers += [nn.Linear(hidden, width), nn.ReLU()]
            hidden = width
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        # In the precision of what else is trained: DeepSpeed takes one for all of it.
        trained = next((p for p in model.parameters() if p.requires_grad), last.weight)
        self.value_head = nn.Sequential(*layers, last).to(model.device, trained.dtype)

    @property
    def adapter(self) -> PeftModel | None:
        """Return what peft has wrapped around the model to train an adapter, or None."""
        return self._adapter[0]

    def forward(
        self,
        input_ids: torch.Tensor,
        predict_at: torch.Tensor,
        targets: torch.Tensor,
        value_at: torch.Tensor,
        images: Images | None = None,
    ) -> Scores:
        """Score reply tokens and turns of right-padded sequences.

        `input_ids` is (B, T). `predict_at` (N,) are flat positions b * T + t whose next token is
        the reply token in `targets` (N,); `value_at` (M,) are the flat positions of the last
        prompt tokens; `images` are those of the sequences (`gym_policy.vision`). Under a causal
        model no real token sees the padding to its right, so no attention mask is needed.
        """
        body = getattr(self.model, self.model.base_model_prefix)
        seen = image_inputs(self.model, input_ids, images)
        hidden = body(input_ids=input_ids, use_cache=False, **seen).last_hidden_state.flatten(0, 1)
        # The head runs on reply tokens only: prompts are most of a dialogue and need no logits.
        logprobs, entropy = score_states(
            self.model.get_output_embeddings(),
            hidden[predict_at],
            targets,
            self.temperature,
            self.forbidden,
            self.entropy_learns,
        )
        state = hidden[value_at]
        if self.detach_value:
            state = state.detach()
        head_dtype = self.value_head[-1].weight.dtype  # DeepSpeed casts the head as well
        values = self.value_head(state.to(head_dtype)).squeeze(-1)
        return Scores(logprobs, entropy, values.float())

    def save_value_head(self, directory: str | Path) -> None:
        """Write the critic's weights into a checkpoint."""
        weights = {k: v.contiguous().cpu() for k, v in self.value_head.state_dict().items()}
        file = training_file(directory, VALUE_HEAD_FILE)
        file.parent.mkdir(exist_ok=True)
        save_file(weights, str(file))

    def load_value_head(self, directory: str | Path) -> bool:
        """Read the critic's weights if a checkpoint has them. Raises InputError if they do not
        fit.
        """
        file = training_file(directory, VALUE_HEAD_FILE)
        if not file.is_file():
            return False
        try:
            self.value_head.load_state_dict(load_file(str(file)))
        except (RuntimeError, OSError, ValueError, SafetensorError) as error:
            raise InputError(
                f"value head {file}: does not fit this model or value_hidden: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return True
