"""Taps inside the attention of a transformers model: q, k, v as attention gets them, the scores and the pattern.

How it works, without touching a function of transformers, an entry of its registries or another thread:
1. While a module is tapped, its `config` attribute is a view of the same configuration that answers one question
   otherwise, and only to the tapping thread: `_attn_implementation` is `TAPPED`, a name of ours that is registered with
   transformers' public `AttentionInterface`. The model's configuration itself never changes, so masks, generation,
   `save_pretrained` and every other thread see what they always saw.
2. Under that name the module's forward calls `_interface`, which shows q, k, v to the visitor and calls the
   implementation that would have run. Scores and pattern come from the modeling file's own `eager_attention_forward`,
   watched at its softmax (`attention_watch.py`): aside if only read, in place of the implementation if written.
3. Families that compute attention in their own forward (falcon, bloom, gptj, codegen, gpt_neo) get a guard on that
   method of the tapped instance instead (`attention_families.py`); again only the tapping thread takes the other way.
The views and guards go with the last context that needs them, also after an exception (`attention_guards.py`). What
stays is the entry `TAPPED` in transformers' registry, which nothing names then.
"""

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tracing.engines.attention_families import run_attn, run_bloom, run_falcon
from tracing.engines.attention_guards import Active, ConfigView, MethodGuard, put, real_config, state, take_away
from tracing.engines.attention_watch import SOFT, Enough, Job, Watch, additive_mask
from tracing.errors import SiteError

TAPPED = "patchbay_tapped"
# Modules that ask whether flash attention was requested look for the word in the name.
TAPPED_FLASH = "patchbay_tapped_flash"
KINDS = ("q_rot", "k_rot", "v", "scores", "pattern")
Scorer = Callable[..., Tensor]
"""`scorer(query, key)`: scores `[batch, head, query, key]` of queries and keys `[batch, head, position, d_head]`,
key-value heads native; `scorer(query, key, rows)` where the queries are a slice `rows` of the forward's positions."""
EAGER_NAMES = (None, "eager")
# Where attention modules keep the dropout of their pattern, if it is a module.
DROPOUTS = ("attn_dropout", "attention_dropout", "dropout")


@dataclass(frozen=True)
class Taps:
    """What to see of one attention module.

    `visit(kind, tensor)` gets q_rot, k_rot and v as `[batch, head, position, d_head]` (key-value heads not repeated,
    cached positions included), scores and pattern as `[batch, head, query, key]`, in that order and each at most once a
    forward, and returns the same object if it changed nothing. Only kinds in `writes` may come back changed; only they
    lie on the way to the output, so a gradient with respect to scores or pattern needs them among `writes`.

    scores: what the family's eager path hands to softmax: scaled, softcapped, with relative bias or alibi, and with the
    mask added. A masked entry is the unmasked score plus the least finite number of the mask's dtype, which rounds to
    that number or to -inf; a float64 model on sdpa gets float32's least number.
    pattern: its softmax, in the precision of the family's eager path (mostly float32, whatever the model's dtype), cast
    to the dtype of the values, before dropout.

    `scorer` is called once a forward, after the visits of q, k and v, with a function that computes the scores of
    other queries and keys in this forward's place: the family's own scaling, softcap, bias and mask go into them. It
    may be called later, outside of the forward. Only modules of which `can_score` is true call it.

    Raises:
        SiteError: a kind does not exist.
    """

    visit: Callable[[str, Tensor], Tensor]
    reads: frozenset[str]
    writes: frozenset[str]
    scorer: Callable[[Scorer], None] | None = None

    def __post_init__(self) -> None:
        if unknown := (self.reads | self.writes).difference(KINDS):
            raise SiteError(
                f"Attention has no tap {', '.join(sorted(map(repr, unknown)))}.", remedy=f"Taps are {', '.join(KINDS)}."
            )


NOTHING = Taps(lambda _kind, tensor: tensor, frozenset(), frozenset())


@contextmanager
def tapped(root: nn.Module, taps: Mapping[nn.Module, Taps], *, eager: bool = False) -> Iterator[None]:
    """Within the block, forwards of this thread show the attention of the modules in `taps` to their visitors.

    Args:
        root: the model that holds the modules.
        taps: attention modules (those whose forward computes attention, such as `model.layers.0.self_attn`).
        eager: run every attention module of `root` by its eager path in this thread: it returns its pattern, and calls
            the module it keeps for its dropout (GPT-2's `attn_dropout`). Off, only written scores or patterns do so.

    Contexts nest, for different modules of one model or for different models. What is only read leaves the output
    bit-equal. Forwards that a visitor starts by itself are not tapped. Other threads are not concerned at all.

    Raises:
        SiteError: a module is no attention that can be tapped, or not with its present implementation.
        ValueError: a module is tapped by this thread already.
    """
    _register()
    eager_modules = frozenset(m for m in root.modules() if _has_eager_switch(m)) if eager else frozenset()
    before = state.active or Active({}, frozenset())
    for module in (*taps, *(eager_modules - taps.keys())):
        _check(root, module, taps.get(module, NOTHING), module in eager_modules)
        if module in taps and module in before.taps:
            raise ValueError(f"{_where(root, module)} is tapped by an enclosing context of this thread already.")
    keys = put(seat for module in {*taps, *eager_modules} for seat in _seats(module))
    outer, state.active = state.active, Active({**before.taps, **taps}, before.eager | eager_modules)
    try:
        yield
    finally:
        state.active = outer
        take_away(keys)


