"""Render a dialogue to tokens and image. No other code knows the tokens between turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from gym_dialogue.env import shows_images
from gym_dialogue.errors import InputError
from gym_dialogue.images import count_images
from gym_dialogue.messages import Dialogue, Message
from gym_policy.template import check_template_kwargs, render_template
from gym_policy.vision import ProcessedImage, first_image_token, image_words, read_prompt

_SENTINEL = "\u2402reply\u2403"  # stands for a reply, to find what the template writes around it
_NEXT = "\u2402next\u2403"  # stands for the message after it


@dataclass(frozen=True)
class Rendered:
    """A dialogue as tokens.

    `token_ids` (T); `turn` (T): the index of the reply that a token belongs to, -1 outside replies;
    `trained`: for each reply, whether it enters the loss; `prompt_ends`: for each reply, the index
    of the last token before it; `image_at`: the index of the first image token, if there is one.
    """

    token_ids: list[int]
    turn: list[int]
    trained: list[bool]
    prompt_ends: list[int]
    processed_image: ProcessedImage | None = None
    image_at: int | None = None


class Renderer:
    """Turns dialogues into tokens, for sampling, SFT and RL alike.

    The chat template renders the first prompt. A sampled reply enters as the token ids that were
    sampled, never as its text. What stands between two replies (end of turn, the verifier's
    message, the header of the next reply) is what the template writes there.

    A reply begins where the template begins it. A header there (a channel, as in harmony) belongs
    to the prompt, since the model would otherwise open other parts, each with an end of its own.
    Spaces before a reply or before its end belong to the reply.

    With the model's `processor`, the first prompt may hold an image. `template_kwargs` are
    variables for the chat template; `end_ids` are additional tokens that end a reply.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        processor: ProcessorMixin | None = None,
        processor_fault: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        end_ids: Iterable[int] = (),
    ):
        self.tokenizer = tokenizer
        self.processor, self.processor_fault = processor, processor_fault
        self._image_words = image_words(processor) if processor is not None else set()
        self.template_kwargs = check_template_kwargs(tokenizer, template_kwargs)
        self._writes_parts = False
        self._writes_parts = not self._keeps_text()
        if self._writes_parts and not self._keeps_text():
            raise InputError("the chat template leaves out the text of messages: set another")
        self._header, self._space_before = self._find_start()
        self._after = lru_cache(maxsize=4096)(self._render_after)
        self._encode = lru_cache(maxsize=4096)(self._encode_uncached)
        self.end_of_turn_id, self._space_after = self._find_end_of_turn()
        # A configuration may name a token of another vocabulary: an ordinary one ends no reply.
        special = {int(i) for i in end_ids if i in tokenizer.added_tokens_decoder}
        self.stop_ids = tuple(sorted({self.end_of_turn_id, tokenizer.eos_token_id} | special))

    def render(self, dialogue: Dialogue | Sequence[Message]) -> Rendered:
        """Render a whole dialogue; if it ends with a user message, up to the start of a reply.

        Raises InputError for more than one image, or one after the first reply.
        """
        messages = dialogue.messages if isinstance(dialogue, Dialogue) else list(dialogue)
        first = next((i for i, m in enumerate(messages) if m.role == "assistant"), len(messages))
        images = [i for i, message in enumerate(messages) if message.image is not None]
        if len(images) > 1 or any(i >= first for i in images):
            raise InputError("dialogue: may have one image, before the first reply")
        memo = dialogue.memo if isinstance(dialogue, Dialogue) else {}
        if "prompt" not in memo:
            memo["prompt"] = self._prompt(messages[:first])
        prompt, processed_image = memo["prompt"]
        ids = list(prompt)
        turn = [-1] * len(ids)
        trained: list[bool] = []
        prompt_ends: list[int] = []
        position = first
        while position < len(messages):
            message = messages[position]
            reply_ids = self._reply_ids(message)
            prompt_ends.append(len(ids) - 1)
            turn += [len(trained)] * len(reply_ids)
            trained.append(message.trained)
            ids += reply_ids
            position += 1
            if position < len(messages):
                after = self._after(messages[position].text)
                if reply_ids and reply_ids[-1] == self.end_of_turn_id:  # it was sampled
                    after = after[after.index(self.end_of_turn_id) + 1 :]
                ids += after
                turn += [-1] * len(after)
                position += 1
        image_at = None
        if processed_image is not None:
            image_at = first_image_token(self.processor, ids)
        return Rendered(ids, turn, trained, prompt_ends, processed_image, image_at)

    def require_images(self, what: str, path: str | None = None) -> None:
        """Raise InputError, on behalf of `what`, if the model (of the checkpoint `path`) reads no
        images.
        """
        if self.processor_fault is not None:
            raise InputError(f"{what} shows images, but the {self.processor_fault}")
        if self.processor is None:
            raise InputError(
                f"{what} shows images, and the model{f' {path}' if path else ''} reads text only, "
                "or its image processor (preprocessor_config.json or processor_config.json) is "
                "missing: choose a model with a vision part, with the processor's files beside it"
            )

    def first_prompt(self, env: Any, path: str | None = None) -> Rendered:
        """Return the first prompt of an environment: an example of what it shows.

        Raises InputError for images where the model (of the checkpoint `path`) reads text only.
        """
        if shows_images(env):
            self.require_images(f"environment {env.spec.id}", path)
        observation, _ = env.reset(seed=0)
        return self.render([Message("user", observation["text"], observation.get("image"))])

    def reply_text(self, token_ids: Sequence[int]) -> str:
        """Return the text of sampled tokens, without the stop token."""
        if token_ids and token_ids[-1] in self.stop_ids:
            token_ids = token_ids[:-1]
        return self.tokenizer.decode(token_ids, skip_special_tokens=False)

    def tokens_before(self, token_ids: Sequence[int], offset: int) -> int:
        """Return how many of a reply's tokens end at or before a character offset of its text.

        A token may hold only a part of a character, so tokens cannot be measured one by one. The
        text of the first k tokens grows with k, which makes bisection possible.
        """
        low, high = 0, len(token_ids)
        while low < high:
            middle = (low + high + 1) // 2
            # A prefix that ends within a character decodes to a replacement character at its end.
            if len(self.reply_text(token_ids[:middle]).rstrip("\ufffd")) <= offset:
                low = middle
            else:
                high = middle - 1
        return low

    def _reply_ids(self, message: Message) -> list[int]:
        if message.reply is not None and message.reply.token_ids:
            return list(message.reply.token_ids)
        text = f"{self._space_before}{self._spelled(message.text)}{self._space_after}"
        return [*self._encode(text), self.end_of_turn_id]

    def _prompt(self, messages: Sequence[Message]) -> tuple[Sequence[int], ProcessedImage | None]:
        """Return the token ids up to the first reply, and the image among the messages."""
        text = self._template(messages) + self._header
        images = [message.image for message in messages if message.image is not None]
        if not images:
            return self._encode(text), None
        self.require_images("the dialogue")
        return read_prompt(self.processor, text, images[0])

    def _template(self, messages: Sequence[Message], asks: bool = True) -> str:
        """Apply the template to messages; with `asks`, up to the start of a reply."""
        plain = [{"role": m.role, "content": self._content(m)} for m in messages]
        return render_template(self.tokenizer, plain, asks, self.template_kwargs)

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        """Return a message's content as chat templates expect it, the image before the text."""
        text = self._spelled(message.text)
        part = [{"type": "text", "text": text}]
        if message.image is not None:
            return [{"type": "image"}] * count_images(message.image) + part
        return part if self._writes_parts else text

    def _spelled(self, text: str) -> str:
        """Return a message's text with a space in what would stand for an image, as in `< image>`:
        such a word is text, and there are features for as many images as there are.
        """
        for word in self._image_words:
            text = text.replace(word, f"{word[0]} {word[1:]}")
        return text

    def _keeps_text(self) -> bool:
        """Return whether the template writes plain text contents; some write only content parts."""
        text = self._template([Message("user", "?"), Message("assistant", _SENTINEL)])
        return _SENTINEL in text

    def _render_after(self, user_text: str) -> tuple[int, ...]:
        """Return the tokens between two replies: end of turn, user message, header."""
        text = self._template(
            [Message("user", "."), Message("assistant", _SENTINEL), Message("user", user_text)]
        )
        return self._encode(text.rpartition(_SENTINEL)[2] + self._header)

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _find_start(self) -> tuple[str, str]:
        """Return what the template writes between the prompt and a reply, as a header or as spaces.
        Both are empty for text that is up to the model, such as an empty thought.
        """
        messages = [Message("user", "?"), Message("assistant", _SENTINEL)]
        prompt = self._template(messages[:1])
        before = self._template(messages, asks=False).partition(_SENTINEL)[0]
        between = before.removeprefix(prompt)
        if between == before:
            return "", ""
        if not between.strip():
            return "", between
        known = self.tokenizer.added_tokens_decoder
        is_header = any(i in known and known[i].special for i in self._encode_uncached(between))
        return (between, "") if is_header else ("", "")

    def _find_end_of_turn(self) -> tuple[int, str]:
        """Return the token that ends a reply, and the spaces that the template writes before it."""
        messages = [Message("user", "."), Message("assistant", _SENTINEL), Message("user", _NEXT)]
        text = self._template(messages).rpartition(_SENTINEL)[2].partition(_NEXT)[0]
        spaces = text[: len(text) - len(text.lstrip())]
        ids = self._encode_uncached(text)
        known = [i for i in ids if i in self.tokenizer.added_tokens_decoder]
        if known and ids[0] == known[0]:  # the token may absorb spaces before it
            return known[0], ""
        first = self._encode_uncached(text.lstrip())[:1]
        if not known or first != (known[0],):
            raise InputError(
                "the chat template does not end a reply with a special token "
                f"(it writes {text[:20]!r}): set one that does"
            )
        return known[0], spaces
