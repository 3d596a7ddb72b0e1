"""Where a standard site is: the module, which side of it, and the steps to the part that the name means. Plain data.

A step is a tuple whose first element names it; `tracing.graph.lens` carries the steps out. Those used here:

    ("first",)                  the first argument, positional or not, of (args, kwargs)
    ("main",)                   the tensor itself, or the first item where a module returns a tuple
    ("rows",)                   [batch · position, …] to [batch, position, …], for modules called on flattened tokens
    ("index", i)                a basic index of the tensor
    ("heads…", part, …)         [..., width] to [..., head, d_head] of q, k or v; see `HeadSlice`
    ("logits",)                 the logits of the model's output
    ("view", name, args, {})    a view of the tensor
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypedDict

Step = tuple[Any, ...]
Layout = Literal["parts", "interleaved", "grouped", "multi_query", "unequal"]

RESIDUAL_SITES: Final = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEAD_SITES: Final = ("q", "k", "v", "z", "pattern", "head_out")
ATTENTION_SITES: Final = ("scores", "q_rot", "k_rot")
"""Inside the attention function: before the softmax; queries and keys as they meet, after rotation and norms."""

SEQUENTIAL_SITES: Final = (*RESIDUAL_SITES, *HEAD_SITES, "logits", *ATTENTION_SITES)
"""Standard sites of blocks whose MLP reads the residual after attention."""

PARALLEL_SITES: Final = tuple(site for site in SEQUENTIAL_SITES if site != "resid_mid")
"""Standard sites of blocks whose attention and MLP read the same residual."""

PLAIN_SITES: Final = tuple(site for site in SEQUENTIAL_SITES if site not in ATTENTION_SITES)
"""Standard sites of blocks with attention of one's own, into which no tap reaches."""

GLOBAL_SITES: Final = ("embed", "logits")
"""Sites that a model has once; every other site has a layer."""


class SitePath(NamedTuple):
    """One site as a path in the model."""

    path: str
    """The module, from the root; "" is the model. For attention kinds: the module handed to the attention function."""
    kind: str
    """ "output", "inputs" (positional and keyword arguments), "head_out" (computed from the module's input and weight),
    or an attention kind: "scores", "pattern", "q_rot", "k_rot"."""
    steps: tuple[Step, ...] = ()
    in_place: bool = False
    """A write must change the very tensor: the block adds to it again without passing it through this module."""
    read_only: str = ""
    """Why the site cannot be written; "" where it can."""


@dataclass(frozen=True, slots=True)
class HeadSlice:
    """Where q, k or v lies in a projection's output `[..., width]`.

    Layouts: "parts" is `parts` equal parts, heads in order inside each; "interleaved" is, a head, its `parts` parts;
    "grouped" is, a key-value head, its query heads, its k, its v; "multi_query" is all query heads, one k, one v;
    "unequal" is all query heads, all k heads, all v heads, however many there are of each.
    """

    path: str
    part: int = 0
    parts: int = 1
    layout: Layout = "parts"

    def steps(self, n_heads: int, n_kv_heads: int, d_head: int) -> tuple[Step, ...]:
        """Steps from the projection's output to `[..., head, d_head]`."""
        if self.layout == "interleaved":
            return (("heads_interleaved", self.part, self.parts, d_head),)
        if self.layout == "grouped":
            return (("heads_grouped", self.part, n_heads, n_kv_heads, d_head),)
        if self.layout == "multi_query":
            return (("heads_multi_query", self.part, n_heads, d_head),)
        if self.layout == "unequal":
            ends = (0, n_heads * d_head, (n_heads + n_kv_heads) * d_head, (n_heads + 2 * n_kv_heads) * d_head)
            return (("index", (..., slice(ends[self.part], ends[self.part + 1]))), ("heads", 0, 1, d_head))
        return (("heads", self.part, self.parts, d_head),)


class Heads(TypedDict):
    """The three slices, as keyword arguments of an `Adapter`."""

    q: HeadSlice
    k: HeadSlice
    v: HeadSlice


def fused(path: str, layout: Layout = "parts") -> Heads:
    """q, k and v as the three parts of one projection: `Adapter(**fused("attn.c_attn"), …)`."""
    q, k, v = (HeadSlice(path, part, 3, layout) for part in range(3))
    return {"q": q, "k": k, "v": v}


def separate(q: str, k: str, v: str) -> Heads:
    """q, k and v from three projections."""
    return {"q": HeadSlice(q), "k": HeadSlice(k), "v": HeadSlice(v)}
