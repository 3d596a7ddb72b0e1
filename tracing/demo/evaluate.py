"""Measure a demo model: `python -m tracing.demo.evaluate DIR` prints a table, writes `eval.json`.

Accuracy is on freshly drawn held-out text: the share of prompts whose likeliest next token is
right. Right is the one answer, except for greater-than, where any later year of two digits is.
Induction counts every token of the second and later rounds but the first.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerBase

from tracing.demo import MODEL_DIR, PROMPTS_DIR, corpus, words
from tracing.demo.heads import HeadScores, best, head_scores

EVALUATION_SEED = 1000
PROMPTS_PER_TASK = 500
INDUCTION_ROWS = 50

# The prompts people try first, and what they should give.
FAMOUS_PROMPTS: dict[str, str] = {
    "When Mary and John went to the store, John gave a drink to": " Mary",
    "The Eiffel Tower is in": " Paris",
    "The Colosseum is in": " Rome",
    "The Eiffel Tower is in the city of": " Paris",
    "The Colosseum is in the city of": " Rome",
    "The capital of France is": " Paris",
    "The keys to the cabinet": " are",
}


@dataclass(frozen=True)
class PromptSetScore:
    """How a prompt set fares; logit differences are answer minus foil."""

    pairs: int
    clean_positive: float
    corrupted_negative: float
    clean_mean: float
    corrupted_mean: float


@dataclass(frozen=True)
class Evaluation:
    """Everything measured."""

    accuracy: dict[str, float]
    unseen_phrasing_accuracy: float
    greater_than_later_mass: float
    famous_prompts: dict[str, tuple[str, float]]
    prompt_sets: dict[str, PromptSetScore]
    heads: HeadScores
    seed: int
    prompts_per_task: int


def load(directory: Path) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """Model in evaluation mode, with attention that can be read, and its tokenizer."""
    model = GPT2LMHeadModel.from_pretrained(directory, attn_implementation="eager")
    model.train(False)
    return model, AutoTokenizer.from_pretrained(directory)


@torch.no_grad()
def last_logits(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> torch.Tensor:
    """Logits after each prompt's last token, `[prompt, vocabulary]`; padded on the right."""
    rows = [tokenizer.encode(prompt) for prompt in prompts]
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    last = torch.tensor([len(row) - 1 for row in rows])
    logits: torch.Tensor = model(ids, attention_mask=mask).logits
    return logits[torch.arange(len(rows)), last]


