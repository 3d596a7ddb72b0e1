"""Train the demo model: `python -m tracing.demo.train --out DIR --steps N --seed S`.

1. Draw two batches a step: rows of repeated random words (induction, the slowest to be learnt)
   and short sentences of the other tasks, one document a row, padded.
2. Minimise the mean next-token loss of both batches with AdamW, a linear warm-up and a cosine
   decay. The random first round of an induction row carries no loss.
3. Every `--export-every` steps, and at the end, write the weights, the tokenizer and the history
   to the output directory, so that a run cut short still leaves a model.
4. At the end, measure the model and write its card.
"""

import argparse
import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from tracing.demo import MODEL_DIR, corpus
from tracing.demo.card import write_card
from tracing.demo.evaluate import table, write_evaluation
from tracing.demo.tokenizer import N_POSITIONS, build_tokenizer, end_of_text_id, save_tokenizer

log = logging.getLogger(__name__)

IGNORED = -100  # the label torch's cross-entropy leaves out


@dataclass(frozen=True)
class TrainingOptions:
    """Everything the weights depend on, besides the corpus."""

    steps: int = 2000
    seed: int = 0
    learning_rate: float = 2e-3
    final_rate_share: float = 0.05
    warmup_steps: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_clip: float = 1.0
    induction_tokens: int = 3072
    induction_lengths: tuple[int, ...] = (64, 64, 64, 64, 64, 64, 64, N_POSITIONS)
    sentences: int = 96
    opened_share: float = 0.25  # of rows that open with the end-of-text token
    task_weights: dict[str, int] = field(
        default_factory=lambda: {
            "ioi": 6,
            "facts": 6,
            "greater_than": 4,
            "agreement": 4,
            "background": 1,
        }
    )


@dataclass(frozen=True)
class Batch:
    """Token ids and labels, both `[batch, position]`; ignored labels are -100."""

    ids: torch.Tensor
    labels: torch.Tensor


def new_model(tokenizer: Tokenizer) -> GPT2LMHeadModel:
    """An untrained model; the caller seeds torch."""
    end = end_of_text_id(tokenizer)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=N_POSITIONS,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        summary_first_dropout=0.0,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    return GPT2LMHeadModel(config)


def collate(tokenizer: Tokenizer, examples: list[corpus.Example], opened: list[bool]) -> Batch:
    """One document a row, closed by the end-of-text token and padded on the right."""
    end = end_of_text_id(tokenizer)
    rows = []
    for example, opens in zip(examples, opened, strict=True):
        rows.append([end] * opens + [*tokenizer.encode(example.text).ids, end])
    width = min(max(len(row) for row in rows), N_POSITIONS)
    ids = torch.full((len(rows), width), end)
    labels = torch.full((len(rows), width), IGNORED)
    for index, (row, example) in enumerate(zip(rows, examples, strict=True)):
        kept = torch.tensor(row[:width])
        ids[index, : len(kept)] = kept
        start = example.scored_from + opened[index]
        # A repeated random segment has no end to learn: it is only cut off there.
        stop = len(row) - 1 if example.task == "induction" else len(row)
        labels[index, start:stop] = ids[index, start:stop]
    return Batch(ids, labels)


def drawn_openings(rng: Random, rows: int, options: TrainingOptions) -> list[bool]:
    """Which rows open with the end-of-text token: a prompt may come with it or without."""
    return [rng.random() < options.opened_share for _ in range(rows)]


def induction_batch(rng: Random, tokenizer: Tokenizer, options: TrainingOptions) -> Batch:
    """Rows of one length, as many as the token budget allows."""
    length = rng.choice(options.induction_lengths)
    rows = options.induction_tokens // length
    examples = [corpus.induction(rng, False, length) for _ in range(rows)]
    return collate(tokenizer, examples, drawn_openings(rng, rows, options))


def sentence_batch(rng: Random, tokenizer: Tokenizer, options: TrainingOptions) -> Batch:
    """Sentences of every other task, mixed by weight."""
    generators = {**corpus.TASKS, "background": corpus.background}
    names = rng.choices(list(options.task_weights), list(options.task_weights.values()), k=options.sentences)
    examples = [generators[name](rng, False) for name in names]
    return collate(tokenizer, examples, drawn_openings(rng, len(examples), options))


def batch_loss(model: GPT2LMHeadModel, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the scored next tokens (a scalar)."""
    logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch.labels[:, 1:].reshape(-1), ignore_index=IGNORED
    )


def rate_share(step: int, options: TrainingOptions) -> float:
    """The share of the learning rate in force at a step: linear up, then cosine down."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return options.final_rate_share + (1 - options.final_rate_share) * cosine


def new_optimizer(model: GPT2LMHeadModel, options: TrainingOptions) -> torch.optim.AdamW:
    """AdamW with weight decay on the matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas)


def export(model: GPT2LMHeadModel, out: Path, options: TrainingOptions, step: int, seconds: float) -> None:
    """Write a model directory that `from_pretrained` reads, with the record of the run."""
    out.mkdir(parents=True, exist_ok=True)
    end = model.config.eos_token_id
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=end, eos_token_id=end, pad_token_id=end, max_length=N_POSITIONS
    )
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # else only its writer may read it
    save_tokenizer(out)
    record = {**asdict(options), "steps_done": step, "minutes": round(seconds / 60, 1)}
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def train(out: Path, options: TrainingOptions, export_every: int = 200) -> GPT2LMHeadModel:
    """Run the whole training; the same options give the same batches and the same start."""
    rng = Random(options.seed)
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = new_model(tokenizer)
    model.train()
    optimizer = new_optimizer(model, options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, options))
    started = time.monotonic()
    for step in range(1, options.steps + 1):
        repeated = batch_loss(model, induction_batch(rng, tokenizer, options))
        sentences = batch_loss(model, sentence_batch(rng, tokenizer, options))
        optimizer.zero_grad(set_to_none=True)
        (repeated + sentences).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.gradient_clip)
        optimizer.step()
        scheduler.step()
        seconds = time.monotonic() - started
        if step % 50 == 0 or step == 1:
            losses = (step, repeated.item(), sentences.item(), seconds)
            log.info("step %d: induction loss %.3f, sentence loss %.3f, %.0f s", *losses)
        if step % export_every == 0 or step == options.steps:
            export(model, out, options, step, seconds)
    return model


def main() -> None:
    """Command line entry."""
    defaults = TrainingOptions()
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export-every", type=int, default=200)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    options = TrainingOptions(steps=arguments.steps, seed=arguments.seed)
    train(arguments.out, options, arguments.export_every)
    log.info(table(write_evaluation(arguments.out)))
    write_card(arguments.out)


if __name__ == "__main__":
    main()
