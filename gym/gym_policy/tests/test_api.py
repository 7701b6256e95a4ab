"""A model behind an API, against a real HTTP server on this machine that can misbehave."""

import base64
import email.utils
import html
import io
import json
import socket
import threading
import time
import urllib.parse

import gymnasium
import numpy as np
import PIL.Image
import pytest

import gym_cards  # noqa: F401 - registers the environments
from gym_dialogue import Dialogue, InputError, Message, Task, rollout
from gym_dialogue.messages import BEYOND_CONTEXT
from gym_policy.api import endpoint as endpoint_module
from gym_policy.api.endpoint import Answer, Endpoint, EndpointError, Failure, read_answer
from gym_policy.api.journal import Journal
from gym_policy.api.policy import ApiPolicy
from gym_policy.api.testing import DROP, HANG, StubApi, completion, error, running_stub

KEY = "sk-very-secret-0123"
PAGE = "<!doctype html><title>Welcome</title>"


@pytest.fixture
def stub():
    with running_stub() as server:
        yield server


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def make(stub, tmp_path):
    """Makes policies that share a journal's file, one after another."""
    journals = []

    def make(model="some-model", timeout=10.0, tries=3, url=stub.url, **settings):
        for journal in journals:
            journal.close()
        journals.append(Journal(tmp_path / "replies.jsonl"))
        return ApiPolicy(
            Endpoint(url, model, timeout=timeout, tries=tries), journals[-1], **settings
        )

    yield make
    for journal in journals:
        journal.close()


def _dialogues(count=1, *texts):
    texts = texts or ("Make 24.",)
    roles = ["user", "assistant"] * len(texts)
    return [
        Dialogue(
            [Message(r, f"{t} {i}" if t else "") for r, t in zip(roles, texts, strict=False)],
            (5, i),
        )
        for i in range(count)
    ]


def _refused(policy, dialogues=None):
    with pytest.raises(InputError) as caught:
        policy.act(dialogues or _dialogues())
    line = str(caught.value)
    assert KEY not in line
    assert "\n" not in line
    return line


def test_what_is_sent_and_what_comes_back(stub, make):
    policy = make(max_new_tokens=40, extra_body={"top_p": 0.5, "provider": {"order": ["a"]}})
    (reply,) = policy.act(_dialogues(1, "Make 24.", "no", "Wrong."))
    (request,) = stub.requests
    assert request == {
        "model": "some-model",
        "messages": [
            {"role": "user", "content": "Make 24. 0"},
            {"role": "assistant", "content": "no 0"},
            {"role": "user", "content": "Wrong. 0"},
        ],
        "temperature": 0.0,
        "max_tokens": 40,
        "top_p": 0.5,
        "provider": {"order": ["a"]},
    }
    assert reply.text == stub.reply(request)
    assert stub.authorizations == [f"Bearer {KEY}"]


def test_settings_that_an_endpoint_refuses_are_left_out(stub, make):
    leave_out = ["seed", "temperature"]
    make(temperature=1.0, max_tokens_field="max_completion_tokens", leave_out=leave_out).act(
        _dialogues()
    )
    make(leave_out=["max_tokens"]).act(_dialogues())
    assert [set(r) - {"model", "messages"} for r in stub.requests] == [
        {"max_completion_tokens"},
        {"temperature"},
    ]


def test_a_seed_follows_from_the_dialogue_and_its_reply(stub, make, tmp_path):
    policy = make(temperature=0.7, concurrency=1)
    dialogues = [*_dialogues(2), *_dialogues(1, "Make 24.", "no", "Wrong.")]
    policy.act(dialogues)
    seeds = [request["seed"] for request in stub.requests]
    assert len(set(seeds)) == 3
    assert all(request["temperature"] == 0.7 for request in stub.requests)
    policy.journal.close()
    (tmp_path / "replies.jsonl").unlink()
    make(temperature=0.7, concurrency=1).act(dialogues)
    assert [request["seed"] for request in stub.requests[3:]] == seeds


