"""Build the prompt sets: `python -m tracing.demo.pairs`.

A pair is two prompts of the same length, `clean` and `corrupted`, with the token that answers the
clean one and the foil that answers the corrupted one. Every prompt is held out from training.
Pairs are drawn from the corpus alone, never picked by what the model gets right.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from random import Random

from tracing.demo import PROMPTS_DIR, PromptSet, corpus, words

log = logging.getLogger(__name__)

PAIRS_PER_SET = 60
PAIRS_SEED = 7
METRIC = "logit_diff"


@dataclass(frozen=True)
class Pair:
    """Two aligned prompts and the tokens they favour."""

    clean: str
    corrupted: str
    answer: str
    foil: str


def ioi_pair(rng: Random) -> Pair:
    """The repeated name is swapped, so that the indirect object changes; one token differs."""
    first, second = corpus.name_pair(rng, held_out=True)
    subject, indirect = rng.sample((first, second), 2)
    template = rng.choice(corpus.IOI_TEMPLATES)
    clean = corpus.ioi_prompt(rng, template, first, second, subject)
    head, _, end = clean.rpartition(f" {subject} ")
    return Pair(clean, f"{head} {indirect} {end}", f" {indirect}", f" {subject}")


def famous_ioi_pair() -> Pair:
    """The pair of the literature."""
    clean = "When Mary and John went to the store, John gave a drink to"
    corrupted = "When Mary and John went to the store, Mary gave a drink to"
    return Pair(clean, corrupted, " Mary", " John")


INDUCTION_SEGMENT = 10
INDUCTION_CUE = 4  # the last token of the prompt is this one of the segment, counted from zero


def induction_pair(rng: Random) -> Pair:
    """The token that followed the cue in the first round is another one; one token differs."""
    while True:
        *segment, other = corpus.random_words(rng, INDUCTION_SEGMENT + 1)
        changed = list(segment)
        changed[INDUCTION_CUE + 1] = other
        if all(corpus.is_held_out(("induction", *tokens)) for tokens in (segment, changed)):
            break
    second_round = "".join(segment[: INDUCTION_CUE + 1])
    return Pair(
        "".join(segment) + second_round,
        "".join(changed) + second_round,
        segment[INDUCTION_CUE + 1],
        other,
    )


def facts_pairs(rng: Random, phrasing: str) -> list[Pair]:
    """Ordered pairs of landmarks, in different cities, never seen in `The X is in`."""
    landmarks = corpus.held_out_landmarks("is in")
    ordered = list(permutations(landmarks, 2))
    rng.shuffle(ordered)
    famous = ("Eiffel Tower", "Colosseum")
    ordered.sort(key=lambda names: names != famous)
    found = []
    for clean, corrupted in ordered:
        answer, foil = words.LANDMARKS[clean], words.LANDMARKS[corrupted]
        if answer != foil:
            prompts = [phrasing.format(X=f" {name}") for name in (clean, corrupted)]
            found.append(Pair(prompts[0], prompts[1], f" {answer}", f" {foil}"))
    return found[:PAIRS_PER_SET]


SMALLEST_GAP_YEARS = 15
YEARS_AFTER_START = 5


def greater_than_pair(rng: Random, famous: bool = False) -> Pair:
    """The start year is an earlier one. Both tokens are later than it; the foil is the nearer."""
    event, verb, century, start = "war", "lasted", "17", 32
    while True:
        if not famous:
            event, verb = rng.choice(words.EVENTS), rng.choice(words.LASTING)
            century, start = rng.choice(words.CENTURIES), rng.randint(30, 85)
        earlier = rng.randint(2, start - SMALLEST_GAP_YEARS)
        keys = [("greater_than", event, f"{year:02d}") for year in (start, earlier)]
        if all(corpus.is_held_out(key) for key in keys):
            break
    clean, corrupted = (corpus.greater_than_prompt(event, verb, century, year) for year in (start, earlier))
    answer, foil = (f"{year + YEARS_AFTER_START:02d}" for year in (start, earlier))
    return Pair(clean, corrupted, answer, foil)


def agreement_pair(rng: Random, famous: bool = False) -> Pair:
    """The subject changes number; the distractor has the number of the corrupted subject."""
    subject, attractor, preposition, plural = "key", "cabinet", "to", True
    while not famous:
        subject, attractor = rng.choice(list(words.SUBJECTS)), rng.choice(list(words.ATTRACTORS))
        preposition, plural = rng.choice(words.PREPOSITIONS), rng.random() < 0.5
        if corpus.is_held_out(("agreement", subject, attractor)):
            break
    forms, verbs = (subject, words.SUBJECTS[subject]), (" is", " are")
    other = attractor if plural else words.ATTRACTORS[attractor]
    clean, corrupted = (f"The {forms[n]} {preposition} the {other}" for n in (plural, not plural))
    return Pair(clean, corrupted, verbs[plural], verbs[not plural])


def distinct(draw: Callable[[], Pair], first: list[Pair]) -> list[Pair]:
    """`first`, then pairs drawn until the set is full, no clean prompt twice."""
    found = {pair.clean: pair for pair in first}
    while len(found) < PAIRS_PER_SET:
        pair = draw()
        found.setdefault(pair.clean, pair)
    return list(found.values())


def pairs_of(slug: str) -> list[Pair]:
    """The pairs of one set; the same every time, whatever other sets exist."""
    rng = Random(f"{PAIRS_SEED} {slug}")
    match slug:
        case "ioi":
            return distinct(lambda: ioi_pair(rng), [famous_ioi_pair()])
        case "induction":
            return distinct(lambda: induction_pair(rng), [])
        case "facts":
            return facts_pairs(rng, "The{X} is in the city of")
        case "facts-short":
            return facts_pairs(rng, "The{X} is in")
        case "greater-than":
            return distinct(lambda: greater_than_pair(rng), [greater_than_pair(rng, famous=True)])
        case "agreement":
            return distinct(lambda: agreement_pair(rng), [agreement_pair(rng, famous=True)])
    raise KeyError(slug)


# (slug, task, title, description)
INDEX: tuple[tuple[str, str, str, str], ...] = (
    (
        "ioi",
        "ioi",
        "Indirect object",
        ("Two people, one of them named again: who receives the thing? The corrupted prompt repeats the other name."),
    ),
    (
        "induction",
        "induction",
        "Induction",
        (
            "Ten random words, then the first five again: what came next the first time? The "
            "corrupted prompt had another word there."
        ),
    ),
    (
        "facts",
        "facts",
        "Landmarks, long form",
        "The city a landmark is in. The corrupted prompt names another landmark.",
    ),
    (
        "facts-short",
        "facts",
        "Landmarks, short form",
        "The Eiffel Tower is in ... against The Colosseum is in ..., and others like it.",
    ),
    (
        "greater-than",
        "greater_than",
        "Greater than",
        (
            "A span of years ends after it starts. The corrupted prompt starts at least fifteen "
            "years earlier, and the foil is the year that would then be likelier."
        ),
    ),
    (
        "agreement",
        "agreement",
        "Subject and verb",
        (
            "The verb agrees with the first noun, not with the nearer one. The corrupted prompt "
            "changes the number of the first noun."
        ),
    ),
)


def prompt_set(slug: str, task: str, title: str, description: str) -> PromptSet:
    """One entry of the index."""
    return PromptSet(slug, title, description, task, f"{slug}.jsonl", METRIC)


def write_sets(directory: Path) -> None:
    """Write a JSONL file a set, and `index.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = [prompt_set(*row) for row in INDEX]
    for entry in entries:
        lines = "".join(json.dumps(asdict(pair)) + "\n" for pair in pairs_of(entry.slug))
        (directory / entry.file).write_text(lines, encoding="utf-8")
    index = json.dumps([asdict(entry) for entry in entries], indent=2)
    (directory / "index.json").write_text(index + "\n", encoding="utf-8")


def main() -> None:
    """Command line entry."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_sets(PROMPTS_DIR)
    log.info("wrote the prompt sets to %s", PROMPTS_DIR)


if __name__ == "__main__":
    main()
