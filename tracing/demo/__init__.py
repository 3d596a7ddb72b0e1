"""The demo model: a small GPT-2 trained here on synthetic text, and the prompt sets that fit it.

Importing this package loads no torch, so that a web process may list the prompt sets.
"""

import json
from dataclasses import dataclass
from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
PROMPTS_DIR = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class PromptSet:
    """One entry of `prompts/index.json`: a file of token-aligned pairs for one task."""

    slug: str
    title: str
    description: str
    task: str
    file: str
    metric: str

    @property
    def path(self) -> Path:
        """Where the pairs are, one JSON object a line."""
        return PROMPTS_DIR / self.file


def prompt_sets() -> list[PromptSet]:
    """The built-in prompt sets, in the order they are shown."""
    entries = json.loads((PROMPTS_DIR / "index.json").read_text(encoding="utf-8"))
    return [PromptSet(**entry) for entry in entries]
