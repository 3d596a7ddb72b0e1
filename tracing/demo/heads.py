"""What each attention head does on repeated random words.

A row is a random segment of p tokens, twice. With A[t, s] the attention of a head from position t
to position s, the scores are means over rows and positions of

    induction       A[t, t - p + 1]   for t in the second round: to the token after the last time
    previous token  A[t, t - 1]       for every t > 0

(Olsson et al. 2022, "In-context learning and induction heads").
"""

from dataclasses import dataclass
from random import Random

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

from tracing.demo import corpus

SEGMENT_TOKENS = 25


@dataclass(frozen=True)
class HeadScores:
    """Two tables `[layer][head]`."""

    induction: list[list[float]]
    previous_token: list[list[float]]


def best(table: list[list[float]]) -> tuple[int, int, float]:
    """Layer, head and score of the highest entry."""
    score, layer, head = max((score, layer, head) for layer, row in enumerate(table) for head, score in enumerate(row))
    return layer, head, score


def repeated_rows(tokenizer: PreTrainedTokenizerBase, rng: Random, rows: int, segment: int) -> torch.Tensor:
    """Token ids `[rows, 2 * segment]`, the second half equal to the first."""
    texts = ["".join(corpus.random_words(rng, segment) * 2) for _ in range(rows)]
    return torch.tensor([tokenizer.encode(text) for text in texts])


@torch.no_grad()
def head_scores(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    rows: int = 64,
    segment: int = SEGMENT_TOKENS,
) -> HeadScores:
    """Score every head; the model must have been loaded with `attn_implementation="eager"`."""
    ids = repeated_rows(tokenizer, Random(seed), rows, segment)
    attentions = model(ids, output_attentions=True).attentions
    induction, previous = [], []
    for pattern in attentions:  # [rows, head, position, position]
        to_next = pattern.diagonal(1 - segment, dim1=-2, dim2=-1)  # A[t, t - segment + 1]
        # Its first entry leaves from the last token of the first round.
        induction.append(to_next[..., 1:].mean(dim=(0, 2)).tolist())
        previous.append(pattern.diagonal(-1, dim1=-2, dim2=-1).mean(dim=(0, 2)).tolist())
    return HeadScores(induction, previous)
