"""docs/families.md: a section for each architecture, its tables made of the adapters, its example run by the tests.

The tables cannot rot: paths come from `Adapter.site`, and every site is read on the tiny model for its shape.
"""

import re
import textwrap
from typing import Any, Final

from docs.tools.family_notes import NOTES, Note
from docs.tools.pages import DOCS
from tests import zoo
from tracing import LanguageModel, VisionModel
from tracing.families import Adapter, SitePath
from tracing.families.sites import GLOBAL_SITES

PAGE: Final = DOCS / "families.md"
PARTS: Final = ("backbone", "final_norm", "unembed")
IN_BLOCK: Final = ("norm_attn", "attn", "out_proj", "norm_mlp", "mlp")
NAMES: Final = {
    "backbone": "backbone",
    "final_norm": "final norm",
    "unembed": "unembedding",
    "norm_attn": "norm before attention",
    "attn": "attention",
    "out_proj": "output projection W_O",
    "norm_mlp": "norm before the MLP",
    "mlp": "MLP",
}
ORDER: Final = (
    "embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "cross_out", "mlp_out", "mixer_out",
    "q", "k", "v", "q_rot", "k_rot", "scores", "pattern", "z", "head_out", "logits",
)  # fmt: skip
FUSED: Final = {"q": "the queries", "k": "the keys", "v": "the values"}
INTRODUCTION: Final = """\
# Architectures

<!-- Made by docs/tools/families.py (make docs-pages). Edit docs/tools/family_notes.py instead. -->

Where the standard sites are in each model type, as module paths, and what to watch for. The tables are made of the
adapters in `tracing/families/`; `tracing.families.check` proves an adapter on the weights of a model when it is loaded.
The examples run on tiny random models, which `tests/zoo.py` builds from the configuration classes of transformers: run
them from the root of the repository, where `tests` can be imported. With a model of yours, only the first line of an
example changes, and nothing of `tests` is needed.

```python
import torch
from tests.zoo import ids as example_ids
from tests.zoo import model as tiny
from tracing import LanguageModel, Model, VisionModel

ids = example_ids()
print(ids.shape)
```

"""
OWN: Final = """\
## Your own module

Raw module paths work on any `nn.Module`:

```python
class Attention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (torch.nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(later, float("-inf")).softmax(-1)
        return self.out((pattern @ v).transpose(1, 2).flatten(-2)), pattern


class Block(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln1, self.ln2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(width, 40), torch.nn.GELU(), torch.nn.Linear(40, width))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))[0]
        return x + self.mlp(self.ln2(x))


class Mine(torch.nn.Module):
    config = {
        "model_type": "mine",
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 97,
        "max_position_embeddings": 48,
        "intermediate_size": 40,
    }

    def __init__(self):
        super().__init__()
        self.embed, self.pos = torch.nn.Embedding(97, 32), torch.nn.Embedding(48, 32)
        self.layers = torch.nn.ModuleList(Block(32, 4) for _ in range(2))
        self.unembed = torch.nn.Linear(32, 97)

    def forward(self, input_ids):
        x = self.embed(input_ids) + self.pos(torch.arange(input_ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.unembed(x)


torch.manual_seed(0)
mine = Mine()
model = Model(mine)
with model.trace(ids):
    model.layers[0].attn.output[0][:, -1] = 0
    hidden = model.layers[1].output.save()

print(hidden.shape)
```

For the standard sites, say once where they are. An adapter is data: module paths from the model, then paths from one
block.

```python
from tracing.families import Adapter, Weights, register, separate

register(
    Adapter(
        family="mine",  # config["model_type"]
        backbone="",  # the module itself maps ids to logits
        embeddings=("embed", "pos"),  # their outputs are added up
        blocks="layers",
        unembed="unembed",
        norm_attn="ln1",
        attn="attn",
        **separate("attn.q", "attn.k", "attn.v"),
        out_proj="attn.out",
        norm_mlp="ln2",
        mlp="mlp",
        weights=Weights(learned_positions=True),
    )
)
model = LanguageModel(mine)
with model.trace(ids):
    z = model.sites.z[1].save()

print(z.shape)
```

Loading has checked the adapter's claims on the weights. `check` says what holds:

```python
from tracing.families import check

report = check(LanguageModel(mine.double()))
for identity in report.identities:
    print("holds" if identity.holds else "FAILS", identity.formula)
print(*report.unchecked, sep="\\n")
```

`print(report)` also says how exactly each one holds.

`HeadSlice` has the layouts of fused projections (interleaved within heads, grouped, multi-query, unequal parts); see
the [API](api.md) and the adapters in `tracing/families/` for examples.
"""


