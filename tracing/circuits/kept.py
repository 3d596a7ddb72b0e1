"""All unpatched runs of a task at once, for methods that come back to them; refused before the first one runs where
they cannot fit in memory."""

from tracing.circuits.exact import Task
from tracing.circuits.runs import Part
from tracing.engines.allocation import device_bytes
from tracing.errors import OutOfMemoryError
from tracing.families import ModelFacts


def kept_numbers(facts: ModelFacts) -> int:
    """At most how many numbers a token takes: a base run with its streams and writes, and the ablated values.

    A layer of the base run: its entrance, the MLP's, what attention and the MLP write, z and (sandwich norms) the
    heads' sum; of the ablated values: z and the MLP's write. Besides: both embeddings, both final streams.
    """
    return facts.n_layers * (6 * facts.d_model + 2 * facts.n_heads * facts.d_head) + 4 * facts.d_model


def kept_parts(made: Task) -> list[Part]:
    """The unpatched runs of all pairs.

    Raises `OutOfMemoryError` before anything runs where they exceed what the device has (on the CPU nothing else
    would: the system ends the process), `Stopped` between two runs.
    """
    tokens = sum(pair.length for pair in made.pairs)
    size = tokens * kept_numbers(made.model.facts) * made.model.dtype.itemsize
    limit = device_bytes(made.model.device)
    if limit is not None and size > limit:
        raise OutOfMemoryError(
            f"The unpatched runs of {len(made.pairs)} pairs with {tokens:,} tokens take about {size / 2**30:.2f} GiB "
            f"until the end; the memory of {made.model.device} has {limit / 2**30:.2f} GiB.",
            remedy="Use fewer or shorter prompt pairs, or a smaller precision.",
            where={"bytes": size, "limit": limit, "pairs": len(made.pairs)},
        )
    return list(made.parts())
