"""Mistakes with module paths, standard sites and adapters."""

from docs.tools.snippets.snippet import Snippet

SITES = (
    Snippet(
        "A module path that does not exist",
        "PathError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.layers[1].output.save()
""",
        "Paths are those of the wrapped module; [Architectures](families.md) has them.",
    ),
    Snippet(
        "A layer that does not exist",
        "IndexError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[5].output[0].save()
""",
        "This model has four layers.",
    ),
    Snippet(
        "The second item of a block's output",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    cache = model.transformer.h[1].output[1].save()
""",
        "A block's output is the hidden state alone, also where transformers returns a tuple.",
    ),
    Snippet(
        "A standard site that does not exist",
        "PathError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.sites.resid_pots[1].save()
""",
        "`dir(model.sites)` lists the names.",
    ),
    Snippet(
        "A standard site that this architecture has not",
        "PathError",
        """\
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

config = GPTNeoXConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
parallel = LanguageModel(GPTNeoXForCausalLM(config))
with parallel.trace([[1, 2, 3]]):
    middle = parallel.sites.resid_mid[0].save()
""",
        "Attention and MLP of these blocks read the same residual.",
    ),
    Snippet(
        "A layer that a site has not",
        "SiteError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.sites.resid_post[4].save()
""",
        "Layers count from 0.",
    ),
    Snippet(
        "Writing what is read only",
        "SiteError",
        """\
with model.trace("The Louvre is in"):
    model.sites.head_out[1][:, :, 0] = 0
    logits = model.output.save()
""",
        "The contributions of single heads are computed on the side; their inputs `z` can be written.",
    ),
    Snippet(
        "A module that the forward never calls",
        "SiteNotReachedError",
        """\
model.transformer.h[1].extra = nn.Linear(128, 128)
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].extra.output.save()
""",
        "An attached module has values when the trace calls it.",
    ),
    Snippet(
        "A list of modules in the place of one",
        "SiteNotReachedError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h.output.save()
""",
        "A `ModuleList` is never called itself.",
    ),
    Snippet(
        "A site outside of a trace",
        "RecordError",
        """\
hidden = model.transformer.h[1].output
""",
        "Values exist only while the model runs.",
    ),
    Snippet(
        "A site outside of a prompt's block",
        "RecordError",
        """\
with model.trace() as tracer:
    with tracer.invoke("The Louvre is in"):
        logits = model.output.save()
    hidden = model.transformer.h[1].output.save()
""",
        "With several prompts a value belongs to one of them.",
    ),
    Snippet(
        "A site without its layer",
        "SiteError",
        """\
with model.trace("The Louvre is in"):
    model.sites.resid_post = torch.zeros(1, 4, 128)
""",
        "All sites but `embed` and `logits` have a layer.",
    ),
    Snippet(
        "Writing a weight",
        "SiteError",
        """\
with model.trace("The Louvre is in"):
    model.lm_head.weight[0] = 0
    logits = model.output.save()
""",
        "A trace never changes the model for good.",
    ),
    Snippet(
        "Assigning to a module",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    model.transformer.h[1].attn = 0
""",
        "Modules have values, and the values are assigned.",
    ),
    Snippet(
        "An item of an input",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    mask = model.transformer.h[1].input[1].save()
""",
        "`input` is the first argument; `inputs` has them all.",
    ),
    Snippet(
        "A submodule of a list that is there already",
        "ModelError",
        """\
model.transformer.h[1].mlp = nn.Identity()
""",
        "Attaching adds modules, it replaces none. To replace one's result, assign to its `output`.",
    ),
    Snippet(
        "A site behind tracer.stop()",
        "SiteNotReachedError",
        """\
with model.trace("The Louvre is in") as tracer:
    early = model.transformer.h[1].output[0].save()
    tracer.stop()
    late = model.transformer.h[3].output[0].save()

late.norm()
""",
        "What is read before the stop is there.",
    ),
    Snippet(
        "Standard sites of a model without an adapter",
        "ModelError",
        """\
from transformers import CTRLConfig, CTRLLMHeadModel

config = CTRLConfig(vocab_size=50, n_embd=16, dff=24, n_layer=1, n_head=2)
unknown = LanguageModel(CTRLLMHeadModel(config))
with unknown.trace([[1, 2, 3]]):
    hidden = unknown.sites.resid_post[0].save()
""",
        "Module paths work on every model; the names need [an adapter](families.md#your-own-module).",
    ),
    Snippet(
        "Attention whose scores cannot be seen",
        "SiteError",
        """\
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
flex = LanguageModel(LlamaForCausalLM(config), attn_implementation="flex_attention", verify=False)
with flex.trace([[1, 2, 3]]):
    pattern = flex.sites.pattern[0].save()
""",
        "`scores` and `pattern` are read from the masks of `sdpa` and `eager`.",
    ),
    Snippet(
        "What a cache does not hold",
        "NotCachedError",
        """\
with model.trace("The Louvre is in") as tracer:
    cache = tracer.cache(modules=[model.transformer.h[0]])

cache["transformer.h.3"].output
""",
        "A cache holds the modules it was asked for, as far as the forward called them.",
    ),
    Snippet(
        "Inputs in a cache of outputs",
        "SiteError",
        """\
with model.trace("The Louvre is in") as tracer:
    cache = tracer.cache(modules=[model.transformer.h[0]])

cache["transformer.h.0"].inputs
""",
        "Inputs are kept on request.",
    ),
    Snippet(
        "An adapter that does not describe the model",
        "AdapterError",
        """\
from dataclasses import replace

from tracing.families import adapter_of, register
from transformers import GPT2Config, GPT2LMHeadModel


class Wrong(GPT2Config):
    model_type = "wrong"


register(replace(adapter_of("gpt2"), family="wrong", mlp_out="mlp.c_fc"))
LanguageModel(GPT2LMHeadModel(Wrong(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)))
""",
        "Loading checks each adapter on the weights; here `mlp_out` names the wrong module.",
    ),
    Snippet(
        "An adapter with a wrong part",
        "AdapterError",
        """\
from dataclasses import replace

from tracing.families import HeadSlice, adapter_of, register
from transformers import GPT2Config, GPT2LMHeadModel


class Turned(GPT2Config):
    model_type = "turned"


k_and_v_exchanged = {"k": HeadSlice("attn.c_attn", 2, 3), "v": HeadSlice("attn.c_attn", 1, 3)}
register(replace(adapter_of("gpt2"), family="turned", **k_and_v_exchanged))
LanguageModel(GPT2LMHeadModel(Turned(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)))
""",
        "The paths exist, but the identities do not hold. The report says which ones.",
    ),
    Snippet(
        "An adapter whose family is taken",
        "ValueError",
        """\
from tracing.families import adapter_of, register

register(adapter_of("gpt2"))
""",
        "Those that come with the library are not replaced.",
    ),
    Snippet(
        "A checkpoint with a layout of its own",
        "ModelError",
        """\
from transformers import OPTConfig, OPTForCausalLM

config = OPTConfig(
    vocab_size=50, hidden_size=16, word_embed_proj_dim=8, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2
)
opt_350m = LanguageModel(OPTForCausalLM(config))
""",
        "Pass `verify=False`, and name modules by their paths.",
    ),
    Snippet(
        "An attached module that is called once and read twice",
        "SiteNotReachedError",
        """\
model.transformer.h[1].extra = nn.Linear(128, 128)
with model.trace("The Louvre is in"):
    block = model.transformer.h[1]
    block.output = block.extra(block.output)
    second = block.extra.next().output.save()
""",
        "Each call in the trace gives one output.",
    ),
    Snippet(
        "A site that a scan does not find",
        "SiteNotReachedError",
        """\
with model.scan("The Louvre is in"):
    hidden = model.transformer.h.output.save()
""",
        "A scan says so at the line itself.",
    ),
    Snippet(
        "Attention that is not one of transformers'",
        "SiteError",
        """\
from dataclasses import replace

from tracing.families import adapter_of, register
from transformers import GPT2Config, GPT2LMHeadModel


class Odd(GPT2Config):
    model_type = "odd"


register(replace(adapter_of("gpt2"), family="odd", attn="mlp"))
config = Odd(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
odd = LanguageModel(GPT2LMHeadModel(config), verify=False)
with odd.trace([[1, 2, 3]]):
    pattern = odd.sites.pattern[0].save()
""",
        "An adapter of one's own names such a pattern with `pattern_item`, or leaves it out with `sites=PLAIN_SITES`.",
    ),
    Snippet(
        "The first argument of a module that has none",
        "AttributeError",
        """\
class Constant(nn.Module):
    def forward(self):
        return torch.ones(1)


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.constant = Constant()

    def forward(self, x):
        return x + self.constant()


with Model(Sum()).trace(x) as tracer:
    first = tracer.model.constant.input.save()
""",
        "`inputs` is there for every module.",
    ),
)
