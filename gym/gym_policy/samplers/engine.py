"""A client of vLLM's server: replies and scores by token ids, and new weights from a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from gym_dialogue.errors import InputError

CONCURRENCY = 256
"""Requests in flight at an address; the server queues and batches them itself."""
_PATIENCE = 300.0  # seconds that a server may take to answer, or to come back
_PAUSE = 1.0  # seconds before the first retry; each next one waits twice as long, up to 16
_GENERATE = "/inference/v1/generate"
_LOAD_ADAPTER = "/v1/load_lora_adapter"
_ADAPTER = "version-"  # what the names of adapters begin with

Item = TypeVar("Item")
Result = TypeVar("Result")


class EngineGoneError(Exception):
    """A server does not answer, or has failed: it may have been started anew, without the weights
    that it was sent.
    """


@dataclass(frozen=True)
class Generated:
    """What a server sampled: tokens, their log-probabilities, and the version of the weights."""

    token_ids: list[int]
    logprobs: list[float]
    version: str


class Engine:
    """One vLLM server, as scripts/serve.sh starts it. Requests wait for a server that is not there
    yet, for at most `patience` seconds.

    Raises EngineGoneError where the server drops a request or says that it has failed, and
    InputError for what it refuses: a prompt that is too long, an endpoint that it does not have.
    """

    def __init__(self, address: str, patience: float = _PATIENCE):
        import urllib3

        self.address = address.rstrip("/")
        self.patience = patience
        self._pool = urllib3.PoolManager(
            maxsize=CONCURRENCY, timeout=urllib3.Timeout(total=patience), retries=False
        )
        self.model = ""
        self.adapter = ""
        """The version of the adapter that replies are by, where the server was sent one."""
        self.takes_seeds = True
        """Whether a request may have a seed. On a CPU vLLM 0.32 ends where a prompt that has one is
        computed in parts."""

    def wait(self) -> None:
        """Wait until the server answers, and learn its model's name. Raises InputError after
        `patience` seconds.
        """
        end = time.monotonic() + self.patience
        pause = _PAUSE
        while True:
            try:
                self.model = self._call("GET", "/v1/models")["data"][0]["id"]
                self.takes_seeds = not self._runs_on_cpu()
                self.adapter = ""
                return
            except EngineGoneError as error:
                if time.monotonic() + pause > end:
                    raise InputError(
                        f"sampler=vllm: no server answers at {self.address} ({error}); start one "
                        "with bash scripts/serve.sh CHECKPOINT"
                    ) from error
            except (LookupError, TypeError) as error:
                raise InputError(
                    f"sampler=vllm: {self.address}/v1/models lists no model: is it a vLLM server?"
                ) from error
            time.sleep(pause)
            pause = min(2 * pause, 16.0)

    def _runs_on_cpu(self) -> bool:
        try:
            info = self._call("GET", "/server_info?config_format=json")
            return info["vllm_config"]["device_config"]["device"] == "cpu"
        except (InputError, LookupError, TypeError):  # of another version
            return False

    def generate(self, token_ids: Sequence[int], **sampling: Any) -> Generated:
        """Continue a prompt. `sampling` is vLLM's SamplingParams."""
        answer = self._generate(token_ids, sampling | {"logprobs": 0})
        try:
            (choice,) = answer["choices"]
            tokens = choice["logprobs"]["content"] if choice["token_ids"] else []
            return Generated(
                list(choice["token_ids"]),
                [float(token["logprob"]) for token in tokens],
                self.adapter or _version(choice),
            )
        except (LookupError, TypeError, ValueError) as error:
            raise self._unlike_vllm() from error

    def score(self, token_ids: Sequence[int]) -> tuple[list[float], str]:
        """Return the log-probabilities of all tokens but the first, at temperature 1, and the
        version of the weights.
        """
        sampling = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "ignore_eos": True}
        answer = self._generate(token_ids, sampling)
        try:
            listed = answer["prompt_logprobs"][1:]
            ids = map(str, token_ids[1:])
            scores = [float(by_id[t]["logprob"]) for by_id, t in zip(listed, ids, strict=True)]
            return scores, self.adapter or _version(answer["choices"][0])
        except (LookupError, TypeError, ValueError) as error:
            raise self._unlike_vllm() from error

    def load(self, folder: str, version: str) -> None:
        """Take the weights in a folder, which the server can read under the same path."""
        self._call("POST", "/pause?mode=wait")
        try:
            call = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
            self._call("POST", "/collective_rpc", call)
            reset = self._call("POST", "/reset_prefix_cache")
            if isinstance(reset, dict) and reset.get("success") is False:
                raise EngineGoneError("its prefix cache could not be reset")
            self._call("POST", "/update_weight_version", {"new_version": version})
        finally:
            self._call("POST", "/resume")

    def takes_adapters(self) -> bool:
        """Return whether low-rank adapters can be sent (scripts/serve.sh ... --enable-lora)."""
        return self._request("POST", _LOAD_ADAPTER, {}).status != 404

    def load_adapter(self, folder: str, version: str) -> None:
        """Take the adapter in a folder, on the weights that the server holds, in place of those
        sent before. It is named by its version, so that no reply can be by another.
        """
        for listed in self._call("GET", "/v1/models")["data"]:
            if str(listed["id"]).startswith(_ADAPTER):
                self._call("POST", "/v1/unload_lora_adapter", {"lora_name": listed["id"]})
        adapter = {"lora_name": _ADAPTER + version, "lora_path": folder}
        self._call("POST", _LOAD_ADAPTER, adapter)
        self.adapter = version

    def _unlike_vllm(self) -> InputError:
        return InputError(
            f"sampler=vllm: {self.address} answers in another form than vLLM 0.32 does"
        )

    def _generate(self, token_ids: Sequence[int], sampling: dict[str, Any]) -> Any:
        model = _ADAPTER + self.adapter if self.adapter else self.model
        body = {"model": model, "token_ids": list(token_ids), "sampling_params": sampling}
        return self._call("POST", _GENERATE, body)

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        """Return a server's response. Raises EngineGoneError where there is none, or it failed."""
        import urllib3

        try:
            response = self._pool.request(method, self.address + path, json=body)
        except urllib3.exceptions.HTTPError as error:
            raise EngineGoneError(" ".join(str(error).split())) from error
        if response.status >= 500:
            raise EngineGoneError(f"{path} answers {response.status}")
        return response

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        response = self._request(method, path, body)
        if response.status == 404 and path == _GENERATE and self.adapter:
            raise EngineGoneError(f"adapter {self.adapter} is not there")
        if response.status == 404 and path != "/v1/models":
            raise InputError(
                f"sampler=vllm: {self.address} has no {path}: start the server with "
                "bash scripts/serve.sh, or with --enable-scale-out and VLLM_SERVER_DEV_MODE=1"
            )
        if response.status >= 400:
            raise InputError(f"sampler=vllm: {self.address}{path} refuses: {_reason(response)}")
        try:
            return response.json() if response.data else None
        except ValueError as error:
            raise InputError(f"sampler=vllm: {self.address}{path} answers no JSON") from error


def _version(choice: Any) -> str:
    """Return the version of the weights under which all of a reply was sampled, or `mixed`."""
    versions = {str(part["version"]) for part in choice["weight_versions"]}
    return versions.pop() if len(versions) == 1 else "mixed"


def _reason(response: Any) -> str:
    """Return what a server says of a request that it refuses, in one line."""
    try:
        detail = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        detail = response.data.decode(errors="replace")
    return " ".join(str(detail).split())[:300] or f"status {response.status}"


def spread(
    engines: Sequence[Engine], items: Sequence[Item], work: Callable[[Engine, Item], Result]
) -> list[Result]:
    """Have engines do work on items, in turn, many at a time; results in the order of the items.
    The first error ends what has not begun.
    """
    with ThreadPoolExecutor(min(CONCURRENCY * len(engines), max(len(items), 1))) as pool:
        futures = [
            pool.submit(work, engines[i % len(engines)], item) for i, item in enumerate(items)
        ]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
