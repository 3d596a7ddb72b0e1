"""Mistakes with what is wrapped, and by which wrapper."""

from docs.tools.snippets.snippet import Snippet

WRAPPING = (
    Snippet(
        "A name where a module goes",
        "ModelError",
        """\
Model("gpt2")
""",
        "`Model` wraps a module that is in memory.",
    ),
    Snippet(
        "A module of the model that is to be deleted",
        "RecordError",
        """\
del model.transformer.h[0].mlp
""",
        "Only a module that you attached can be taken off.",
    ),
    Snippet(
        "A wrapper of a wrapper",
        "ModelError",
        """\
Model(model)
""",
        "One wrapper is enough; `model.copy()` makes another of the same module.",
    ),
    Snippet(
        "Text where tensors go",
        "PromptError",
        """\
logits = model("The Louvre is in")
""",
        "Outside of a trace a wrapper calls its module as it is.",
    ),
    Snippet(
        "A wrapper for another kind of model",
        "ModelError",
        """\
from tracing import VisionModel

VisionModel(MODEL_DIR)
""",
        "`Model` traces any module, with the tensors that it takes.",
    ),
    Snippet(
        "Standard sites of a module without a config",
        "ModelError",
        """\
LanguageModel(nn.Linear(3, 3)).sites.resid_post[0]
""",
        "Sites are where the family's adapter says.",
    ),
    Snippet(
        "An adapter that calls the ids otherwise than the forward",
        "AdapterError",
        """\
class Mine(nn.Module):
    config = model.config

    def __init__(self):
        super().__init__()
        self.transformer, self.lm_head = model._model.transformer, model._model.lm_head

    def forward(self, tokens):
        return self.lm_head(self.transformer(tokens)[0])


LanguageModel(Mine())
""",
        "The adapter of this family says `input_ids`.",
    ),
    Snippet(
        "A new name for a module that is not there",
        "ModelError",
        """\
LanguageModel(MODEL_DIR, rename={"transformer.hh": "layers"})
""",
        "One side of each entry is a module of the model, the other its new name.",
    ),
    Snippet(
        "A new name that is taken",
        "ModelError",
        """\
LanguageModel(MODEL_DIR, rename={"mlp": "attn"})
""",
        "A new name is one that no module of the model has.",
    ),
    Snippet(
        "A new name that stands for something else",
        "ModelError",
        """\
LanguageModel(MODEL_DIR, rename={"transformer.h": "config"})
""",
        "Attributes of the wrapper come before submodules.",
    ),
    Snippet(
        "Logits of prompts of unequal lengths, outside of a trace",
        "PromptError",
        """\
model.logits(["The Louvre", "The Louvre is in"])
""",
        "A trace pads, this function does not.",
    ),
    Snippet(
        "The function for logits in a trace",
        "PathError",
        """\
with model.trace("The Louvre is in"):
    logits = model.logits.save()
""",
        "In a trace they are `model.output`.",
    ),
    Snippet(
        "An item of the function for logits",
        "PathError",
        """\
with model.trace("The Louvre is in"):
    last = model.logits[:, -1].save()
""",
        "In a trace they are `model.output`.",
    ),
    Snippet(
        "New names that are none",
        "TypeError",
        """\
LanguageModel(MODEL_DIR, rename={"transformer.h": ["layers"]})
""",
        "Each entry is of two strings.",
    ),
)
