"""Models and plain hooks for the tests of the tracing core: what a user would write without the library.

The folders lie under the names the seed document uses, so its examples run as written from the folder above them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS: Final = (
    "The", "Hello",
    *(f"Ġ{word}" for word in (
        "capital", "of", "France", "is", "Tower", "in", "cat", "sat", "on", "the", "dog", "ran", "through", "quick",
        "brown", "fox", "jumps", "meaning", "life", "Paris", "Rome", "city", "a", "and", "world",
    )),
)  # fmt: skip
PIECES: Final = ("ĠE", "iff", "el", "ĠCol", "os", "se", "um")
"""Of "Eiffel" and "Colosseum", as GPT-2 splits them: both of the document's prompts have seven tokens."""
END: Final = "<|endoftext|>"


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, made from a list of words instead of a corpus."""
    merges: dict[tuple[str, str], None] = {}
    for word in (*WORDS, *PIECES):
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
    tokens = dict.fromkeys([END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)])
    bpe = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, list(merges)))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, bos_token=END, unk_token=END)


TOKENIZER: Final = tokenizer()
VOCABULARY: Final = len(TOKENIZER)
_SIZES: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def gpt2(layers: int = 4) -> nn.Module:
    """GPT-2, four heads, width 32."""
    return _random(
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=VOCABULARY, n_layer=layers, n_embd=32, n_head=4, n_positions=40, bos_token_id=0, eos_token_id=0
        ),
    )


def llama(layers: int = 3) -> nn.Module:
    """LLaMA, four query heads over two key-value heads."""
    return _random(LlamaForCausalLM, LlamaConfig(num_hidden_layers=layers, num_key_value_heads=2, **_SIZES))


def mistral() -> nn.Module:
    """Mistral, three layers."""
    return _random(MistralForCausalLM, MistralConfig(num_hidden_layers=3, num_key_value_heads=2, **_SIZES))


def gpt_neox() -> nn.Module:
    """GPT-NeoX, three layers."""
    return _random(GPTNeoXForCausalLM, GPTNeoXConfig(num_hidden_layers=3, **_SIZES))


def falcon() -> nn.Module:
    """Falcon, three layers: its blocks return a tuple."""
    sizes = {name: value for name, value in _SIZES.items() if name not in ("intermediate_size",)}
    return _random(FalconForCausalLM, FalconConfig(num_hidden_layers=3, **sizes))


def bloom() -> nn.Module:
    """BLOOM, three layers: its blocks return a tuple."""
    return _random(
        BloomForCausalLM,
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0),
    )


def _random(kind: Any, config: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module = kind(config)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return module.eval()


def save(module: Any, folder: Path) -> Path:
    """Write a model and the tokenizer."""
    folder.mkdir(parents=True)
    module.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def ids(text: str | Sequence[str]) -> Tensor:
    """Token ids `[batch, position]` of texts of one length."""
    return torch.tensor(TOKENIZER([text] if isinstance(text, str) else list(text))["input_ids"])


def hidden(value: Any) -> Tensor:
    """A module's tensor, also where it returns a tuple."""
    return value[0] if isinstance(value, tuple) else value


def run(
    module: nn.Module,
    tokens: Tensor,
    *,
    reads: Sequence[str] = (),
    writes: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    grad: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and outputs of a forward with plain torch hooks; `reads` see what `writes` left."""
    found: dict[str, Tensor] = {}

    def edit(change: Callable[[Tensor], Tensor]) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            new = change(hidden(output).clone())
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    def note(path: str) -> Any:
        return lambda _, __, output: found.__setitem__(path, hidden(output))

    with ExitStack() as stack:
        for path, change in (writes or {}).items():
            stack.enter_context(module.get_submodule(path).register_forward_hook(edit(change)))
        for path in reads:
            stack.enter_context(module.get_submodule(path).register_forward_hook(note(path)))
        with torch.set_grad_enabled(grad):
            logits: Tensor = module(input_ids=tokens, use_cache=False, **kwargs).logits
    return logits, found


def zeroed(tensor: Tensor) -> Tensor:
    """A write that sets everything to zero."""
    return torch.zeros_like(tensor)


def close(left: Any, right: Tensor) -> None:
    """Equal up to rounding: 1e-12 in fp64."""
    left = getattr(left, "value", left)
    tolerance = 1e-12 if right.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def hooks_in(module: nn.Module) -> int:
    """Hooks of any kind on a module and all below it."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


def line_of(file: str, marker: str) -> int:
    """The number of the one line of a file that ends in `# marker`."""
    found = [n for n, text in enumerate(Path(file).read_text().splitlines(), 1) if text.endswith(f"# {marker}")]
    assert len(found) == 1, (marker, found)
    return found[0]


class Net(nn.Module):
    """Four named layers, `first` to `last`, with a branch that no forward takes; float64, no randomness."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.first = nn.Linear(4, width)
            self.second = nn.Sequential(nn.Linear(width, width), nn.Tanh())
            self.third = nn.Linear(width, width)
            self.unused = nn.Linear(width, width)
            self.last = nn.Linear(width, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        hidden = hidden + self.second(hidden)
        last: Tensor = self.last(self.third(hidden))
        return last


def rows(count: int = 2, seed: int = 0) -> Tensor:
    """Inputs of `Net`, `[batch, 4]`."""
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def outputs(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What every submodule returns in one forward without gradients, by path; the module's own under ""."""
    found: dict[str, Any] = {}
    with ExitStack() as stack, torch.no_grad():
        for path, part in module.named_modules():
            stack.enter_context(part.register_forward_hook(lambda _, __, out, path=path: found.update({path: out})))
        module(*args, **kwargs)
    return found


def calls(module: nn.Module) -> tuple[list[str], ExitStack]:
    """A list that fills with the paths of submodules as they are called on numbers, until the stack is closed."""
    names: list[str] = []
    stack = ExitStack()

    def noting(path: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            if not any(isinstance(value, FakeTensor) for value in given):
                names.append(path)

        return hook

    for path, part in module.named_modules():
        stack.enter_context(part.register_forward_pre_hook(noting(path), with_kwargs=True))
    return names, stack
