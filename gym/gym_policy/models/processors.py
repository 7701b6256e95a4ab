"""Processors of vision-language models, without what is for videos.

Their video processors need torchvision; their image processors have versions on PIL that do not.
"""

from __future__ import annotations

from typing import Any

from transformers import ProcessorMixin

_VIDEO = "video_processor"


def without_video(processor_class: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Return a processor class that has no video processor, and neither loads nor saves one."""
    attributes = [name for name in processor_class.get_attributes() if name != _VIDEO]

    def make(self: Any, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        processor_class.__init__(self, image_processor, tokenizer, video_processor=None, **kwargs)

    members = {"__init__": make, _VIDEO: None, "get_attributes": classmethod(lambda _: attributes)}
    # By the same name, which goes into the files that it saves.
    return type(processor_class.__name__, (processor_class,), members)
