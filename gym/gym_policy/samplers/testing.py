"""A real HTTP server on this machine that speaks as vLLM does, around a model of transformers; or
one that has a bad day.
"""

import copy
import http.server
import json
import threading
from pathlib import Path

import torch
from safetensors.torch import load_file

from gym_command.testing import serving
from gym_policy.completion import Decoding, Request
from gym_policy.samplers.generate import GenerateSampler


class StubEngine(http.server.ThreadingHTTPServer):
    """Serves `model`. With `ties_head`, reloaded weights do not reach its output head, as in a
    server that has tied it to the embedding. `drops`: how many of the next requests get no answer;
    `on_drop` is called before each. With `takes_adapters`, low-rank adapters can be loaded.
    """

    daemon_threads = True

    def __init__(self, model, ties_head=False, takes_adapters=False):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.ties_head = model, ties_head
        self.takes_adapters, self.adapters = takes_adapters, {}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.version, self.is_paused = "default", False
        self.drops, self.on_drop = 0, None
        self.calls, self.requests = [], []
        self.lock = threading.Lock()

    def reload(self, folder):
        state = {}
        for file in sorted(Path(folder).glob("*.safetensors")):
            state |= load_file(file)
        if self.ties_head:
            state.pop("lm_head.weight")
        self.model.load_state_dict(state, strict=False)

    def load_adapter(self, name, folder):
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(copy.deepcopy(self.model), folder)
        self.adapters[name] = adapted.get_base_model().eval()

    def generate(self, body):
        model = self.model if body["model"] == "policy" else self.adapters.get(body["model"])
        if model is None:
            return None
        sampling, ids = body["sampling_params"], body["token_ids"]
        greedy = sampling["temperature"] == 0
        answer = {}
        if "prompt_logprobs" in sampling:
            with torch.no_grad():
                scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            listed = [{str(t): {"logprob": scores[i, t].item()}} for i, t in enumerate(ids[1:])]
            answer["prompt_logprobs"] = [None, *listed]
        decoding = Decoding(
            sampling["temperature"] or 1.0,
            sampling["max_tokens"],
            greedy,
            tuple(sampling.get("stop_token_ids", ())),
            0,
        )
        uniforms = None
        if not greedy:
            generator = torch.Generator().manual_seed(sampling.get("seed", 0))
            uniforms = torch.rand(decoding.max_new_tokens, generator=generator).double().numpy()
        with torch.no_grad():
            (reply,) = GenerateSampler(model).sample([Request(ids, uniforms)], decoding)
        content = [
            {"token_id": t, "logprob": v}
            for t, v in zip(reply.token_ids, reply.logprobs, strict=True)
        ]
        versions = [{"version": self.version, "start": 0, "end": len(content)}]
        choice = {"token_ids": list(reply.token_ids), "logprobs": {"content": content}}
        return answer | {"choices": [choice | {"weight_versions": versions}]}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: StubEngine

    def log_message(self, *_):
        pass

    def do_GET(self):
        names = [{"id": name} for name in ("policy", *self.server.adapters)]
        answers = {"/v1/models": {"data": names}, "/server_info": {"vllm_config": {}}}
        self._answer(answers.get(self.path.partition("?")[0]))

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        path, server = self.path.partition("?")[0], self.server
        with server.lock:
            server.calls.append(path)
            if server.drops:
                server.drops -= 1
                if server.on_drop:
                    server.on_drop()
                self.close_connection = True
                self.connection.close()
                return
            self._answer(self._do(path, body))

    def _do(self, path, body):
        server = self.server
        if path in ("/pause", "/resume"):
            server.is_paused = path == "/pause"
            return {"status": path}
        if path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            assert server.is_paused
            server.reload(body["kwargs"]["weights_path"])
            return {"results": [None]}
        if path.endswith("_lora_adapter") and server.takes_adapters:
            if path == "/v1/unload_lora_adapter":
                del server.adapters[body["lora_name"]]
            elif body:
                server.load_adapter(body["lora_name"], body["lora_path"])
            return {}
        if path == "/reset_prefix_cache":
            return {"success": True}
        if path == "/update_weight_version":
            server.version = body["new_version"]
            return {"success": True}
        if path == "/inference/v1/generate":
            server.requests.append(body)
            return server.generate(body)
        return None

    def _answer(self, answer):
        data = json.dumps(answer).encode()
        self.send_response(200 if answer is not None else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def running_engine(model, **kwargs):
    """Return a server until the block ends."""
    return serving(StubEngine(model, **kwargs))
