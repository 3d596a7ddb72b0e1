"""Running out of memory: what a sweep learns from a failure."""

import math
from dataclasses import dataclass

from tracing.engines.allocation import device_bytes as device_bytes
from tracing.engines.allocation import free as free
from tracing.engines.allocation import is_out_of_memory as is_out_of_memory


@dataclass(slots=True)
class Room:
    """What a sweep learnt of its memory: batches of at least `failed` numbers did not fit, so none is tried again."""

    failed: float = math.inf