def test_a_local_server_needs_no_key(stub, make, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    make().act(_dialogues())
    assert stub.authorizations == ["Bearer none"]


def test_images_arrive_as_they_were_drawn(stub, make):
    kwargs = {"language_only": False, "resolution": 120, "verify_iter": 2}
    env = gymnasium.make("gym_cards/GeneralPoint-oneline-v0", **kwargs)
    obs, _ = env.reset(seed=3)
    (episode,) = rollout([env], make(), [Task(3, (0,))])
    assert len(episode.turns) == len(stub.requests) == 2
    for request in stub.requests:
        image, text = request["messages"][0]["content"]
        assert text == {"type": "text", "text": obs["text"]}
        head, _, data = image["image_url"]["url"].partition(",")
        assert (image["type"], head) == ("image_url", "data:image/png;base64")
        opened = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
        assert opened.format == "PNG"
        np.testing.assert_array_equal(np.asarray(opened), obs["image"])
    feedback = stub.requests[1]["messages"][2]["content"]
    assert feedback == episode.turns[0].feedback


def test_as_many_requests_at_a_time_as_allowed(stub, make, monkeypatch):
    together = threading.Barrier(3)  # none is answered before three are there

    def reply(request):
        together.wait(60)
        return StubApi.reply(request)

    monkeypatch.setattr(stub, "reply", reply)
    dialogues = _dialogues(12)
    policy = make(concurrency=3)
    replies = policy.act(dialogues)
    assert stub.peak == 3
    asked = {r["messages"][0]["content"]: StubApi.reply(r) for r in stub.requests}
    assert [reply.text for reply in replies] == [asked[d.messages[0].text] for d in dialogues]
    assert policy.endpoint.usage.arrived.completion_tokens == 36


@pytest.mark.parametrize(
    "day",
    [
        (429, error("slow down"), {"Retry-After": "0.3"}),
        (500, error("oh")),
        (503, PAGE),
        (408, error("late")),
        (200, error("overloaded")),
        (200, {"error": "overloaded"}),
        (200, error("overloaded", code=502)),
        (200, error("slow down", code=429)),
        (200, error("Provider returned error", code=400)),
        (200, {"object": "error", "message": "overloaded", "code": 503}),
        (200, completion("as far as", "error")),
        (200, completion("as far as", "network_error")),
        (200, completion("as far as") | error("overloaded")),
        (200, {"choices": [{"message": {"content": "a"}, "error": {"code": 502}}]}),
        (200, {"choices": []}),
        (200, {"choices": None}),
        (200, {}),
        (200, ""),
        (200, "  \n"),
        (200, '{"choices": [{"mess'),
        HANG,
        DROP,
    ],
)
def test_what_may_pass_is_tried_again(day, stub, make):
    policy = make(timeout=2.0 if day == HANG else 60.0)
    policy.act(_dialogues(1, "first"))
    stub.bad_days = [day, day]
    began = time.monotonic()
    (reply,) = policy.act(_dialogues())
    assert reply.text == stub.reply(stub.requests[-1])
    assert stub.requests[1] == stub.requests[2] == stub.requests[3]
    assert (policy.endpoint.usage.requests, policy.endpoint.usage.retries) == (4, 2)
    if "Retry-After" in str(day):
        assert time.monotonic() - began >= 0.6


def test_retry_after_may_be_a_date(stub, make, monkeypatch):
    policy, waits = make(), []
    monkeypatch.setattr(policy.endpoint._stopped, "wait", lambda seconds: waits.append(seconds))
    now = time.time()
    monkeypatch.setattr(endpoint_module.time, "time", lambda: now)
    date = email.utils.formatdate(now + 50, usegmt=True)
    stub.bad_days = [(429, error("slow down"), {"Retry-After": date})]
    policy.act(_dialogues())
    assert len(waits) == 1
    assert 49 <= waits[0] <= 1.1 * 51  # a date has whole seconds, and the wait its jitter


def test_waiting_grows_to_a_bound_and_is_said(stub, make, monkeypatch, capsys):
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT", 1.0)
    policy, waits = make(tries=10), []
    monkeypatch.setattr(policy.endpoint._stopped, "wait", lambda seconds: waits.append(seconds))
    stub.always = (503, error("overloaded"))
    assert "answered 503 (overloaded), after 10 tries" in _refused(policy)
    for wait, most in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert most / 2 <= wait <= most
    told = capsys.readouterr().err
    assert told.count("answered 503 (overloaded): trying again in") == 1


ERRORS = [(200, error("oh")), (200, completion("as far as", "error")), (200, ""), (200, {})]


@pytest.mark.parametrize("day", ERRORS)
def test_an_error_inside_200_is_never_kept_as_a_reply(day, stub, make, tmp_path):
    stub.always = day
    line = _refused(make())
    assert "answered 200 without a reply" in line
    assert "after 3 tries; the replies so far are kept" in line
    assert (tmp_path / "replies.jsonl").read_text() == ""
    stub.always = None
    (reply,) = make().act(_dialogues())
    assert reply.text == stub.reply(stub.requests[-1])


def test_an_error_that_was_kept_as_a_reply_is_asked_for_again(stub, make, tmp_path):
    file = tmp_path / "replies.jsonl"
    (good,) = make().act(_dialogues())
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"text": "as far as", "finish_reason": "error"}) + "\n")
    for _ in range(2):  # and that is what counts from then on
        assert make().act(_dialogues()) == [good]
        assert len(stub.requests) == 2


