"""Rollouts with scripted policies on an environment made for the purpose, and on cards."""

import gymnasium
import pytest

import gym_cards
from gym_dialogue import (
    DialogueEnv,
    InputError,
    NoisyOraclePolicy,
    OraclePolicy,
    Policy,
    Prompt,
    RandomPolicy,
    Reply,
    Task,
    Verdict,
    rollout,
)


class Countdown(DialogueEnv):
    """Say n, then n - 1, down to 1; each right number opens a fresh dialogue."""

    def _begin(self, options):
        self.n = int(self.np_random.integers(1, 5))
        return Prompt(str(self.n), info={"puzzle": str(self.n)})

    def _judge(self, reply):
        if reply != str(self.n):
            return Verdict(-1.0, ("WRONG",), "no", False)
        return Verdict(1.0, ("RIGHT",), "", True)

    def _advance(self, is_right):
        self.n -= is_right
        if self.n == 0 or not is_right:
            return None
        return Prompt(str(self.n), info={"puzzle": "x"})

    def oracle_reply(self):
        return str(self.n)

    def random_reply(self, rng):
        return str(rng.integers(1, 6))


def test_a_right_reply_can_open_a_fresh_dialogue():
    tasks = [Task(seed, (0, seed)) for seed in range(20)]
    for episode in rollout([Countdown(2) for _ in range(3)], OraclePolicy(), tasks):
        start = int(episode.dialogues[0].messages[0].text)
        assert episode.is_success
        assert len(episode.dialogues) == len(episode.turns) == start
        assert [turn.dialogue for turn in episode.turns] == list(range(start))
        assert len({dialogue.key for dialogue in episode.dialogues}) == start


def test_wrong_replies_stay_in_the_dialogue_until_the_budget_is_spent():
    class Mute(Policy):
        def act(self, dialogues):
            return [Reply("") for _ in dialogues]

    (episode,) = rollout([Countdown(2)], Mute(), [Task(0, (0,))])
    assert [turn.outcome for turn in episode.turns] == ["WRONG", "WRONG"]
    roles = [message.role for message in episode.dialogues[0].messages]
    assert roles == ["user", "assistant", "user", "assistant"]
    assert not episode.is_success


def test_results_do_not_depend_on_how_many_environments_play():
    tasks = [Task(seed, (0, seed)) for seed in range(30)]
    policy = NoisyOraclePolicy(0.5)

    def outcomes(count):
        envs = [gymnasium.make(gym_cards.ENV_ID, verify_iter=3) for _ in range(count)]
        return [[turn.reply.text for turn in e.turns] for e in rollout(envs, policy, tasks)]

    assert outcomes(1) == outcomes(7) == outcomes(30)


def test_tasks_may_decide_as_they_go_how_many_there_are():
    ended = []

    def tasks():
        number = 0
        while len(ended) < 5:
            yield Task(number, (0, number))
            number += 1

    episodes = rollout([Countdown(1) for _ in range(2)], OraclePolicy(), tasks(), ended.append)
    assert 5 <= len(episodes) <= 7
    assert [e.task.env_seed for e in episodes] == list(range(len(episodes)))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_error_rate_of_the_noisy_oracle(rate):
    envs = [gymnasium.make(gym_cards.ENV_ID, verify_iter=1) for _ in range(50)]
    episodes = rollout(envs, NoisyOraclePolicy(rate), [Task(i, (1, i)) for i in range(400)])
    wrong = sum(not e.is_success for e in episodes) / 400
    assert wrong == pytest.approx(rate, abs=0.08)


def test_random_policy_seldom_wins():
    envs = [gymnasium.make(gym_cards.ENV_ID, verify_iter=1) for _ in range(50)]
    episodes = rollout(envs, RandomPolicy(), [Task(i, (1, i)) for i in range(200)])
    assert sum(e.is_success for e in episodes) < 20


def test_bad_error_rate():
    with pytest.raises(InputError, match="error_rate"):
        NoisyOraclePolicy(1.5)
