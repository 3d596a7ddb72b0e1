"""What wrappers and wrapped modules are given by mistake: texts where tensors go, names where modules go."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from tracing.errors import ModelError, PromptError
from tracing.graph.lines import user_line


def require_module(wrapper: type, given: Any) -> None:
    """Raises `ModelError` for what a wrapper cannot wrap: a name, a class, another wrapper."""
    if isinstance(given, nn.Module):
        return
    name = wrapper.__name__
    if isinstance(getattr(given, "__dict__", {}).get("_module"), nn.Module):
        raise ModelError(
            f"{name} was given a {type(given).__name__}, which wraps a module already (at {user_line()}).",
            remedy="Use it as it is, or wrap its module: model._model.",
        )
    what = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
    raise ModelError(
        f"{name} was given {what}, which is no torch module (at {user_line()}).",
        remedy="Give an nn.Module, made. LanguageModel and VisionModel load folders and hub ids: "
        'LanguageModel("openai-community/gpt2").',
    )


def has_text(values: Iterable[Any]) -> bool:
    """Whether one of these values is a text, or a list of texts."""
    return any(
        isinstance(value, str)
        or (isinstance(value, list | tuple) and bool(value) and all(isinstance(one, str) for one in value))
        for value in values
    )


def refuse_text(module: nn.Module, values: Iterable[Any], remedy: str) -> None:
    """Raises `PromptError` for text that would go into a transformers model as it is; other modules may take it."""
    if has_text(values) and hasattr(module, "get_input_embeddings"):
        raise PromptError(
            f"{type(module).__name__} was given text, and reads tensors (at {user_line()}).", remedy=remedy
        )
