"""Adapters by family name (`config.model_type`). A user's own adapter is added with `register`."""

from tracing.errors import ModelError
from tracing.families.adapter import Adapter
from tracing.families.gpt2 import GPT2
from tracing.families.llama import LLAMA

_ADAPTERS: dict[str, Adapter] = {adapter.family: adapter for adapter in (GPT2, LLAMA)}


def register(adapter: Adapter) -> Adapter:
    """Add an adapter; a family can be taken once."""
    if adapter.family in _ADAPTERS:
        raise ValueError(f"An adapter for the family {adapter.family!r} is already registered.")
    _ADAPTERS[adapter.family] = adapter
    return adapter


def families() -> tuple[str, ...]:
    """The known families, by name."""
    return tuple(sorted(_ADAPTERS))


def adapter_of(family: str) -> Adapter:
    """The adapter of a family. Raises `ModelError` listing the known ones otherwise."""
    try:
        return _ADAPTERS[family]
    except KeyError:
        raise ModelError(
            f"There is no adapter for the model family {family!r}.",
            remedy=f"Known families: {', '.join(families())}. Others need an adapter: tracing.families.register.",
            where={"family": family},
        ) from None
