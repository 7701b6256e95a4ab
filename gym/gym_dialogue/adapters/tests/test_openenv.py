"""OpenEnv serves the same episodes as `rollout` plays. Runs where openenv is installed
(.ci/doors).
"""

import socket
import threading
import time

import pytest

pytest.importorskip("openenv")

import uvicorn
from openenv.core import GenericEnvClient

from gym_dialogue import InputError
from gym_dialogue.adapters.openenv_server import main, make_app
from gym_dialogue.adapters.tests.played import ENVIRONMENTS, played

CARDS = "gym_cards/GeneralPoint-oneline-v0"


@pytest.fixture
def serve():
    """Start a server of an environment; returns its address."""
    servers = []

    def start(env_id, kwargs):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        app = make_app(env_id, kwargs)
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


def _texts(observation):
    return [(m["role"], m["content"]) for m in observation["messages"]]


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_sessions_are_the_episodes_of_rollout(env_id, serve):
    episodes = played(env_id)
    clients = []
    address = serve(env_id, ENVIRONMENTS[env_id])
    for _ in episodes:  # all at the same time
        clients.append(GenericEnvClient(base_url=address).sync())
        clients[-1].connect()
    results = [env.reset(seed=e.task.env_seed) for env, e in zip(clients, episodes, strict=True)]
    for env, episode, result in zip(clients, episodes, results, strict=True):
        for number, turn in enumerate(episode.turns):
            due = episode.turns_of(turn.dialogue).index(number)
            before = episode.dialogues[turn.dialogue].messages[: 2 * due + 1]
            assert _texts(result.observation) == [(m.role, m.text) for m in before]
            result = env.step({"text": turn.reply.text})
            assert result.reward == turn.reward
            assert result.observation["outcomes"] == list(turn.outcomes)
            assert result.observation["is_right"] == turn.is_right
            assert result.done == (number + 1 == len(episode.turns))
        state = env.state()
        assert (state["puzzle"], state["is_success"]) == (episode.puzzle, episode.is_success)
        assert state["rewards"] == [turn.reward for turn in episode.turns]
        env.close()


def test_images_come_as_data_urls(serve):
    with GenericEnvClient(
        base_url=serve(CARDS, {"language_only": False, "resolution": 84})
    ).sync() as env:
        (message,) = env.reset(seed=0).observation["messages"]
    image, text = message["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text["type"] == "text"


def test_hand_of_the_options_is_dealt(serve):
    with GenericEnvClient(base_url=serve(CARDS, {})).sync() as env:
        env.reset(seed=0, cards=["A", "2", "3", "4"])
        assert env.state()["puzzle"] == "1-2-3-4"
        with pytest.raises(Exception, match="hand"):
            env.reset(seed=0, hand=["A", "2", "3", "4"])


def test_reply_of_half_a_character_is_judged(serve):
    with GenericEnvClient(base_url=serve(CARDS, {})).sync() as env:
        env.reset(seed=0)
        assert env.step({"text": '{"formula": "\ud800"}'}).reward < 0


def test_step_without_an_episode_says_so(serve):
    says = pytest.raises(Exception, match="no episode is under way; reset first")
    with GenericEnvClient(base_url=serve(CARDS, {})).sync() as env, says:
        env.step({"text": "24"})


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--kwargs", "[1]"], "--kwargs: must be a JSON object"),
        (["--port", "99999"], "--port"),
        (["--sessions", "0"], "--sessions: must be a whole number of at least 1"),
        (["--kwargs", '{"cards": 4}'], "takes no argument 'cards'"),
        (["--env_id", "gym_cards/Poker-v0"], "Poker-v0"),
    ],
)
def test_bad_arguments_end_as_one_line(arguments, word, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert word in capsys.readouterr().err.splitlines()[-1]


def test_environment_that_cannot_be_made_is_refused_before_serving():
    with pytest.raises(InputError, match="verify_iter"):
        make_app(CARDS, {"verify_iter": 0})