def page() -> str:
    """The whole page, without outputs."""
    made = [(note, wrapped(note)) for note in NOTES]
    sections = [section(note, model) for note, model in made]
    return INTRODUCTION + overview(made) + "\n" + "\n".join(sections) + "\n" + OWN


def wrapped(note: Note) -> Any:
    """The tiny model of a section."""
    return (VisionModel if note.zoo == "vit" else LanguageModel)(zoo.model(note.zoo))


def overview(made: list[tuple[Note, Any]]) -> str:
    """One row a family."""
    rows = ["| Architecture | `model_type` | Blocks | Residual | Without |", "|---|---|---|---|---|"]
    for note, model in made:
        adapter = model.adapter
        stacks = [stack.blocks for stack in (adapter.encoder, adapter) if stack]
        missing = [name for name in ("resid_mid", "z", "pattern", "mlp_out") if name not in adapter.sites]
        rows.append(
            f"| [{note.title}](#{anchor(note.title)}) | `{adapter.family}` "
            f"| {', '.join(f'`{blocks}`' for blocks in stacks)} "
            f"| {adapter.residual.replace('_', '-')} | {', '.join(f'`{name}`' for name in missing) or '–'} |"
        )
    return "\n".join(rows) + "\n"


def section(note: Note, model: Any) -> str:
    """Heading, notes, tables and example of one family."""
    text = textwrap.fill(note.text, 120, break_long_words=False, break_on_hyphens=False)
    return (
        f"## {note.title}\n\n{text}\n\n{modules(model.adapter)}\n\n{sites(model, note)}\n\n"
        f"```python\n{note.example}```\n"
    )


def modules(adapter: Adapter) -> str:
    """Where the modules are."""
    whole = [(NAMES[part], f"model.{getattr(adapter, part)}") for part in PARTS if getattr(adapter, part)]
    block = [(NAMES[part], f"block.{getattr(adapter, part)}") for part in IN_BLOCK if getattr(adapter, part)]
    stacks = [("block", f"model.{adapter.blocks}[i]")]
    if adapter.encoder:
        stacks.append(("encoder_block", f"model.{adapter.encoder.blocks}[i]"))
    rows = [f"| {name} | `{path}` |" for name, path in (*stacks, *whole, *block)]
    return "\n".join(["| Module | Path |", "|---|---|", *rows])


def sites(model: Any, note: Note) -> str:
    """Every site with its place and its shape on the tiny model."""
    adapter: Adapter = model.adapter
    shapes = shapes_of(model, note)
    rows = ["| Site | Is | Shape here |", "|---|---|---|"]
    for name in sorted(adapter.all_sites, key=_order):
        layer = None if _plain(name) in GLOBAL_SITES else 1
        place = described(adapter, name, adapter.site(name, layer, model.facts))
        rows.append(f"| `{name}` | {place} | `{shapes[name]}` |")
    return "\n".join(rows)


def _plain(name: str) -> str:
    return name.removeprefix("encoder_")


def _order(name: str) -> tuple[bool, int]:
    return name.startswith("encoder_"), ORDER.index(_plain(name))


def shapes_of(model: Any, note: Note) -> dict[str, list[int]]:
    """The shape of every site, each read in a trace of the tiny model."""
    saved = {}
    with model.trace(**zoo.example_inputs(note.zoo)):
        for name in model.adapter.all_sites:
            site = getattr(model.sites, name)
            saved[name] = (site if _plain(name) in GLOBAL_SITES else site[1]).save()
    return {name: list(tensor.shape) for name, tensor in saved.items()}


def described(adapter: Adapter, name: str, site: SitePath) -> str:
    """A site's place in words: `output of block.attn`."""
    path = f"model.{site.path}".rstrip(".").replace(f"model.{adapter.blocks}.1", "block")
    if adapter.encoder:
        path = path.replace(f"model.{adapter.encoder.blocks}.1", "encoder_block")
    module = "`" + re.sub(r"[.]([0-9]+)", r"[\1]", path) + "`"
    if site.kind == "head_out":
        return f"input of {module} times its weight, by head; read only"
    if site.kind not in ("output", "inputs"):
        return f"inside the attention of {module}"
    side = "input of" if site.kind == "inputs" else "output of"
    if name.removeprefix("encoder_") in FUSED and module in _fused(adapter):
        return f"{side} {module}: {FUSED[name]}, by head"
    return f"{side} {module}" + (", by head" if any(step[0] == "heads" for step in site.steps) else "")


def _fused(adapter: Adapter) -> set[str]:
    """The projection that q, k and v share, if they do."""
    paths = {part.path for part in (adapter.q, adapter.k, adapter.v)}
    return {f"`block.{path}`" for path in paths} if len(paths) == 1 else set()


def anchor(title: str) -> str:
    """The id that mkdocs gives a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
