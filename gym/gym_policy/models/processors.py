"""Processors of vision-language models, without what is for videos.

Their video processors need torchvision; their image processors have versions on PIL that do not.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import transformers
from transformers import AutoProcessor, ProcessorMixin
from transformers.utils import cached_file

_VIDEO = "video_processor"


def without_video(processor_class: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Return a processor class that has no video processor, and neither loads nor saves one."""
    attributes = [name for name in processor_class.get_attributes() if name != _VIDEO]
    members = {_VIDEO: None, "get_attributes": classmethod(lambda _: attributes)}
    # By the same name, which goes into the files that it saves.
    return type(processor_class.__name__, (processor_class,), members)


def load_processor(path: str, trust_remote_code: bool = False) -> ProcessorMixin:
    """Return the processor of a checkpoint; where its video processor cannot be loaded, for want of
    torchvision or of its file, without that. Raises what transformers raises.
    """
    try:
        return AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (ImportError, OSError, ValueError, AttributeError, TypeError):
        processor_class = _processor_class(path)
        if processor_class is None or _VIDEO not in processor_class.get_attributes():
            raise
    parameter = inspect.signature(processor_class.__init__).parameters[_VIDEO]
    must_be_given = parameter.default is parameter.empty
    none = {_VIDEO: None} if must_be_given else {}
    return without_video(processor_class).from_pretrained(path, **none)


def _processor_class(path: str) -> type[ProcessorMixin] | None:
    """Return the class of transformers that a checkpoint's files name as its processor's."""
    options = {"_raise_exceptions_for_missing_entries": False}
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        file = cached_file(path, name, **options)
        settings = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
        named = settings.get("processor_class")
        if named is not None:
            named_class = getattr(transformers, str(named), None)
            is_one = isinstance(named_class, type) and issubclass(named_class, ProcessorMixin)
            return named_class if is_one else None
    return None
