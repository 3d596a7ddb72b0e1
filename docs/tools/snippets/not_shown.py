"""Kinds of errors that docs/errors.md does not show: by reason, a part of each one's message."""

from typing import Final

NOT_SHOWN: Final[dict[str, tuple[str, ...]]] = {
    "needs the Hugging Face hub, or no network": (
        "on this machine (no such folder, not in the hub's cache)",
        "only for people who accepted its terms",
        " has no revision ",
        "no such folder here, and no such model on the Hugging Face hub",
        "no safetensors weights in the hub's cache",
    ),
    "needs an environment without a package that the tests install": (
        "needs the package accelerate",
        "Images need the package Pillow",
    ),
    "needs files or models that are too rare for a small example": (
        "This tokenizer has no fast version",
        "transformers has no model class for",
        "The image processor of",
        "it has attention sinks or another layout",
        "was built for … attention and does not change to",
        "does not have all of …, which another invoke of the batch has",
        "has one entry a row, and not every invoke gives it",
        "The model gives one … for all prompts of a batch",
        "Invoke … was given … twice.",
        "Decoder prompts of unequal lengths",
        "The forward of this module is compiled in place",
        "How many steps this generation takes is not known",
    ),
    "becomes part of another message, which is shown": (
        "shapes … and … do not agree",
        "the forward never reached … of layer",
        "attention cannot run here",
        "has no text",
        "has no logits",
        "a … lies there, not a tensor",
        "of the parts of a …, one can be written",
    ),
    "stands behind a check that comes first, and is shown": (
        "The write at … to … needs a value that the model computes only after that site",
        "The skip at … of … needs a value that the model computes only later",
        "is needed for a value that its own backward is computed from",
        "lies in an attached module that this trace does not call",
        "The forward did not call",
        "The site … needs a layer",
        "The site … has no layers",
        "a … cannot be indexed in a trace",
        "… cannot be compared in a trace",
        "a joined tuple has more than",
        "No input was given",
        "is text, and this model has no tokenizer",
        "… object has no attribute …",
    ),
    "is of engines or sweeps, which a trace does not call so": (
        "outside a tapping context",
        "Attention has no tap",
        "is tapped by an enclosing context",
        "The visitor changed",
        "… is …, so … cannot stand in its place.",
    ),
}
