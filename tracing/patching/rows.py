"""Patched rows in, final residuals out: the fast engine behind every sweep.

A row is one patched run of one prompt pair: the destination's run with the source's activation at one site of one
layer, at some positions, of one head (or neuron) or all. `run_rows` computes only what a row changes; a full forward
with a hook at the site (`tracing.patching.hooked`) is the definition that it must equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tracing.models import LanguageModel
from tracing.patching.capture import Activations
from tracing.patching.plan import Optimise

Source = Mapping[str, Sequence[Tensor]]
"""What is patched in: `source[site][layer]`, each with an entry for every pair of the group.

Residual sites, attn_out and mlp_out `[pair, position, d_model]`; q, z `[pair, position, head, d_head]`, k, v
`[pair, position, kv_head, d_head]` (before rotation, as `model.sites`); head_out `[pair, position, head, d_model]`;
pattern `[pair, head, query, key]`; neurons `[pair, position, d_mlp]`.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows that are patched at one site of one layer."""

    site: str
    layer: int
    positions: Tensor
    """Where each row is patched, bool `[row, position]`. For pattern: the patched queries."""
    units: Tensor | None = None
    """The head (of k and v: the key-value head) or neuron that each row patches, `[row]`; None: all of them."""


def run_rows(
    model: LanguageModel,
    base: Activations,
    source: Source,
    entries: Sequence[Rows],
    pairs: slice,
    options: Optimise,
) -> Tensor:
    """The residual stream behind the last block at the answer position, `[entry, pair, row, d_model]`.

    `base` is the destination's run of a group of pairs (`capture`, with what `footprint.kept_for` says the sites need),
    `source` what is patched in; `pairs` selects the pairs of this batch. Every entry has as many rows.
    """
    raise NotImplementedError
