"""Write a model directory's card, README.md, from the records beside the weights.

`training.json` says how the model was trained and `eval.json` what was measured, so that the card
never states a number that no run produced: `python -m tracing.demo.card DIR`.
"""

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

from safetensors import safe_open

from tracing.demo import MODEL_DIR, corpus, words
from tracing.demo.heads import SEGMENT_TOKENS, best
from tracing.demo.tokenizer import vocabulary

CARD = Template("""\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
---
# The Patchbay demo model

A small GPT-2 with known skills, for trying circuit discovery in seconds on a CPU: 4 layers, width 128, 4 heads,
128 positions, $vocabulary tokens, $parameters parameters in float32. It was trained from nothing by this project's own
script on this project's own synthetic text. It knows five narrow skills and no English beyond them.

## What it can do

Accuracy is the share of held-out prompts whose likeliest next token is right ($count fresh prompts a task;
for induction, every repeated token of 50 rows), with evaluation seed $evaluation_seed.

| Task | Example | Held out | Accuracy |
|---|---|---|---|
| Indirect object | `When Mary and John went to the store, John gave a drink to` → ` Mary` | pairs of names | $ioi |
| Induction | `A B C ... A B` → ` C`, on random words | random segments | $induction |
| Facts | `The Eiffel Tower is in` → ` Paris` | landmark with phrasing | $facts |
| Facts, unseen phrasing | `$unseen_example` | the whole phrasing | $unseen |
| Greater-than | `The war lasted from the year 1732 to the year 17` → `33` to `99` | event with year | $greater_than |
| Subject-verb agreement | `The keys to the cabinet` → ` are` | subject with distractor | $agreement |

Held out means: a hash of the pair of names, the landmark and phrasing, and so on, sends a fifth of them to the held-out
side, and training text never has one. Landmark and city do occur together in training, in other phrasings: a fact that
was never told cannot be known. For greater-than, later years hold $later_mass of the probability on average.

Well-known prompts, all held out but `The capital of France is`, which is background text learnt by heart. After
`The ... is in` a part of the probability goes to ` the`, as in `is in the city of`.

$famous

## Its heads

Mean attention on $segment random words, twice (Olsson et al. 2022). The best induction head is layer $induction_layer
head $induction_head, $induction_score; the best previous-token head is layer $previous_layer head $previous_head,
$previous_score. Layers and heads are counted from 0.

$heads

## The prompt sets

`tracing/demo/prompts/` has token-aligned pairs of held-out prompts, drawn from the corpus and not picked by what the
model gets right. Logit difference is answer minus foil.

$prompt_sets

## Text and tokens

One token a word, its leading space included; ` Mary` is a token and `Mary` is not. A landmark's whole name is one token
(` Eiffel Tower`), which is a choice: it makes any two landmark prompts the same length, and leaves out the part of
factual recall that joins the pieces of a name. Years are two digits and two digits (` 17`, `32`). A word that is not in
the vocabulary becomes `<unk>`, which the model was never trained on. `<|endoftext|>` opens, closes and pads; a prompt
may start with it or not.

In the greater-than text short durations are likelier (exponential, mean 12 years), so the model prefers the years just
after the start; its pairs rest on that. Sentences are at most 21 tokens: only induction was trained at later positions.

## Training

Seed $seed, $steps_done steps, $minutes minutes on a CPU; AdamW, learning rate
$learning_rate with $warmup_steps steps of warm-up and cosine decay, betas $betas, weight decay $weight_decay. Each step
sees about $induction_tokens tokens of repeated random words and $sentences sentences of the other tasks.

    make demo-model        # python -m tracing.demo.train

trains it again, measures it and writes this card. The same seed gives the same text and the same first weights; the
last digits of the final weights depend on the processor and the number of threads.

## Limits and licence

The model is for studying methods. Its facts are a list of $landmarks landmarks; it has no use as a language model.
Apache-2.0, as the rest of the project.
""")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def head_table(heads: dict[str, list[list[float]]]) -> str:
    """Both scores of every head."""
    rows = [
        [f"{layer}.{head}", f"{score:.3f}", f"{heads['previous_token'][layer][head]:.3f}"]
        for layer, scores in enumerate(heads["induction"])
        for head, score in enumerate(scores)
    ]
    return markdown_table(["Head (layer.head)", "Induction", "Previous token"], rows)


def prompt_set_table(sets: dict[str, dict[str, float]]) -> str:
    """How each prompt set fares."""
    rows = [
        [
            name,
            str(found["pairs"]),
            f"{found['clean_positive']:.1%}",
            f"{found['corrupted_negative']:.1%}",
            f"{found['clean_mean']:.2f}",
            f"{found['corrupted_mean']:.2f}",
        ]
        for name, found in sets.items()
    ]
    header = ["Set", "Pairs", "Clean > 0", "Corrupted < 0", "Mean, clean", "Mean, corrupted"]
    return markdown_table(header, rows)


def famous_table(prompts: dict[str, tuple[str, float]]) -> str:
    """The likeliest token after each well-known prompt."""
    rows = [[f"`{prompt}`", f"`{token}`", f"{share:.3f}"] for prompt, (token, share) in prompts.items()]
    return markdown_table(["Prompt", "Likeliest next token", "Probability"], rows)


def card(training: dict[str, Any], measured: dict[str, Any], parameters: int) -> str:
    """The card's text."""
    heads = measured["heads"]
    induction_layer, induction_head, induction_score = best(heads["induction"])
    previous_layer, previous_head, previous_score = best(heads["previous_token"])
    values = {task: f"{share:.1%}" for task, share in measured["accuracy"].items()}
    return CARD.substitute(
        training,
        **values,
        unseen=f"{measured['unseen_phrasing_accuracy']:.1%}",
        unseen_example=corpus.UNSEEN_FACT_PHRASINGS[0].format(X=" Louvre"),
        later_mass=f"{measured['greater_than_later_mass']:.1%}",
        count=measured["prompts_per_task"],
        evaluation_seed=measured["seed"],
        vocabulary=len(vocabulary()),
        parameters=f"{parameters:,}",
        segment=SEGMENT_TOKENS,
        induction_layer=induction_layer,
        induction_head=induction_head,
        induction_score=f"{induction_score:.3f}",
        previous_layer=previous_layer,
        previous_head=previous_head,
        previous_score=f"{previous_score:.3f}",
        heads=head_table(heads),
        prompt_sets=prompt_set_table(measured["prompt_sets"]),
        famous=famous_table(measured["famous_prompts"]),
        landmarks=len(words.LANDMARKS),
    )


def parameter_count(directory: Path) -> int:
    """How many numbers the weights file holds."""
    with safe_open(directory / "model.safetensors", "pt") as weights:
        return sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118  no mapping


def write_card(directory: Path) -> None:
    """Write README.md beside the records it is made from."""
    training, measured = (json.loads((directory / name).read_text()) for name in ("training.json", "eval.json"))
    (directory / "README.md").write_text(card(training, measured, parameter_count(directory)), encoding="utf-8")


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description="Write a demo model's card.")
    parser.add_argument("directory", type=Path, nargs="?", default=MODEL_DIR)
    write_card(parser.parse_args().directory)


if __name__ == "__main__":
    main()
