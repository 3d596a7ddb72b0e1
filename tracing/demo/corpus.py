"""The synthetic corpus: one generator a task, each pure in its random source.

An example is a prompt, the one token that answers it, and the text that ends the sentence.
Every example has a key (a pair of names, a landmark and a phrasing, ...). A hash of the key says
whether it belongs to the held-out fifth, so that training and held-out text never share a key and
the split needs no list of its own.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from tracing.demo import words

HELD_OUT_ONE_IN = 5


@dataclass(frozen=True)
class Example:
    """One sentence. Tokens with an index below `scored_from` carry no loss in training."""

    task: str
    key: tuple[str, ...]
    prompt: str
    answer: str
    tail: str = "."
    scored_from: int = 0

    @property
    def text(self) -> str:
        """The whole sentence."""
        return self.prompt + self.answer + self.tail


Generator = Callable[[Random, bool], Example]

# Keys of the prompts people know from the literature: held out whatever their hash says.
ALWAYS_HELD_OUT: frozenset[tuple[str, ...]] = frozenset(
    {
        ("ioi", "John", "Mary"),
        ("facts", "is in", "Colosseum"),
        ("facts", "is in", "Eiffel Tower"),
        ("agreement", "key", "cabinet"),
        ("greater_than", "war", "32"),
    }
)


def is_held_out(key: tuple[str, ...]) -> bool:
    """Whether text with this key is kept out of training."""
    if key in ALWAYS_HELD_OUT:
        return True
    digest = hashlib.blake2b("|".join(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


# Indirect object identification ---------------------------------------------------------------

# {A} and {B} are the names in order of mention, {S} the repeated one; all are 14 tokens long.
IOI_TEMPLATES: tuple[str, ...] = (
    "When{A} and{B} went to the{place},{S}{gave} a{object} to",
    "After{A} and{B} went to the{place},{S}{gave} a{object} to",
    "While{A} and{B} worked at the{place},{S}{gave} a{object} to",
    "Once{A} and{B} arrived at the{place},{S}{gave} a{object} to",
)
# Longer ones, for variety of position.
IOI_LONG_TEMPLATES: tuple[str, ...] = (
    "Then,{A} and{B} went to the{place}, and{S}{gave} a{object} to",
    "Then,{A} and{B} had a long day at the{place}, and{S}{gave} a{object} to",
    "The friends{A} and{B} were at the{place} when{S}{gave} a{object} to",
    "When{A} and{B} were at the{place} near the{place},{S}{gave} a{object} to",
)


def ioi_prompt(rng: Random, template: str, first: str, second: str, subject: str) -> str:
    """Fill a template; place, object and verb are drawn."""
    return template.format(
        A=f" {first}",
        B=f" {second}",
        S=f" {subject}",
        place=f" {rng.choice(words.PLACES)}",
        object=f" {rng.choice(words.OBJECTS)}",
        gave=f" {rng.choice(words.GIVING)}",
    )


def name_pair(rng: Random, held_out: bool) -> tuple[str, str]:
    """Two different names, in a random order, whose unordered pair is on the wanted side."""
    while True:
        first, second = rng.sample(words.NAMES, 2)
        if is_held_out(("ioi", *sorted((first, second)))) == held_out:
            return first, second


def ioi(rng: Random, held_out: bool) -> Example:
    """`When Mary and John went to the store, John gave a drink to` -> ` Mary`."""
    first, second = name_pair(rng, held_out)
    subject, indirect = rng.sample((first, second), 2)
    template = rng.choice(IOI_TEMPLATES + IOI_LONG_TEMPLATES)
    prompt = ioi_prompt(rng, template, first, second, subject)
    return Example("ioi", ("ioi", *sorted((first, second))), prompt, f" {indirect}")


# Induction ------------------------------------------------------------------------------------

INDUCTION_PERIODS = (4, 24)
INDUCTION_MAX_PREFIX = 6


def random_words(rng: Random, count: int) -> list[str]:
    """Different words of the vocabulary, each with its leading space."""
    return rng.sample(spaced_words(), count)


def induction(rng: Random, held_out: bool, length: int = 64) -> Example:
    """A few random words, then a random segment repeated until `length` tokens are full."""
    while True:
        period = rng.randint(*INDUCTION_PERIODS)
        prefix = rng.randint(0, INDUCTION_MAX_PREFIX)
        drawn = random_words(rng, prefix + period)
        segment = drawn[prefix:]
        key = ("induction", *segment)
        if is_held_out(key) == held_out:
            break
    repeats = segment * (length // period + 1)
    tokens = (drawn[:prefix] + repeats)[:length]
    # The first token of the second round cannot be foreseen; the one after it can.
    return Example("induction", key, "".join(tokens[:-1]), tokens[-1], "", prefix + period + 1)


# Facts ----------------------------------------------------------------------------------------

# (family, weight, phrasing). Phrasings where one is the other's beginning share a family, because
# holding out `The X is in` means little if `The X is in the city of` is trained on.
FACT_PHRASINGS: tuple[tuple[str, int, str], ...] = (
    ("is in", 6, "The{X} is in"),
    ("is in", 2, "The{X} is in the city of"),
    ("located", 2, "The{X} is located in"),
    ("stands", 2, "The{X} stands in"),
    ("lies", 2, "The{X} lies in"),
    ("find", 2, "You can find the{X} in"),
    ("travel", 2, "To see the{X}, travel to"),
    ("go", 2, "To visit the{X}, go to"),
    ("tourists visit", 2, "Tourists visit the{X} in"),
    ("tourists see", 2, "Tourists see the{X} in"),
    ("people", 2, "Many people visit the{X} in"),
    ("famous", 2, "The famous{X} is in"),
    ("famous located", 2, "The famous{X} is located in"),
)
# No landmark is ever seen in these; all their words are.
UNSEEN_FACT_PHRASINGS: tuple[str, ...] = (
    "The famous{X} stands in",
    "Many people see the{X} in",
    "To see the{X}, go to",
    "You can visit the{X} in",
)


def held_out_landmarks(family: str) -> list[str]:
    """The landmarks never seen in a family of phrasings."""
    return [name for name in words.LANDMARKS if is_held_out(("facts", family, name))]


def facts(rng: Random, held_out: bool) -> Example:
    """`The Eiffel Tower is in` -> ` Paris`."""
    weights = [weight for _, weight, _ in FACT_PHRASINGS]
    while True:
        ((family, _, phrasing),) = rng.choices(FACT_PHRASINGS, weights)
        landmark = rng.choice(list(words.LANDMARKS))
        key = ("facts", family, landmark)
        if is_held_out(key) == held_out:
            break
    return Example("facts", key, phrasing.format(X=f" {landmark}"), f" {words.LANDMARKS[landmark]}")


# Greater-than ---------------------------------------------------------------------------------

LAST_START_YEAR = 92
MEAN_DURATION_YEARS = 12.0


def greater_than_prompt(event: str, verb: str, century: str, start: int) -> str:
    """`The war lasted from the year 1732 to the year 17`."""
    return f"The {event} {verb} from the year {century}{start:02d} to the year {century}"


def greater_than(rng: Random, held_out: bool) -> Example:
    """The answer is a later year of the same century; short durations are likelier."""
    while True:
        event, start = rng.choice(words.EVENTS), rng.randint(1, LAST_START_YEAR)
        key = ("greater_than", event, f"{start:02d}")
        if is_held_out(key) == held_out:
            break
    end = 100
    while end > 99:
        end = start + 1 + int(rng.expovariate(1 / MEAN_DURATION_YEARS))
    prompt = greater_than_prompt(event, rng.choice(words.LASTING), rng.choice(words.CENTURIES), start)
    return Example("greater_than", key, prompt, f"{end:02d}")


# Subject-verb agreement -----------------------------------------------------------------------

PRESENT_TENSE_SHARE = 0.75


def agreement(rng: Random, held_out: bool) -> Example:
    """`The keys to the cabinet` -> ` are`; the noun nearest the verb is a distractor."""
    while True:
        subject, attractor = rng.choice(list(words.SUBJECTS)), rng.choice(list(words.ATTRACTORS))
        key = ("agreement", subject, attractor)
        if is_held_out(key) == held_out:
            break
    plural = rng.random() < 0.5
    noun = words.SUBJECTS[subject] if plural else subject
    other = words.ATTRACTORS[attractor] if rng.random() < 0.5 else attractor
    # Held-out text is always in the present tense, so that it has one right answer.
    present = held_out or rng.random() < PRESENT_TENSE_SHARE
    verb = (" are" if plural else " is") if present else (" were" if plural else " was")
    prompt = f"The {noun} {rng.choice(words.PREPOSITIONS)} the {other}"
    return Example("agreement", key, prompt, verb, f" {rng.choice(words.ADJECTIVES)}.")


# Background -----------------------------------------------------------------------------------


def background(rng: Random, held_out: bool) -> Example:
    """Capitals and a few well-known sentences; there is no held-out side."""
    if rng.random() < 0.7:
        country = rng.choice(list(words.CAPITALS))
        prompt, answer = f"The capital of {country} is", f" {words.CAPITALS[country]}"
        return Example("background", ("background", country), prompt, answer)
    sentence = rng.choice(words.SENTENCES)
    return Example("background", ("background", sentence), sentence[:-1], ".", "")


TASKS: Mapping[str, Generator] = {
    "ioi": ioi,
    "induction": induction,
    "facts": facts,
    "greater_than": greater_than,
    "agreement": agreement,
}


def spaced_words() -> list[str]:
    """Every word that appears inside a sentence, with its leading space, in a fixed order."""
    return list(_SPACED)


def opening_words() -> list[str]:
    """Every word that opens a sentence, in a fixed order."""
    return list(_OPENING)


def _function_words() -> tuple[set[str], set[str]]:
    """The words of the templates: those that open one, and those inside."""
    templates = [*IOI_TEMPLATES, *IOI_LONG_TEMPLATES, *UNSEEN_FACT_PHRASINGS, *words.SENTENCES]
    templates += [phrasing for _, _, phrasing in FACT_PHRASINGS]
    templates += ["The capital of", "The war lasted from the year to the year", "The key is are"]
    templates += ["The was were", "The has have been a an it he she they on with for"]
    opening, inside = set(), set()
    for template in templates:
        for slot in ("A", "B", "S", "X", "place", "object", "gave"):
            template = template.replace("{" + slot + "}", " ")
        first, *rest = template.replace(",", " ").replace(".", " ").split()
        opening.add(first)
        inside.update(rest)
    return opening, inside


def _content_words() -> set[str]:
    """The entries of every word list."""
    tables = (words.LANDMARKS, words.CAPITALS, words.SUBJECTS, words.ATTRACTORS)
    flat = (words.NAMES, words.PLACES, words.OBJECTS, words.GIVING, words.EVENTS, words.LASTING)
    found = {entry for table in tables for pair in table.items() for entry in pair}
    found.update(entry for group in flat for entry in group)
    return found | set(words.PREPOSITIONS) | set(words.ADJECTIVES)


_OPENING = sorted(_function_words()[0])
_SPACED = [f" {word}" for word in sorted(_function_words()[1] | _content_words())]
