"""What each node of a stored graph may hold: structural operations here, all others by the op table's schemas."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor

from tracing.errors import GraphFormatError
from tracing.graph import ops
from tracing.graph.codec_values import check_path, shown
from tracing.graph.nodes import Node, Site, nodes_in
from tracing.graph.ops_schema import MAX_COUNT, is_index
from tracing.graph.proxy import FIELDS

Args = tuple[Any, ...]

MAX_STEPS: Final = 64

MODES: Final = frozenset({"forward", "generate", "edit"})

GENERATE_OPTIONS: Final = frozenset(
    {
        "max_new_tokens", "min_new_tokens", "max_length", "min_length", "do_sample", "num_beams",
        "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "num_return_sequences",
        "length_penalty", "no_repeat_ngram_size", "early_stopping", "eos_token_id", "pad_token_id", "bos_token_id",
        "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens",
        "begin_suppress_tokens", "bad_words_ids", "renormalize_logits", "use_cache", "return_dict_in_generate",
        "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    }
)  # fmt: skip
"""Options of a generation that a stored graph may give: numbers that shape it. Others can load code or files."""

PROMPT_NAMES: Final = frozenset(
    {
        "input_ids", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids", "labels", "decoder_input_ids",
        "decoder_inputs_embeds", "decoder_attention_mask", "pixel_values", "add_special_tokens",
    }
)  # fmt: skip
"""Inputs of a prompt that a stored generation may give by name."""

_OPTION: Final = re.compile(r"[a-z][A-Za-z0-9_]{0,63}")
_REFUSED_OPTIONS: Final = re.compile(
    r"trust_remote_code|custom_generate|.*(tokenizer|processor|streamer|callable|_fn)$"
)
_ANY: Final = Node(0, "any", (), {})
"""Stands for the tensor that a step is applied to."""


def check_node(op: str, args: Args, kwargs: Mapping[str, Any]) -> None:
    """Raises `GraphFormatError` saying what is wrong with the operation's arguments."""
    structural = _STRUCTURAL.get(op)
    if structural is None:
        ops.check(op, args, kwargs)
        return
    if kwargs.keys() - _FLAGS.get(op, frozenset()):
        known = ", ".join(sorted(_FLAGS.get(op, ()))) or "no keyword arguments"
        raise GraphFormatError(f"{op} takes {known}, not {', '.join(map(shown, kwargs))[:200]}.")
    if not all(isinstance(value, bool) for value in kwargs.values()):
        raise GraphFormatError(f"{op} takes {', '.join(kwargs)} as true or false.")
    structural(args)


def check_options(options: Any, mode: str, names: frozenset[str] = frozenset()) -> None:
    """Keyword arguments for the model: plain names, and for a generation those that are known to be harmless."""
    if not isinstance(options, dict):
        raise GraphFormatError(f"Options are a dict, not {shown(options)}.")
    for name, value in options.items():
        if not _OPTION.fullmatch(name) or _REFUSED_OPTIONS.fullmatch(name):
            raise GraphFormatError(f"A stored graph cannot give the model the option {shown(name)}.")
        if mode == "generate" and name not in GENERATE_OPTIONS | names:
            raise GraphFormatError(f"A stored graph cannot give a generation the option {shown(name)}.")
        if any(True for _ in nodes_in(value)):
            raise GraphFormatError(f"Option {shown(name)} is a plain value, not the result of a node.")


def check_steps(steps: Any, *, plain: bool) -> None:
    """Steps of `tracing.graph.lens`. `plain` ones hold neither nodes nor tensors."""
    if not isinstance(steps, tuple) or len(steps) > MAX_STEPS:
        raise GraphFormatError(f"Steps are a sequence of at most {MAX_STEPS} steps, not {shown(steps)}.")
    for step in steps:
        if not isinstance(step, tuple) or not step or not isinstance(step[0], str):
            raise GraphFormatError("A step is an array that starts with its name.")
        check = _STEPS.get(step[0])
        if check is None:
            raise GraphFormatError(f"There is no step {shown(step[0])}.")
        if not check(step[1:]):
            raise GraphFormatError(f"Step {step[0]!r} cannot take what it is given.")
        if plain and _holds_data(step):
            raise GraphFormatError(f"Step {step[0]!r} of a read holds plain numbers, no nodes or tensors.")


def _holds_data(value: Any) -> bool:
    if isinstance(value, (Node, Tensor)):
        return True
    if isinstance(value, (tuple, list)):
        return any(map(_holds_data, value))
    if isinstance(value, dict):
        return any(map(_holds_data, value.values()))
    return isinstance(value, slice) and _holds_data((value.start, value.stop, value.step))


def _nothing(rest: Args) -> bool:
    return not rest


def _index(rest: Args) -> bool:
    return len(rest) == 1 and is_index(rest[0])


def _field(rest: Args) -> bool:
    return len(rest) == 1 and isinstance(rest[0], str) and rest[0] in FIELDS | ops.RESULT_FIELDS


def _view(rest: Args) -> bool:
    if len(rest) != 3 or not isinstance(rest[0], str) or rest[0] not in ops.VIEWS:
        return False
    _, args, kwargs = rest
    if not isinstance(args, tuple) or not isinstance(kwargs, dict):
        return False
    ops.check(rest[0], (_ANY, *args), kwargs)
    return True