CONTEXT = [
    (400, error("Too long.", code="context_length_exceeded")),
    (400, error("Too long.", type="exceed_context_size_error", code=400)),
    (200, error("Too long.", code="context_length_exceeded")),
    (200, error("This model's maximum context length is 64 tokens.", code=400)),
    (400, error("This model's maximum context length is 64 tokens. However, you requested 99.")),
    (400, {"message": "The decoder prompt (length 99) is longer than the maximum model length"}),
    (400, error("The input (99 tokens) is longer than the model's context length (64 tokens).")),
    (400, error("the request exceeds the available context size")),
    (422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 99 `inputs` tokens"}),
    (400, error("prompt is too long: 99 tokens > 64 maximum")),
    (400, error("The input token count (99) exceeds the maximum number of tokens allowed (64).")),
    (500, error("litellm.ContextWindowExceededError: prompt exceeds the context window")),
]


@pytest.mark.parametrize("day", CONTEXT)
def test_a_dialogue_beyond_the_context_is_a_failed_reply(day, stub, make):
    policy = make(concurrency=1)
    stub.bad_days = [None, day, None]
    env = gymnasium.make("gym_cards/GeneralPoint-oneline-v0", verify_iter=3)
    (episode,) = rollout([env], policy, [Task(3, (0,))])
    replies = [turn.reply for turn in episode.turns]
    assert [(reply.text == "", reply.finish) for reply in replies] == [
        (False, "stop"),
        (True, BEYOND_CONTEXT),
        (False, "stop"),
    ]
    assert episode.turns[1].outcome == "ILLEGAL_FORMULA"
    assert len(stub.requests) == 3
    assert policy.endpoint.usage.finish_reasons == {"stop": 2, BEYOND_CONTEXT: 1}
    assert "1 would not fit in the model's context" in str(policy.endpoint.usage)
    assert make().act(_dialogues(1, "else"))[0].finish == "stop"


@pytest.mark.parametrize(
    "day",
    [
        (400, error("max_tokens is too large: this model supports at most 64 completion tokens")),
        (400, error("context deadline exceeded", type="deadline_exceeded")),
        (401, error("maximum context length exceeded")),
        (413, error("Request entity too large")),
    ],
)
def test_other_refusals_are_not_taken_for_the_context(day, stub, make):
    stub.always = day
    assert f"answered {day[0]}" in _refused(make())


@pytest.mark.parametrize(
    ("day", "requests", "words"),
    [
        ((500, error("oh")), 3, "answered 500 (oh), after 3 tries; the replies so far are kept"),
        (HANG, 3, "no answer within 0.3 s, after 3 tries"),
        ((429, error("x", code="insufficient_quota")), 1, "answered 429 (x)"),
        ((429, error("x"), {"Retry-After": "86400"}), 1, "answered 429 (x), after 1 try;"),
    ],
)
def test_tries_are_bounded(day, requests, words, stub, make):
    stub.always = day
    assert words in _refused(make(timeout=0.3 if day == HANG else 60.0))
    end = time.monotonic() + 60
    while len(stub.requests) < requests and time.monotonic() < end:  # given up before it was read
        time.sleep(0.01)
    assert len(stub.requests) == requests


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, error(f"Incorrect API key provided: {KEY}"), "provided: [OPENAI_API_KEY])"),
        (401, error("no"), "check the key in OPENAI_API_KEY"),
        (403, {"detail": "not yours"}, "answered 403 (not yours): check the key"),
        (404, error("no such model"), "the models that it lists: another, some-model"),
        (400, {"message": "pinned"}, "(pinned); the models that it lists: another, some-model"),
        (400, error("Unsupported parameter: 'max_tokens'"), "see --max_tokens_field"),
        (422, {"detail": [{"loc": ["body"]}]}, 'answered 422 ([{"loc": ["body"]}])'),
        (404, PAGE, "answered 404 (a web page)"),
        (413, "x" * 500, "x" * 200 + "...)"),
        (200, PAGE, "answered a web page: base_url must be the root"),
        (200, "fine", "answered something that is no JSON: base_url must be"),
        (200, error("no credit", code=402), "answered 200 without a reply (no credit)"),
        (200, error("no", code="401"), "answered 200 without a reply (no): check the key"),
        (200, error("no", code="insufficient_quota"), "answered 200 without a reply (no)"),
        (200, {"choices": [{"message": {}}]}, "answered JSON without a reply"),
        (200, {"choices": [{"text": "a", "finish_reason": "stop"}]}, "JSON without a reply"),
        (200, [], "answered JSON without a reply"),
        (200, completion(5), "answered JSON with a reply that is no text"),
    ],
)
def test_what_cannot_be_used_is_one_line_at_once(status, body, words, stub, make):
    stub.always = (status, body)
    assert words in _refused(make(model="unheard-of"))
    assert len(stub.requests) == 1