def can_score(module: nn.Module) -> bool:
    """Whether a tapped module hands out a `Taps.scorer`: its attention goes through transformers' interface."""
    seam = _seam(module)
    return seam is not None and seam.way == "interface" and "config" in module.__dict__


# -- how a module is tapped -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seam:
    """`way`: "interface", "_attn", "bloom" or "falcon"; `code`: globals of the modeling file; `eager`: its function."""

    way: str
    code: dict[str, Any]
    eager: Callable[..., Any] | None = None


_seams: weakref.WeakKeyDictionary[type[nn.Module], _Seam | None] = weakref.WeakKeyDictionary()


def _seam(module: nn.Module) -> _Seam | None:
    """How a module is tapped, by its class; None for all but attention."""
    kind = type(module)
    try:
        return _seams[kind]
    except KeyError:
        return _seams.setdefault(kind, _find_seam(kind))


def _find_seam(kind: type[nn.Module]) -> _Seam | None:
    """The seam of a class, from the names that its forward uses."""
    forward: Any = inspect.unwrap(kind.forward)
    code = getattr(forward, "__code__", None)
    if code is None:
        return None
    names, space = code.co_names, forward.__globals__
    if "ALL_ATTENTION_FUNCTIONS" in names and "get_interface" in names:
        eager = next((space.get(name) for name in names if name.endswith("eager_attention_forward")), None)
        return _Seam("interface", space, eager) if eager else None
    file = str(space.get("__name__", "")).removeprefix("transformers.models.")
    if file == "bloom.modeling_bloom" and "baddbmm" in names:
        return _Seam("bloom", space)
    if file == "falcon.modeling_falcon" and "scaled_dot_product_attention" in names:
        return _Seam("falcon", space)
    if file.partition(".")[0] in ("gptj", "codegen", "gpt_neo") and "_attn" in names:
        return _Seam("_attn", space)
    return None


def _has_eager_switch(module: nn.Module) -> bool:
    seam = _seam(module)
    return seam is not None and seam.way in ("interface", "falcon") and "config" in module.__dict__


def _implementation(module: nn.Module) -> str | None:
    """The name that the module's configuration gives to everybody else."""
    name: str | None = getattr(real_config(module.__dict__.get("config")), "_attn_implementation", None)
    return name


def _view_name(module: nn.Module, seam: _Seam) -> str:
    if seam.way == "falcon":
        return "sdpa"
    return TAPPED_FLASH if "flash" in (_implementation(module) or "") else TAPPED


def _seats(module: nn.Module) -> Iterator[tuple[nn.Module, str, Callable[[nn.Module], Any]]]:
    """The attributes of a module that are replaced while it is tapped, and by what."""
    seam = _seam(module)
    assert seam is not None  # `_check` came before
    if seam.way in ("interface", "falcon"):
        yield module, "config", lambda m: ConfigView(m.__dict__["config"], m, _view_name(m, seam))
    if seam.way in ("bloom", "falcon"):
        yield module, "forward", lambda m: MethodGuard(m, "forward", _run)
    if seam.way == "_attn":
        yield module, "_attn", lambda m: MethodGuard(m, "_attn", _run)


def _where(root: nn.Module, module: nn.Module) -> str:
    path = next((path for path, m in root.named_modules() if m is module), "a module outside the model")
    return f"{path or 'the model'} ({type(module).__name__})"


def _check(root: nn.Module, module: nn.Module, taps: Taps, eager: bool) -> None:
    """Raises SiteError with its remedy for what cannot be tapped."""
    seam = _seam(module)
    if seam is None or (seam.way in ("interface", "falcon") and "config" not in module.__dict__):
        attention = next((path for path, m in root.named_modules() if _seam(m)), None)
        raise SiteError(
            f"{_where(root, module)} has no attention that can be tapped: its forward does not go through the "
            "attention interface of transformers.",
            remedy=f"Attention modules of this model are such as {attention}."
            if attention
            else "Read and write the inputs and outputs of its submodules instead.",
        )
    name = _implementation(module)
    soft = (taps.reads | taps.writes) & SOFT or taps.scorer is not None
    if seam.way == "interface" and (soft or eager) and name not in (*EAGER_NAMES, "sdpa"):
        raise SiteError(
            f"{_where(root, module)} runs {name!r} attention, whose mask does not tell the scores and the pattern.",
            remedy='Load the model with attn_implementation="sdpa", or call its set_attn_implementation("sdpa").',
        )


