"""Inspect plays the same episodes as `rollout`. Runs where inspect-ai is installed (.ci/doors)."""

import pytest

inspect_ai = pytest.importorskip("inspect_ai")

from inspect_ai.model import ModelOutput, ModelUsage, get_model  # noqa: E402

from gym_dialogue import InputError  # noqa: E402
from gym_dialogue.adapters.inspect_tasks import dialogue_task  # noqa: E402
from gym_dialogue.adapters.tests.played import ENVIRONMENTS, EPISODES, played, replies  # noqa: E402


def _model(texts):
    """A model that gives these replies, one after the other."""
    outputs = [ModelOutput.from_content("mockllm", text) for text in texts]
    for output in outputs:
        output.usage = ModelUsage()  # else it is counted with a vocabulary that is downloaded
    return get_model("mockllm/model", custom_outputs=outputs)


def _evaluated(env_id, texts, tmp_path, **kwargs):
    """The log of an evaluation in which the model gives these replies, sample by sample."""
    task = dialogue_task(env_id, EPISODES, kwargs=ENVIRONMENTS[env_id] | kwargs)
    (log,) = inspect_ai.eval(
        task, model=_model(texts), max_samples=1, log_dir=str(tmp_path), display="none"
    )
    assert log.status == "success", log.error
    return log


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_samples_are_the_episodes_of_rollout(env_id, tmp_path):
    episodes = played(env_id)
    log = _evaluated(env_id, replies(episodes), tmp_path)
    for episode, sample in zip(episodes, log.samples, strict=True):
        score = sample.scores["episode_success"]
        assert score.value == float(episode.is_success)
        assert sample.scores["first_reply"].value == float(episode.turns[0].is_right)
        turns = [(t["reward"], tuple(t["outcomes"])) for t in score.metadata["turns"]]
        assert turns == [(turn.reward, turn.outcomes) for turn in episode.turns]
        assert sample.metadata["puzzle"] == episode.puzzle
        assert sample.input[0].text == episode.dialogues[0].messages[0].text
        # What is left in the end is the last dialogue.
        texts = [message.text for message in sample.messages]
        assert texts == [message.text for message in episode.dialogues[-1].messages]
    metrics = log.results.scores[0].metrics
    assert metrics["accuracy"].value == pytest.approx(
        sum(episode.is_success for episode in episodes) / EPISODES
    )
    assert metrics["stderr"].value >= 0


def test_images_are_shown_to_the_model(tmp_path):
    env_id = "gym_cards/GeneralPoint-oneline-v0"
    shown = {"language_only": False, "resolution": 84}
    episodes = played(env_id, **shown)
    log = _evaluated(env_id, replies(episodes), tmp_path, **shown)
    image, text = log.samples[0].input[0].content
    assert (image.type, text.type) == ("image", "text")
    assert [s.scores["episode_success"].value for s in log.samples] == [
        float(episode.is_success) for episode in episodes
    ]


def test_sample_that_a_limit_ends_counts_as_failed(tmp_path):
    env_id = "gym_cards/GeneralPoint-oneline-v0"
    task = dialogue_task(env_id, 1, kwargs={"verify_iter": 4})
    (log,) = inspect_ai.eval(
        task, model=_model(["?"] * 4), message_limit=4, log_dir=str(tmp_path), display="none"
    )
    assert log.status == "success", log.error
    (sample,) = log.samples
    assert sample.limit is not None
    assert sample.scores["episode_success"].value == 0.0
    assert len(sample.metadata["turns"]) >= 1


def test_argument_that_the_environment_does_not_take_is_named():
    with pytest.raises(InputError, match="takes no argument 'cards'"):
        dialogue_task("gym_cards/GeneralPoint-oneline-v0", 1, kwargs={"cards": 4})