def test_an_address_without_an_api_is_one_line(stub, make):
    stub.models, stub.always = None, (404, error("Not Found"))
    assert "base_url must be the root of an OpenAI-compatible API" in _refused(make())


def test_what_a_request_holds_is_named_where_it_is_refused(stub, make):
    stub.always = (400, error("bad content"))
    image = np.zeros((8, 8, 3), np.uint8)
    with_image = Dialogue([Message("user", "see", image)], (1,))
    assert "the request holds an image" in _refused(make(), [with_image])
    with_empty = _dialogues(1, "Make 24.", "", "Wrong.")
    assert "see --empty_reply" in _refused(make(), with_empty)
    stub.always = None
    make(empty_reply="(nothing)").act(with_empty)
    assert stub.requests[-1]["messages"][1] == {"role": "assistant", "content": "(nothing)"}


@pytest.mark.parametrize(
    "day",
    [
        (200, completion(None, "content_filter")),
        (200, completion(None, refusal="I would rather not.")),
        (200, completion("")),
        (400, error("filtered", code="content_filter")),
    ],
)
def test_what_is_filtered_or_refused_is_an_empty_reply(day, stub, make):
    stub.always = day
    env = gymnasium.make("gym_cards/GeneralPoint-oneline-v0", verify_iter=2)
    (episode,) = rollout([env], make(), [Task(3, (0,))])
    assert [(t.reply.text, t.outcome) for t in episode.turns] == [("", "ILLEGAL_FORMULA")] * 2


def test_reading_an_answer():
    def read(body):
        return read_answer(json.dumps(body))

    assert read(completion("a")) == Answer("a", "stop", 7, 3)
    assert read(completion("a", "length")).finish_reason == "length"
    bare = {"choices": [{"message": {"content": "a"}}], "usage": None}
    assert read(bare) == Answer("a", "unknown", None, None)
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]
    assert read(completion(parts)).text == "a"
    reply = read(completion("a\ud800b")).text
    assert reply.encode() == b"a?b"


