"""What docs/errors.md shows: small mistakes, each really made, and one sentence on what to do instead.

`SETUP` runs first, in a namespace of its own; each snippet gets a fresh copy of its names.
"""

from typing import Final

from docs.tools.snippets.gradients import GRADIENTS
from docs.tools.snippets.models import MODELS
from docs.tools.snippets.operations import OPERATIONS
from docs.tools.snippets.order import ORDER
from docs.tools.snippets.prompts import PROMPTS
from docs.tools.snippets.sites import SITES
from docs.tools.snippets.slips import SLIPS
from docs.tools.snippets.snippet import Snippet
from docs.tools.snippets.stored import STORED
from docs.tools.snippets.values import VALUES
from docs.tools.snippets.wrapping import WRAPPING

__all__ = ["SETUP", "SNIPPETS", "Snippet"]

SETUP: Final = """\
import torch
from torch import nn
from tracing import LanguageModel, Model
from tracing.demo import MODEL_DIR

model = LanguageModel(MODEL_DIR)
torch.manual_seed(0)
net = Model(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
x = torch.ones(1, 3)
"""

SNIPPETS: Final[dict[str, tuple[Snippet, ...]]] = {
    "Values": VALUES,
    "Sites and paths": SITES,
    "Order": ORDER,
    "Operations": OPERATIONS,
    "Gradients": GRADIENTS,
    "Edits and stored graphs": STORED,
    "Prompts": PROMPTS,
    "Models and options": MODELS,
    "Slips and idioms of other tracers": SLIPS,
    "Modules and wrappers": WRAPPING,
}
