"""How much of the edge scores each source has: sums over its edges."""

import numpy as np

from tracing.events import Axis, Quantity, Tick
from tracing.results import Bars, EdgeScores


def node_totals(scores: EdgeScores) -> Bars:
    """Sums of the scores of the edges out of every source, signed and of absolute values.

    Of plain EAP the signed sum is the attribution of patching the whole source (AtP).
    """
    real = np.where(scores.real, np.nan_to_num(scores.scores), 0.0).astype(scores.scores.dtype)
    signed, absolute = real.sum(1), np.abs(real).sum(1)
    unit = str(scores.facts.get("unit", ""))
    reach, most = (float(np.abs(values).max()) or 1.0 for values in (signed, absolute))
    return Bars(
        name="nodes",
        title="Sums over the edges out of each source",
        axis=Axis("source", "Source", tuple(Tick(name) for name in scores.sources)),
        quantities=(
            Quantity("signed", "Sum of scores", unit, "diverging", (-reach, reach)),
            Quantity("absolute", "Sum of absolute scores", unit, "sequential", (0.0, most)),
        ),
        values={"signed": signed, "absolute": absolute},
        facts={key: value for key, value in scores.facts.items() if key != "warnings"},
    )