def test_a_server_that_is_not_there_is_one_line_at_once(make, monkeypatch):
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT", 60)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    line = _refused(make(url=url))
    assert f"cannot reach {url}" in line
    assert "refused" in line


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://h:99999/v1", "http://a b/v1"]
)
def test_an_address_that_is_none(url):
    with pytest.raises(InputError, match="must be the root of an OpenAI-compatible API"):
        Endpoint(url, "m")


RAW = bytes(range(240, 256)) + b"\xfb\xef\xff" + b"\0" * 4 + b"?>~" * 3
KEYS = [
    "sk-proj-_Ab-9/xY+z==",
    base64.b64encode(RAW).decode(),
    base64.urlsafe_b64encode(RAW).decode(),
    "A/" * 40,
    "+/=" * 8,
    "key.with:odd&<chars>'\"%\\$",
]


def _forms(key):
    """What a key may look like in what an endpoint says."""
    quoted = urllib.parse.quote(key, safe="")
    as_json = json.dumps(key)[1:-1]
    return {
        *(key, as_json, as_json.replace("/", "\\/"), json.dumps(as_json)[1:-1]),
        *(
            quoted,
            quoted.replace("%2F", "%2f"),
            urllib.parse.quote(key),
            urllib.parse.quote(quoted),
        ),
        *("".join(f"\\u{ord(c):04x}" for c in key), "".join(f"\\u{ord(c):04X}" for c in key)),
        *(html.escape(key), "".join(f"&#{ord(c)};" for c in key)),
        "".join(f"&#x{ord(c):X};" if not c.isalnum() else c for c in key),
    }


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_any_shape_shows_nowhere(key, stub, make, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    policy = make()
    for form in _forms(key):
        for padding in (0, 100, 190, 199):  # the key stands on both sides of where a line is cut
            told = "x" * padding + form
            bodies = [told, f"{told} <html>", json.dumps(error(told, code=402)), json.dumps([told])]
            bodies += [json.dumps({"detail": [{"input": told}]})]
            if '"' not in form:
                bodies.append('{"error": {"message": "' + told + '"}}')
            for body in bodies:
                shown = policy.endpoint._status(Failure(401, (), body))
                _shows_no_part_of(key, shown)
                assert len(shown) < 300
                with pytest.raises((InputError, EndpointError)) as caught:
                    policy.endpoint._read(body)
                if caught.type is EndpointError:
                    shown = policy.endpoint._status(caught.value.failure)
                _shows_no_part_of(key, shown + str(caught.value) * (caught.type is InputError))
        stub.models = [form]
        stub.always = (400, error(form))
        with pytest.raises(InputError) as caught:
            policy.act(_dialogues())
        _shows_no_part_of(key, str(caught.value))
        policy.endpoint._stopped.clear()
    stub.bad_days, stub.always = [(503, error(key))], (200, completion(f"{key} or {key}"))
    monkeypatch.setattr(endpoint_module, "_WORTH_SAYING", 0.0)
    (reply,) = policy.act(_dialogues())
    assert reply.text == "[OPENAI_API_KEY] or [OPENAI_API_KEY]"
    (file,) = tmp_path.iterdir()
    told = capsys.readouterr().err
    assert "answered 503 ([OPENAI_API_KEY])" in told
    _shows_no_part_of(key, file.read_text() + told)


def _shows_no_part_of(key, text):
    for form in _forms(key):
        assert form[:10] not in text


def test_a_short_key_is_no_secret_in_a_reply(stub, make, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    stub.always = (200, completion("EMPTY"))
    assert make().act(_dialogues())[0].text == "EMPTY"


def test_secrets_that_stand_where_they_should_not(monkeypatch):
    with pytest.raises(InputError, match="base_url: holds the key") as caught:
        Endpoint(f"http://host/{KEY}/v1", "m")
    assert KEY not in str(caught.value)
    with pytest.raises(InputError, match="model: holds the key"):
        Endpoint("http://host/v1", KEY)
    for url in (f"http://me:{KEY}@host/v1", f"//{KEY}@", f"http://host/v1?key={KEY}"):
        with pytest.raises(InputError, match="no place for a key") as caught:
            Endpoint(url, "m")
        assert KEY not in str(caught.value)
    with pytest.raises(InputError, match="name of an environment variable") as caught:
        Endpoint("http://host/v1", "m", key_env=KEY)
    assert KEY not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\aé")
    with pytest.raises(InputError, match="odd characters") as caught:
        Endpoint("http://host/v1", "m")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": 5000}, "concurrency=5000"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"tries": 0}, "tries=0"),
        ({"extra_body": {"stream": True, "seed": 1}}, "seed, stream"),
        ({"extra_body": {"auth": {"key": KEY}}}, "extra_body: holds the key"),
    ],
)
def test_settings_that_are_none(settings, words, make):
    with pytest.raises(InputError, match=words):
        make(**settings)