# -- running a tapped module ------------------------------------------------------------------------------------------


def _job(module: nn.Module, seam: _Seam, active: Active) -> Job:
    """What this thread wants of `module`."""
    taps: Taps = active.taps.get(module, NOTHING)

    def visit(kind: str, tensor: Tensor) -> Tensor:
        # Forwards that a visitor starts by itself would visit without end.
        before, state.active = state.active, None
        try:
            new = taps.visit(kind, tensor)
        finally:
            state.active = before
        if new is not tensor and kind not in taps.writes:
            raise ValueError(f"The visitor changed {kind!r}, which is not among the taps' writes.")
        if new.shape != tensor.shape:
            raise ValueError(f"{kind} is {list(tensor.shape)}, so {list(new.shape)} cannot stand in its place.")
        return new

    return Job(visit, taps.reads | taps.writes, taps.writes, module in active.eager, seam.code)


def _run(module: nn.Module, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A guarded method of a family outside the interface, in the tapping thread."""
    seam, active = _seam(module), state.active
    assert seam is not None
    assert active is not None  # or the guard would not have called
    job = _job(module, seam, active)
    if seam.way == "_attn":
        return run_attn(original, job, args, kwargs)
    if seam.way == "bloom":
        return run_bloom(original, job, args, kwargs)
    return run_falcon(original, module, job, args, kwargs, eager=_implementation(module) != "sdpa")


def _interface(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> Any:
    """The attention function registered as `TAPPED`: arguments and results as of the one that would have run."""
    seam, active = _seam(module), state.active
    if seam is None or seam.eager is None or active is None:
        raise SiteError(
            f"{type(module).__name__} asked for attention {TAPPED!r} outside a tapping context.",
            remedy='Set attn_implementation to "sdpa" or "eager": this name is not for configurations.',
        )
    job, name = _job(module, seam, active), _implementation(module)
    outer, state.inner = state.inner, module
    try:
        original = ALL_ATTENTION_FUNCTIONS.get_interface(name or "eager", seam.eager)
        query, key, value = job.show("q_rot", query), job.show("k_rot", key), job.show("v", value)
        scorer = active.taps.get(module, NOTHING).scorer
        if not job.kinds & SOFT and not job.eager and scorer is None:
            return original(module, query, key, value, attention_mask, **options)
        mask = attention_mask
        if name not in EAGER_NAMES:
            causal = options.get("is_causal")
            causal = getattr(module, "is_causal", True) if causal is None else causal
            mask = additive_mask(attention_mask, query, key, causal=causal)
        if scorer is not None:
            scorer(functools.partial(_scores, module, seam, value, mask, options))
        if not job.kinds & SOFT and not job.eager:
            return original(module, query, key, value, attention_mask, **options)
        if name in EAGER_NAMES or job.eager or job.written & SOFT:
            return _eager(module, seam, job, (query, key, value, mask), options)
        output = original(module, query, key, value, attention_mask, **options)
        with suppress(Enough):
            _eager(module, seam, job, (query, key, value, mask), options, aside=True)
        return output
    finally:
        state.inner = outer


def _eager(
    module: Any, seam: _Seam, job: Job, tensors: tuple[Any, ...], options: dict[str, Any], *, aside: bool = False
) -> Any:
    """Output and pattern of the modeling file's eager attention, watched. `aside`: for the visitor's eyes only."""
    function: Any = seam.eager
    dropout = next((m for n in DROPOUTS if isinstance(m := getattr(module, n, None), nn.Dropout)), None)
    if getattr(module, "reorder_and_upcast_attn", False):
        # GPT-2's other eager path, which calls its dropout itself.
        function, options, dropout = type(module)._upcast_and_reordered_attn, {}, None
    _, key, value, _ = tensors
    with Watch(job, value.dtype, keys=key.shape[-2], dropout=dropout if job.eager else None, aside=aside):
        return function(module, *tensors, **options)


def _scores(
    module: nn.Module,
    seam: _Seam,
    value: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
    query: Tensor,
    key: Tensor,
    rows: slice = slice(None),
) -> Tensor:
    """What the modeling file's eager attention hands to its softmax for these queries and keys."""
    seen: list[Tensor] = []
    if rows != slice(None):
        mask = mask[..., rows, :] if mask is not None and mask.shape[-2] > 1 else mask
        bias = options.get("position_bias")
        options = options | ({"position_bias": bias[..., rows, :]} if bias is not None else {})

    def visit(_kind: str, tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    job = Job(visit, frozenset({"scores"}), frozenset(), False, seam.code)
    with suppress(Enough):
        _eager(module, seam, job, (query, key, value, mask), options, aside=True)
    return seen[0]


@functools.cache
def _register() -> None:
    for name in (TAPPED, TAPPED_FLASH):
        AttentionInterface.register(name, _interface)