def _numbers(count: int) -> Callable[[Args], bool]:
    """The numbers of a heads step: which part, then sizes from 1."""

    def check(rest: Args) -> bool:
        if len(rest) != count or not all(type(number) is int for number in rest):
            return False
        part, *sizes = rest
        return 0 <= part <= MAX_STEPS and all(1 <= size <= MAX_COUNT for size in sizes)

    return check


_STEPS: Final[Mapping[str, Callable[[Args], bool]]] = {
    "index": _index,
    "field": _field,
    "view": _view,
    "main": _nothing,
    "first": _nothing,
    "args": _nothing,
    "logits": _nothing,
    "heads": _numbers(3),
    "heads_interleaved": _numbers(3),
    "heads_grouped": _numbers(4),
    "heads_multi_query": _numbers(3),
}


# -- structural operations --------------------------------------------------------------------------------------------
def _takes(op: str, args: Args, *kinds: type | tuple[type, ...]) -> None:
    if len(args) != len(kinds):
        raise GraphFormatError(f"{op} takes {len(kinds)} arguments, not {len(args)}.")
    for position, (value, kind) in enumerate(zip(args, kinds, strict=True)):
        wrong_tuple = kind is tuple and type(value) is not tuple
        if not isinstance(value, kind) or wrong_tuple or (isinstance(value, Site) and kind is object):
            raise GraphFormatError(f"Argument {position} of {op} cannot be {shown(value)}.")


def _site(args: Args) -> None:
    _takes("site", args, Site)
    if args[0].kind in ("grad", "skip"):
        raise GraphFormatError(f"A site node is no place of kind {args[0].kind!r}.")
    if args[0].kind == "result" and args[0].path:
        raise GraphFormatError("Only the model itself has a result.")


def _part(args: Args) -> None:
    _takes("part", args, Node, tuple)
    check_steps(args[1], plain=True)


def _write(args: Args) -> None:
    _takes("write", args, Node, tuple, object, (Site, type(None)))
    check_steps(args[1], plain=False)
    if args[0].site != args[3]:
        raise GraphFormatError("A write changes the site of the value that it starts from, and no other.")


def _module(args: Args) -> None:
    _takes("module", args, str, tuple, dict)
    check_path(args[0])
    for name in args[2]:
        if not _OPTION.fullmatch(name) or _REFUSED_OPTIONS.fullmatch(name):
            raise GraphFormatError(f"A stored graph cannot call a module with {shown(name)}.")


def _parameter(args: Args) -> None:
    _takes("parameter", args, str)
    if not check_path(args[0]):
        raise GraphFormatError("A parameter has a path.")


def _grad(args: Args) -> None:
    _takes("grad", args, Site, Node, tuple)
    if args[0].kind != "grad":
        raise GraphFormatError("The place of a gradient is of kind 'grad'.")
    check_steps(args[2], plain=True)


def _grad_total(args: Args) -> None:
    _takes("grad_total", args, list)
    if not args[0] or not all(isinstance(one, Node) for one in args[0]):
        raise GraphFormatError("grad_total adds gradients: a list of nodes.")


def _backward(args: Args) -> None:
    _takes("backward", args, Node, (Node, Tensor, int, float, type(None)), int)
    if isinstance(args[2], bool) or not 0 <= args[2] <= MAX_COUNT:
        raise GraphFormatError("A backward has a number from 0.")


def _skip(args: Args) -> None:
    _takes("skip", args, str, object, Site)
    check_path(args[0])
    if args[2].kind != "skip" or args[2].path != args[0]:
        raise GraphFormatError("A skip names its own module and the place of kind 'skip'.")


def _stop(args: Args) -> None:
    if args:
        _takes("stop", args, list)
        if not all(isinstance(one, Node) for one in args[0]):
            raise GraphFormatError("stop waits for nodes.")


def _list(args: Args) -> None:
    _takes("list", args, list)


def _append(args: Args) -> None:
    _takes("append", args, Node, object)
    if args[0].op not in ("list", "append"):
        raise GraphFormatError("append adds to a list.")


def _apply(args: Args) -> None:
    raise GraphFormatError(
        "tracer.apply calls a Python function, and a stored graph holds no code.",
        remedy="Use operations of torch instead.",
    )


_FLAGS: Final[Mapping[str, frozenset[str]]] = {
    "site": frozenset({"optional"}),
    "skip": frozenset({"optional"}),
    "backward": frozenset({"retain_graph"}),
}
"""Keyword arguments of structural operations, all true or false."""

_STRUCTURAL: Final[Mapping[str, Callable[[Args], None]]] = {
    "site": _site,
    "part": _part,
    "write": _write,
    "module": _module,
    "parameter": _parameter,
    "grad": _grad,
    "grad_total": _grad_total,
    "backward": _backward,
    "skip": _skip,
    "stop": _stop,
    "list": _list,
    "append": _append,
    "apply": _apply,
}

CHECKED: Final = frozenset(_STRUCTURAL)
"""Operations that are checked here."""

SITE_POSITION: Final[Mapping[str, int]] = {"site": 0, "write": 3, "grad": 0, "skip": 2}
"""Which argument of an operation is a site; a site stands nowhere else."""