def test_a_reply_is_paid_for_once(stub, make, tmp_path):
    dialogues = _dialogues(5)
    first = make().act(dialogues)
    policy = make()
    assert policy.act(dialogues) == first
    assert len(stub.requests) == 5
    assert (policy.endpoint.usage.requests, policy.endpoint.usage.from_journal.replies) == (0, 5)
    assert KEY not in (tmp_path / "replies.jsonl").read_text()
    # Whatever may change the reply asks for another.
    for other in ({"model": "b"}, {"max_new_tokens": 9}, {"temperature": 1.0}):
        make(**other).act(dialogues[:1])
    for changed in (Message("user", "Else."), Message("user", "a", np.zeros((2, 2, 3), np.uint8))):
        make().act([Dialogue([changed], dialogues[0].key)])
    make().act([Dialogue([Message("user", "a", np.ones((2, 2, 3), np.uint8))], dialogues[0].key)])
    make().act([Dialogue(dialogues[0].messages, (5, 99))])
    assert len(stub.requests) == 12


def test_what_arrived_before_a_failure_is_kept(stub, make):
    stub.bad_days = [None, None, (401, error("no"))]
    dialogues = _dialogues(20)
    assert "answered 401 (no)" in _refused(make(concurrency=1), dialogues)
    assert len(stub.requests) == 3  # nothing more is asked for
    make().act(dialogues)
    assert len(stub.requests) == 3 + 18


def test_what_is_under_way_at_a_failure_is_kept(stub, make, monkeypatch):
    policy, dialogues = make(concurrency=2), _dialogues(20)

    def reply_after_the_failure(request):
        assert policy.endpoint._stopped.wait(30)
        return "late"

    monkeypatch.setattr(stub, "reply", reply_after_the_failure)
    stub.bad_days = [None, (401, error("no"))]
    assert "answered 401 (no)" in _refused(policy, dialogues)
    assert len(stub.requests) == 2
    texts = [reply.text for reply in make().act(dialogues)]
    assert len(stub.requests) == 2 + 19
    assert texts == ["late"] * 20


def test_what_was_given_up_is_not_named_for_what_failed(stub, make):
    stub.bad_days = [(500, error("passing"), {"Retry-After": "50"}), (401, error("no"))]
    began = time.monotonic()
    assert "answered 401 (no)" in _refused(make(concurrency=2), _dialogues(2))
    assert time.monotonic() - began < 40


def test_a_torn_last_line_is_dropped(stub, make, tmp_path):
    file = tmp_path / "replies.jsonl"
    dialogues = _dialogues(4)
    first = make(concurrency=1).act(dialogues)
    file.write_bytes(file.read_bytes()[:-9])
    assert make().act(dialogues) == first
    assert len(stub.requests) == 5
    assert make().act(dialogues) == first
    assert len(stub.requests) == 5
    lines = file.read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == 4


@pytest.mark.parametrize("line", ["{", "3", '{"text": "a"}', '{"key": "a", "colour": "red"}'])
def test_a_journal_that_is_none_is_one_line(line, tmp_path):
    file = tmp_path / "replies.jsonl"
    good = {"key": "k", "text": "a", "finish_reason": "stop"}
    file.write_text(f"{json.dumps(good)}\n{line}\n")
    with pytest.raises(InputError, match="line 2: is no reply"):
        Journal(file)
    file.write_text(f"{json.dumps(good)}\n")
    journal = Journal(file)
    assert journal.get("k") == Answer("a", "stop")
    with pytest.raises(InputError, match="another process"):
        Journal(file)
    journal.close()