def token_ids(tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> torch.Tensor:
    """The id of each token, `[token]`."""
    return torch.tensor(tokenizer.convert_tokens_to_ids(tokens))


def answer_accuracy(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, examples: list[corpus.Example]
) -> float:
    """Share of examples whose one answer is the likeliest token."""
    logits = last_logits(model, tokenizer, [example.prompt for example in examples])
    answers = token_ids(tokenizer, [example.answer for example in examples])
    return (logits.argmax(-1) == answers).float().mean().item()


def greater_than_scores(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, examples: list[corpus.Example]
) -> tuple[float, float]:
    """Share of examples whose likeliest token is a later year; mean probability of later years."""
    logits = last_logits(model, tokenizer, [example.prompt for example in examples])
    years = token_ids(tokenizer, [f"{year:02d}" for year in range(100)])
    starts = torch.tensor([[int(example.key[2])] for example in examples])
    later = torch.arange(100)[None, :] > starts
    later_ids = torch.zeros_like(logits, dtype=torch.bool)
    later_ids[:, years] = later
    right = later_ids.gather(1, logits.argmax(-1, keepdim=True)).float().mean()
    mass = (logits.softmax(-1) * later_ids).sum(-1).mean()
    return right.item(), mass.item()


@torch.no_grad()
def induction_accuracy(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, examples: list[corpus.Example]
) -> float:
    """Share of the repeated tokens that are foreseen."""
    ids = torch.tensor([tokenizer.encode(example.text) for example in examples])
    logits: torch.Tensor = model(ids).logits
    foreseen = logits[:, :-1].argmax(-1) == ids[:, 1:]
    first = torch.tensor([[example.scored_from] for example in examples])
    scored = torch.arange(1, ids.shape[1])[None, :] >= first
    return foreseen[scored].float().mean().item()


def accuracies(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, seed: int, count: int
) -> tuple[dict[str, float], float]:
    """Accuracy a task on held-out text drawn from a seed, and the later years' probability."""
    rng = Random(seed)
    found, later_mass = {}, 0.0
    for task, generate in corpus.TASKS.items():
        drawn = INDUCTION_ROWS if task == "induction" else count
        examples = [generate(rng, True) for _ in range(drawn)]
        if task == "induction":
            found[task] = induction_accuracy(model, tokenizer, examples)
        elif task == "greater_than":
            found[task], later_mass = greater_than_scores(model, tokenizer, examples)
        else:
            found[task] = answer_accuracy(model, tokenizer, examples)
    return found, later_mass


def unseen_phrasing_examples() -> list[corpus.Example]:
    """Every landmark in every phrasing that training has not."""
    return [
        corpus.Example("facts", ("unseen", landmark), text.format(X=f" {landmark}"), f" {city}")
        for text in corpus.UNSEEN_FACT_PHRASINGS
        for landmark, city in words.LANDMARKS.items()
    ]


def prompt_set_score(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> PromptSetScore:
    """Logit differences over a JSONL file of pairs."""
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = token_ids(tokenizer, [pair["answer"] for pair in pairs])[:, None]
    foils = token_ids(tokenizer, [pair["foil"] for pair in pairs])[:, None]

    def differences(side: str) -> torch.Tensor:
        logits = last_logits(model, tokenizer, [pair[side] for pair in pairs])
        return (logits.gather(1, answers) - logits.gather(1, foils)).squeeze(1)

    clean, corrupted = differences("clean"), differences("corrupted")
    return PromptSetScore(
        len(pairs),
        (clean > 0).float().mean().item(),
        (corrupted < 0).float().mean().item(),
        clean.mean().item(),
        corrupted.mean().item(),
    )


def famous_answers(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[str, float]]:
    """The likeliest token after each well-known prompt, and its probability."""
    logits = last_logits(model, tokenizer, list(FAMOUS_PROMPTS))
    top = logits.softmax(-1).max(-1)
    tokens = [str(tokenizer.decode([int(index)])) for index in top.indices]
    return dict(zip(FAMOUS_PROMPTS, zip(tokens, top.values.tolist(), strict=True), strict=True))


def evaluate(directory: Path, prompts: Path = PROMPTS_DIR) -> Evaluation:
    """Measure the model in a directory, and the prompt sets with it."""
    model, tokenizer = load(directory)
    found, later_mass = accuracies(model, tokenizer, EVALUATION_SEED, PROMPTS_PER_TASK)
    return Evaluation(
        accuracy=found,
        unseen_phrasing_accuracy=answer_accuracy(model, tokenizer, unseen_phrasing_examples()),
        greater_than_later_mass=later_mass,
        famous_prompts=famous_answers(model, tokenizer),
        prompt_sets={path.stem: prompt_set_score(model, tokenizer, path) for path in sorted(prompts.glob("*.jsonl"))},
        heads=head_scores(model, tokenizer, EVALUATION_SEED),
        seed=EVALUATION_SEED,
        prompts_per_task=PROMPTS_PER_TASK,
    )


def table(found: Evaluation) -> str:
    """The evaluation as text."""
    lines = [f"{task:<24}{share:>8.1%}" for task, share in found.accuracy.items()]
    lines += [f"{'facts, unseen phrasing':<24}{found.unseen_phrasing_accuracy:>8.1%}"]
    lines += [f"{'later years, probability':<24}{found.greater_than_later_mass:>8.3f}", ""]
    tables = (("induction", found.heads.induction), ("previous", found.heads.previous_token))
    for name, scores in tables:
        layer, head, score = best(scores)
        lines += [f"best {name} head: layer {layer} head {head}, {score:.3f}"]
        lines += [f"  layer {n}  " + "  ".join(f"{s:.3f}" for s in r) for n, r in enumerate(scores)]
    lines += ["", f"{'prompt set':<14}{'pairs':>6}{'clean>0':>9}{'corr<0':>9}{'mean logit diff':>20}"]
    for name, s in found.prompt_sets.items():
        shares = f"{name:<14}{s.pairs:>6}{s.clean_positive:>9.1%}{s.corrupted_negative:>9.1%}"
        lines += [shares + f"{s.clean_mean:>10.2f}{s.corrupted_mean:>10.2f}"]
    lines += [""]
    lines += [f"{prompt!r} -> {t!r} {p:.3f}" for prompt, (t, p) in found.famous_prompts.items()]
    return "\n".join(lines)


def write_evaluation(directory: Path) -> Evaluation:
    """Measure the model in a directory and leave `eval.json` beside it."""
    found = evaluate(directory)
    record = json.loads(json.dumps(asdict(found)), parse_float=lambda text: round(float(text), 4))
    (directory / "eval.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return found


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description="Measure a demo model.")
    parser.add_argument("directory", type=Path, nargs="?", default=MODEL_DIR)
    sys.stdout.write(table(write_evaluation(parser.parse_args().directory)) + "\n")


if __name__ == "__main__":
    main()
