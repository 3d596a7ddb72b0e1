"""The cost preview against real time: every method, on the demo model and on GPT-2-small shape.

    python -m benchmarks.preview [--repetitions 3] [--threads 2] [--methods activation_patching …] [--models demo gpt2]

As the server does it: the model is timed once (`tracing.experiments.calibration`, under a second), which predicts the
first run of each method from its `Cost` alone. That run teaches the method's `Habit`, which predicts the next ones, and
one with other options (`OTHERS`). A preview is good where real ÷ predicted lies between 1/2 and 2.
Eight pairs of the demo's task on the demo model; two pairs of 16 tokens and random weights on the GPT-2-small shape.
Writes benchmarks/results/preview_threads_<n>.md.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tracing.demo import MODEL_DIR, prompt_sets
from tracing.errors import TracingError
from tracing.experiments import methods
from tracing.experiments.calibration import Habit, Rates, measure
from tracing.experiments.calling import LocalContext
from tracing.experiments.registry import Cost, Method, MethodSpec, PromptFacts
from tracing.models import LanguageModel
from tracing.prompts import PromptPair, tokenize_all

RESULTS = Path(__file__).parent / "results"
OTHERS: dict[str, dict[str, Any]] = {
    "activation_patching": {"sites": ("z",), "over": "layer_head"},
    "attention_patterns": {"value_weighted": False},
    "attribution_patching": {"grad_drop": True, "check": 0},
    "direct_logit_attribution": {"by": "head"},
    "edge_attribution": {"method": "eap"},
    "head_detectors": {"tokens": "prompts"},
    "logit_lens": {"at": "answer"},
    "path_patching": {"senders": "heads and mlps"},
    "steering": {"texts": 0},
    "token_attribution": {"method": "input_x_gradient"},
}
"""Options that the run of the default ones must predict too."""
GOOD = 2.0
"""A prediction may be off by this factor, either way."""


@dataclass(frozen=True, slots=True)
class Line:
    """One method on one model: what was predicted first, after one run, and what it took (median of the others)."""

    model: str
    method: str
    cost: Cost
    first_predicted: float
    first_real: float
    predicted: float
    real: float
    other_predicted: float
    other_real: float

    @property
    def other_ratio(self) -> float:
        return self.other_real / self.other_predicted

    @property
    def first_ratio(self) -> float:
        return self.first_real / self.first_predicted

    @property
    def ratio(self) -> float:
        return self.real / self.predicted


def demo_pairs(count: int) -> list[PromptPair]:
    """Pairs of the demo's first task."""
    path = next(found.path for found in prompt_sets() if found.slug == "ioi")
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    return [PromptPair.model_validate_json(line) for line in lines]


def subjects(names: Sequence[str]) -> Iterator[tuple[str, LanguageModel, list[PromptPair]]]:
    """The models with their pairs. The large one has the demo's tokenizer: speed does not depend on the words."""
    if "demo" in names:
        yield "demo", LanguageModel(MODEL_DIR, dtype="float32"), demo_pairs(8)
    if "gpt2" in names:
        torch.manual_seed(0)
        module = GPT2LMHeadModel(GPT2Config())
        module.requires_grad_(False).train(mode=False)
        yield "gpt2", LanguageModel(module, tokenizer=MODEL_DIR), demo_pairs(2)


def prompt_facts(model: LanguageModel, pairs: Sequence[PromptPair]) -> PromptFacts:
    """Sizes of the pairs, as the catalog gives them to a preview."""
    found = tokenize_all(pairs, model.tokens, model.facts.max_positions)
    return PromptFacts(
        lengths=tuple(pair.length for pair in found),
        first_differences=tuple(pair.differs.index(True) for pair in found),
    )


def seconds(method: Method, spec: MethodSpec, model: LanguageModel, pairs: Sequence[PromptPair]) -> float:
    """How long one run takes, results included."""
    torch.manual_seed(spec.seed)
    started = time.perf_counter()
    for _ in method.run(spec, model, pairs, LocalContext()):
        pass
    return time.perf_counter() - started


def measured(
    name: str, method: Method, model: LanguageModel, pairs: Sequence[PromptPair], rates: Rates, repetitions: int
) -> Line:
    """One method on one model. Raises `TracingError` where it does not run there."""
    spec = method.spec()
    spec.check_model(model.facts)
    spec.check_pairs(pairs)
    cost = method.cost(spec, model.facts, prompt_facts(model, pairs))
    plain = rates.of(cost)
    first = seconds(method, spec, model, pairs)
    habit = Habit().after(plain, first)
    later = [seconds(method, spec, model, pairs) for _ in range(repetitions)]
    other = method.spec(**OTHERS[method.name])
    other_plain = rates.of(method.cost(other, model.facts, prompt_facts(model, pairs)))
    others = [seconds(method, other, model, pairs) for _ in range(repetitions)]
    return Line(
        name, method.name, cost, Habit().seconds(plain), first, habit.seconds(plain), statistics.median(later),
        habit.seconds(other_plain), statistics.median(others),
    )  # fmt: skip


def report(lines: Sequence[Line], rates: dict[str, Rates], threads: int, repetitions: int) -> str:
    """The table as Markdown."""
    good = sum(1 / GOOD <= line.ratio <= GOOD for line in lines)
    other = sum(1 / GOOD <= line.other_ratio <= GOOD for line in lines)
    first = sum(1 / GOOD <= line.first_ratio <= GOOD for line in lines)
    text = [
        "# Cost preview",
        "",
        f"{threads} threads, {repetitions} repetitions. Within a factor of {GOOD:g}: {first} of {len(lines)} from the "
        f"calibration alone, {good} of {len(lines)} once one run of the method has finished, {other} of {len(lines)} "
        "then with other options.",
        "",
        *(
            f"- {name}: {found.flops_per_second:.3g} FLOP/s, {found.seconds_per_launch * 1e6:.0f} µs a block"
            for name, found in rates.items()
        ),
        "",
        "| model | method | GFLOP | launches | predicted | first run | ratio | predicted then | later runs | ratio "
        "| other options: predicted | real | ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    text += [
        f"| {line.model} | {line.method} | {line.cost.flops / 1e9:.3g} | {line.cost.launches} "
        f"| {line.first_predicted:.3g} s | {line.first_real:.3g} s | {line.first_ratio:.2f} "
        f"| {line.predicted:.3g} s | {line.real:.3g} s | {line.ratio:.2f} "
        f"| {line.other_predicted:.3g} s | {line.other_real:.3g} s | {line.other_ratio:.2f} |"
        for line in lines
    ]
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="*", default=[method.name for method in methods()])
    parser.add_argument("--models", nargs="*", default=["demo", "gpt2"], choices=["demo", "gpt2"])
    parser.add_argument("--dry", action="store_true", help="write no file")
    options: Any = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines: list[Line] = []
    rates: dict[str, Rates] = {}
    for name, model, pairs in subjects(options.models):
        rates[name] = measure(model)
        for method in methods():
            if method.name not in options.methods:
                continue
            try:
                lines.append(measured(name, method, model, pairs, rates[name], options.repetitions))
            except TracingError as error:
                print(f"{name} {method.name}: {error}")
                continue
            print(f"{name} {method.name}: {lines[-1].first_ratio:.2f} first, {lines[-1].ratio:.2f} then", flush=True)
    text = report(lines, rates, options.threads, options.repetitions)
    print(text)
    if not options.dry:
        (RESULTS / f"preview_threads_{options.threads}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
