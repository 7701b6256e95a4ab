"""What the tests of rl start runs from."""

import pytest

from rl.testing import tiny_llama, tiny_tokenizer


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint of a tiny Llama with random weights."""
    directory = tmp_path_factory.mktemp("start")
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
