"""Sampling by vLLM servers: token ids go there and come back, and weights follow the learner's."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from gym_dialogue.errors import InputError
from gym_policy.completion import Completion, Decoding, Request
from gym_policy.samplers.engine import Engine, EngineGoneError, Generated, spread
from gym_policy.ties import untied

PROBED = 4
"""Prompts that are scored by both sides before a new set of weights counts as arrived."""
PROBE_TOKENS = 256
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Mean difference in nats a token, by what the model computes in."""
_TRIES = 3


class VllmSampler:
    """Samples by vLLM servers (`addresses`) that hold a copy of the model's weights.

    `update` sends the weights. They count as arrived when the servers score a few prompts as the
    model here does: a server that ties its output head to the embedding, say, keeps its old head,
    and what it says still looks sound. A reply by other weights than the newest is never returned:
    where a server has been started anew, it is sent the weights again.

    The prompts of an episode's turns share their beginning, which a server keeps (prefix caching).
    A request's draws are vLLM's own, from a seed that the request decides (on a CPU, from the
    server's).
    """

    def __init__(
        self, model: PreTrainedModel, addresses: Sequence[str], folder: str | Path | None = None
    ):
        if not addresses:
            raise InputError(
                "sampler=vllm: name the servers with --engines='[http://HOST:PORT]'; "
                "bash scripts/serve.sh CHECKPOINT starts one"
            )
        if hasattr(model.config, "vision_config"):
            raise InputError("sampler=vllm: serves models of text only; use cached")
        self.model = model
        self.engines = [Engine(address) for address in addresses]
        self.folder = folder
        self.version = ""
        self.write_adapter: Callable[[Path], None] | None = None
        """Writes the adapter that is trained on the model; servers that take adapters are then sent
        that, on the base they were started with, in place of all weights."""
        self._probes: list[tuple[list[int], np.ndarray]] = []  # prompts with the model's scores
        self._adapter_engines: list[Engine] | None = None
        self._own_folder: tempfile.TemporaryDirectory[str] | None = None
        for engine in self.engines:
            engine.wait()

    def expect(self, version: str, probes: Sequence[Sequence[int]]) -> None:
        """Take replies of this version of the weights alone, which another rank sends. `probes`
        are as in `update`.
        """
        self.version = version
        cut = [list(ids[:PROBE_TOKENS]) for ids in probes[:PROBED]]
        self._probes = [(ids, np.array(self._score(ids))) for ids in cut]
        for engine in self._by_adapter():
            engine.adapter = version

    def update(self, version: str, probes: Sequence[Sequence[int]]) -> None:
        """Send the model's weights, which are whole here, under a new version. `probes` are token
        ids of prompts, which both sides score. Raises InputError where the scores differ.
        """
        self.expect(version, probes)
        place = self._place() / f"version-{version}"
        by_adapter = self._by_adapter()
        if self.write_adapter is not None and by_adapter:
            self.write_adapter(place / "adapter")
        if len(by_adapter) < len(self.engines):
            write_weights(self.model, place / "whole")
        spread(self.engines, self.engines, lambda _, engine: self._send(engine))
        for old in self._place().glob("version-*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)

    def update_together(self, version: str, probes: Sequence[Sequence[int]]) -> None:
        """Call `update` on the main process and `expect` on the others, which wait for it."""
        state = PartialState()
        take = self.update if state.is_main_process else self.expect
        take(version, probes)
        state.wait_for_everyone()

    def close(self) -> None:
        """Remove the weights that were sent. A server that starts anew later gets none."""
        self.version = ""
        shutil.rmtree(self._place(), ignore_errors=True)

    def sample(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        """Return one completion of each request, in order. Raises InputError where servers stay
        away.
        """
        replies: list[Generated | None] = [None] * len(requests)
        waiting = list(range(len(requests)))
        for _ in range(_TRIES):
            attempt = [(i, requests[i]) for i in waiting]
            for i, reply in zip(
                waiting,
                spread(self.engines, attempt, lambda e, item: self._ask(e, item[1], decoding)),
                strict=True,
            ):
                replies[i] = reply
            waiting = [i for i in waiting if not self._is_of_these_weights(replies[i])]
            if not waiting:
                return [Completion(r.token_ids, r.logprobs) for r in replies if r is not None]
            spread(self.engines, self.engines, lambda _, engine: self._bring_back(engine))
        raise InputError(
            f"sampler=vllm: {len(waiting)} of {len(requests)} prompts were not answered by the "
            "newest weights; look at the server's log, and go on with --resume"
        )

    def _ask(self, engine: Engine, request: Request, decoding: Decoding) -> Generated | None:
        """Return a reply, or None where the server is gone."""
        greedy = request.uniforms is None
        sampling = {
            "max_tokens": decoding.max_new_tokens,
            "temperature": 0.0 if greedy else decoding.temperature,
            "top_p": 1.0 if greedy else decoding.top_p,
            "top_k": 0,
            "stop_token_ids": list(decoding.stop_ids),
            "ignore_eos": True,  # of the server's model; ours are all in stop_token_ids
            "skip_special_tokens": False,
        }
        if not greedy and engine.takes_seeds:
            sampling["seed"] = _seed(request.uniforms)
        if decoding.suppressed is not None:
            sampling["logit_bias"] = {str(decoding.suppressed): -100.0}
        try:
            return engine.generate(request.token_ids, **sampling)
        except EngineGoneError:
            return None

    def _is_of_these_weights(self, reply: Generated | None) -> bool:
        return reply is not None and (not self.version or reply.version == self.version)

    def _bring_back(self, engine: Engine) -> None:
        """Wait for a server, and send the weights if it does not have the newest."""
        engine.wait()
        if not self.version or not self._probes:
            return
        try:
            _, version = engine.score(self._probes[0][0])
        except EngineGoneError:
            version = ""
        if version != self.version:
            self._send(engine)

    def _send(self, engine: Engine) -> None:
        place = self._place() / f"version-{self.version}"
        takes_adapter = engine in self._by_adapter()
        for attempt in range(_TRIES):
            try:
                if takes_adapter:
                    engine.load_adapter(str(place / "adapter"), self.version)
                else:
                    engine.load(str(place / "whole"), self.version)
                self._probe(engine)
                return
            except EngineGoneError as error:
                if attempt == _TRIES - 1:
                    raise InputError(
                        f"sampler=vllm: {engine.address} does not take the weights: {error}"
                    ) from error
                engine.wait()

    def _by_adapter(self) -> list[Engine]:
        """Return the servers that are sent the adapter alone."""
        if self.write_adapter is None:
            return []
        if self._adapter_engines is None:
            try:
                self._adapter_engines = [e for e in self.engines if e.takes_adapters()]
            except EngineGoneError as error:
                raise InputError(f"sampler=vllm: a server is gone: {error}") from error
        return self._adapter_engines

    def _probe(self, engine: Engine) -> None:
        tolerance = TOLERANCE.get(self.model.dtype, max(TOLERANCE.values()))
        for ids, own in self._probes:
            scores, version = engine.score(ids)
            gap = float(np.abs(np.array(scores) - own).mean())
            if version != self.version or not gap <= tolerance:
                raise InputError(
                    f"sampler=vllm: {engine.address} has not taken the weights: it scores a prompt "
                    f"{gap:.2g} nats a token from the learner (at most {tolerance:g}); serve the "
                    "model in the same dtype, with an output head of its own, as "
                    "bash scripts/serve.sh does"
                )

    @torch.no_grad()
    def _score(self, ids: Sequence[int]) -> list[float]:
        """Log-probabilities of all tokens but the first, at temperature 1."""
        tokens = torch.tensor([list(ids)], device=self.model.device)
        logits = self.model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        chosen = logits.log_softmax(-1).gather(-1, tokens[0, 1:, None])
        return chosen[:, 0].tolist()

    def _place(self) -> Path:
        if self.folder is None:
            if self._own_folder is None:
                self._own_folder = tempfile.TemporaryDirectory(prefix="weights-")
            return Path(self._own_folder.name)
        return Path(self.folder)


def _seed(uniforms: np.ndarray | None) -> int:
    assert uniforms is not None
    return int(uniforms[0] * 2**31)


def write_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's weights as an engine reads them: adapters merged, and the output head written
    even where it is the embedding. Raises InputError where the disk does not take them.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with untied(model):
            model.save_pretrained(partial, state_dict=merged_state(model))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise InputError(f"{folder}: weights cannot be written: {error.strerror}") from error


def merged_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return a model's state with the change of its low-rank adapters added to the weights, and
    tensors that share memory apart.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    state: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    changes = {
        name: sum(module.get_delta_weight(a) for a in module.active_adapters)
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    for name, tensor in model.state_dict(keep_vars=True).items():
        if "lora_" in name:
            continue
        value = tensor.detach()
        layer, is_base, rest = name.rpartition(".base_layer.")
        if is_base and rest == "weight" and layer in changes:
            value = value + changes[layer].to(value.dtype)
        elif value.data_ptr() in seen:
            value = value.clone()
        seen.add(value.data_ptr())
        state[name.replace(".base_layer.", ".")] = value
    return state
