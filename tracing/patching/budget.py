"""How many tokens one batch may have on a device: enough to keep it busy, few enough to fit beside what is there."""

from typing import Final

from tracing.models import LanguageModel
from tracing.patching.memory import device_bytes
from tracing.patching.plan import TOKENS_A_BATCH

ON_A_GPU: Final = 2**16
"""So many tokens of a batch fill a GPU's matrix units; more only take memory."""
SHARE: Final = 0.4
"""Of the memory that is free, a batch may take this much: allocators waste some, the metric needs some."""


def tokens_for(model: LanguageModel) -> int:
    """Tokens of a batch.

    On the CPU what keeps a batch within its caches, fewer only where memory is short; on a GPU as many as fit, at most
    `ON_A_GPU`. A power of two, so that a little more or less free memory cuts the same batches.
    """
    most = TOKENS_A_BATCH if model.device.type == "cpu" else ON_A_GPU
    free = device_bytes(model.device)
    if free is None:
        return most
    facts = model.facts
    # A block's largest moment: residual, normed, queries, keys, values, z; then gate, up and product of the MLP.
    numbers = 4 * facts.d_model + 3 * facts.n_heads * facts.d_head + 3 * facts.d_mlp
    while most > 64 and most * numbers * model.dtype.itemsize > SHARE * free:
        most //= 2
    return most
