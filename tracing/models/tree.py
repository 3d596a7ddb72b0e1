"""The module tree as text: what `print(model)` shows."""

from collections.abc import Iterator, Mapping

from torch import nn


def tree_text(
    module: nn.Module, path: str, notes: Mapping[str, str], name: str, attached: Mapping[str, nn.Module]
) -> str:
    """One line a module: name, class, its own description and the standard sites that lie there; attached ones too.

    Neighbours that print alike (the layers of a model) are shown once, as `(0-11): 12 × GPT2Block`.
    """
    first = path.rpartition(".")[2] or name
    return "\n".join([_line(first, module, notes.get(path, "")), *_children(module, path, notes, "  ", attached)])


def _line(name: str, module: nn.Module, note: str) -> str:
    extra = module.extra_repr()
    text = f"{name}: {type(module).__name__}" + (f"({extra})" if extra and "\n" not in extra else "")
    return f"{text}  ← sites {note}" if note else text


def _children(
    module: nn.Module, path: str, notes: Mapping[str, str], indent: str, attached: Mapping[str, nn.Module]
) -> Iterator[str]:
    children = list(module.named_children())
    own = {at.rpartition(".")[2]: one for at, one in attached.items() if at.rpartition(".")[0] == path}
    position = 0
    while position < len(children):
        name, child = children[position]
        end = position + 1
        below = f"{path}.{name}" if path else name
        while end < len(children) and name.isdigit() and repr(children[end][1]) == repr(child):
            following = f"{path}.{children[end][0]}".lstrip(".")
            if any(f"{at}.".startswith((f"{below}.", f"{following}.")) for at in attached):
                break
            end += 1
        label = name if end == position + 1 else f"{name}-{children[end - 1][0]}"
        yield indent + _line(label, child, notes.get(below, ""))
        yield from _children(child, below, notes, indent + "  ", attached)
        position = end
    for name, one in own.items():
        yield f"{indent}{_line(name, one, '')}  ← attached"
        yield from _children(one, f"{path}.{name}".lstrip("."), {}, indent + "  ", {})
