"""What docs/errors.md shows: small mistakes, each really made, and one sentence on what to do instead.

`SETUP` runs first, in a namespace of its own; each snippet gets a fresh copy of its names.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snippet:
    """One mistake. `raises` is the error's class, "" where it is a warning."""

    title: str
    raises: str
    code: str
    text: str


SETUP = """\
import torch
from torch import nn
from tracing import LanguageModel, Model
from tracing.demo import MODEL_DIR

model = LanguageModel(MODEL_DIR)
torch.manual_seed(0)
net = Model(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
x = torch.ones(1, 3)
"""

SNIPPETS: dict[str, tuple[Snippet, ...]] = {
    "Values": (
        Snippet(
            "Reading a value that was not saved",
            "NotSavedError",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h[1].output[0]\n\nhidden.norm()\n',
            "Only what `.save()` marked is kept.",
        ),
        Snippet(
            "Reading a value inside its trace",
            "NotSavedError",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h[1].output[0].save()\n'
            "    hidden.value\n",
            "The value is there when the block has ended.",
        ),
        Snippet(
            "Using a value that is not there yet",
            "RecordError",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h[1].output[0]\n'
            "    if hidden.norm() > 10:\n        hidden[:] = 0\n",
            "A condition on a value is a `with tracer.cond(...)` block, or `torch.where`.",
        ),
        Snippet(
            "The length of a value",
            "RecordError",
            'with model.trace("The Louvre is in"):\n    logits = model.output\n    last = len(logits[0]) - 1\n',
            "Here `logits[0, -1]` needs no length.",
        ),
        Snippet(
            "A loop over a value",
            "RecordError",
            'with model.trace("The Louvre is in"):\n    for row in model.output:\n        row.save()\n',
            "Loop over numbers, and index.",
        ),
        Snippet(
            "A value as a Python number",
            "RecordError",
            'with model.trace("The Louvre is in"):\n    largest = float(model.output.max())\n',
            "Save it and convert it after the block.",
        ),
        Snippet(
            "Formatting a value inside the trace",
            "RecordError",
            'with model.trace("The Louvre is in"):\n    print(f"{model.output.max():.2f}")\n',
            "`print(proxy)` alone shows what it stands for; numbers come after the block.",
        ),
        Snippet(
            "A value that has no effect",
            "",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h[1].output[0] * 0\n'
            "    logits = model.output.save()\n",
            "`hidden *= 0` or `hidden[:] = 0` changes the model; `x * 0` only makes a value.",
        ),
        Snippet(
            "A value written into a plain tensor",
            "RecordError",
            'rows = torch.zeros(2, 128)\nwith model.trace("The Louvre is in"):\n'
            "    rows[0] = model.transformer.h[1].output[0][0, -1]\n",
            "The tensor exists now and the value only later.",
        ),
        Snippet(
            "Writing after the trace",
            "RecordError",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h[1].output[0]\n\nhidden[:] = 0\n',
            "The model has run; a write must be inside the block.",
        ),
    ),
    "Sites and paths": (
        Snippet(
            "A module path that does not exist",
            "PathError",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.layers[1].output.save()\n',
            "Paths are those of the wrapped module; [Architectures](families.md) has them.",
        ),
        Snippet(
            "A layer that does not exist",
            "IndexError",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h[5].output[0].save()\n',
            "This model has four layers.",
        ),
        Snippet(
            "The second item of a block's output",
            "RecordError",
            'with model.trace("The Louvre is in"):\n    cache = model.transformer.h[1].output[1].save()\n',
            "A block's output is the hidden state alone, also where transformers returns a tuple.",
        ),
        Snippet(
            "A standard site that does not exist",
            "SiteError",
            'with model.trace("The Louvre is in"):\n    hidden = model.sites.resid_pots[1].save()\n',
            "`dir(model.sites)` lists the names.",
        ),
        Snippet(
            "A standard site that this architecture has not",
            "SiteError",
            "from transformers import GPTNeoXConfig, GPTNeoXForCausalLM\n\n"
            "config = GPTNeoXConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,"
            " intermediate_size=24)\nparallel = LanguageModel(GPTNeoXForCausalLM(config))\n"
            "with parallel.trace([[1, 2, 3]]):\n    middle = parallel.sites.resid_mid[0].save()\n",
            "Attention and MLP of these blocks read the same residual.",
        ),
        Snippet(
            "A layer that a site has not",
            "SiteError",
            'with model.trace("The Louvre is in"):\n    hidden = model.sites.resid_post[4].save()\n',
            "Layers count from 0.",
        ),
        Snippet(
            "Writing what is read only",
            "SiteError",
            'with model.trace("The Louvre is in"):\n    model.sites.head_out[1][:, :, 0] = 0\n'
            "    logits = model.output.save()\n",
            "The contributions of single heads are computed on the side; their inputs `z` can be written.",
        ),
        Snippet(
            "A module that the forward never calls",
            "SiteNotReachedError",
            "model.transformer.h[1].extra = nn.Linear(128, 128)\n"
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h[1].extra.output.save()\n',
            "An attached module has values when the trace calls it.",
        ),
        Snippet(
            "A list of modules in the place of one",
            "SiteNotReachedError",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h.output.save()\n',
            "A `ModuleList` is never called itself.",
        ),
        Snippet(
            "A site outside of a trace",
            "RecordError",
            "hidden = model.transformer.h[1].output\n",
            "Values exist only while the model runs.",
        ),
        Snippet(
            "A site outside of a prompt's block",
            "RecordError",
            'with model.trace() as tracer:\n    with tracer.invoke("The Louvre is in"):\n'
            "        logits = model.output.save()\n    hidden = model.transformer.h[1].output.save()\n",
            "With several prompts a value belongs to one of them.",
        ),
    ),
    "Order": (
        Snippet(
            "A write that needs a later value",
            "CausalityError",
            'with model.trace("The Louvre is in"):\n    late = model.transformer.h[3].output[0]\n'
            "    model.transformer.h[1].output[0][:] = late\n    logits = model.output.save()\n",
            "Found before the model runs. Take the value in a trace of its own, or in another invoke.",
        ),
        Snippet(
            "A generation step that did not happen",
            "StepNotReachedError",
            'with model.generate("The Eiffel Tower is in", max_new_tokens=8) as tracer:\n'
            "    for step in tracer.iter[5:6]:\n        logits = model.output.save()\n\nlogits.shape\n",
            "The model ended its text before; what the other steps saved is there.",
        ),
        Snippet(
            "A generation step that cannot happen",
            "RecordError",
            'with model.generate("The Louvre is in", max_new_tokens=2) as tracer:\n'
            "    for step in tracer.iter[4]:\n        logits = model.output.save()\n",
            "Two new tokens are steps 0 and 1.",
        ),
    ),
    "Operations": (
        Snippet(
            "Shapes that do not fit",
            "RuntimeError",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h[1].output[0]\n'
            "    twice = (hidden @ hidden).save()\n",
            "torch's own error, with the line that recorded the operation, its site and the shapes.",
        ),
        Snippet(
            "The same, found while recording",
            "RuntimeError",
            'with model.trace("The Louvre is in", validate=True):\n    hidden = model.transformer.h[1].output[0]\n'
            "    twice = (hidden @ hidden).save()\n",
            "`validate=True` runs each operation on fake tensors at its own line, before the model runs.",
        ),
        Snippet(
            "A value of the wrong shape",
            "RuntimeError",
            'with model.trace("The Louvre is in"):\n    model.transformer.h[1].output[0][:] = torch.zeros(3, 7)\n'
            "    logits = model.output.save()\n",
            "A write must fit what it is written to.",
        ),
        Snippet(
            "An operation that a graph cannot hold",
            "OperationError",
            'with model.trace("The Louvre is in"):\n    values = model.output[0, -1].tolists()\n',
            "A graph holds operations of a fixed table. `tracer.apply` runs anything else, on this machine.",
        ),
        Snippet(
            "An argument that a graph cannot hold",
            "OperationError",
            'with model.trace("The Louvre is in"):\n    scaled = (model.output * object()).save()\n',
            "Tensors, numbers, text, slices and proxies can be arguments.",
        ),
    ),
    "Stored graphs": (
        Snippet(
            "A function in a graph that is to be stored",
            "GraphFormatError",
            "from tracing.graph import codec\n\n"
            'with model.trace("The Louvre is in") as tracer:\n'
            "    words = tracer.apply(torch.Tensor.tolist, model.output).save()\n\ncodec.dumps(tracer.graph)\n",
            "A stored graph holds operations, never code.",
        ),
        Snippet(
            "A file that is no edit",
            "GraphFormatError",
            "from tracing.graph import codec\n\n"
            'with model.trace("The Louvre is in") as tracer:\n    logits = model.output.save()\n\n'
            'codec.save(tracer.graph, "trace.json")\nmodel.load_edits("trace.json")\n',
            "Edits are stored with `edited.save_edits(...)`.",
        ),
        Snippet(
            "An edit that changes nothing",
            "RecordError",
            "with model.edit() as edited:\n    hidden = edited.transformer.h[1].output[0]\n    hidden * 0\n",
            "Write to the model: `hidden *= 0`.",
        ),
    ),
    "Gradients": (
        Snippet(
            "A gradient that cannot be reached",
            "GradientError",
            'with model.trace("The Louvre is in"):\n    late = model.transformer.h[3].output[0]\n'
            "    loss = model.transformer.h[1].output[0].sum()\n    loss.backward()\n"
            "    gradient = late.grad.save()\n",
            "The loss does not depend on the value.",
        ),
        Snippet(
            "A gradient without a backward",
            "GradientError",
            'with model.trace("The Louvre is in"):\n    hidden = model.transformer.h[1].output[0]\n'
            "    gradient = hidden.grad.save()\n",
            "A gradient is of some loss.",
        ),
        Snippet(
            "The backward of more than one number",
            "GradientError",
            'with model.trace("The Louvre is in"):\n    model.output.backward()\n',
            "Reduce it to one number first.",
        ),
    ),
    "Calls": (
        Snippet(
            "A misspelt option",
            "TypeError",
            'with model.trace("The Louvre is in", remot=True):\n    logits = model.output.save()\n',
            "Nothing runs locally by accident.",
        ),
        Snippet(
            "A trace without with",
            "",
            'model.trace("The Louvre is in")\n',
            "Nothing is recorded without a block.",
        ),
        Snippet(
            "A prompt twice",
            "RecordError",
            'with model.trace("The Louvre is in") as tracer:\n    with tracer.invoke("The Prado is in"):\n'
            "        logits = model.output.save()\n",
            "Either the trace has a prompt, or its invokes have.",
        ),
        Snippet(
            "No prompt at all",
            "RecordError",
            "with model.trace():\n    logits = model.output.save()\n",
            "A trace without invokes needs inputs.",
        ),
        Snippet(
            "Remote execution without a server",
            "RemoteError",
            'with model.trace("The Louvre is in", remote=True):\n    logits = model.output.save()\n',
            "A trace marked `remote=True` never runs here.",
        ),
        Snippet(
            "A model that is not there",
            "ModelError",
            'LanguageModel("./no-such-folder")\n',
            "A folder, or an id of the hub.",
        ),
        Snippet(
            "Another engine",
            "ModelError",
            'LanguageModel(MODEL_DIR, engine="warp")\n',
            "The engines are listed.",
        ),
        Snippet(
            "A prompt that is too long",
            "PromptError",
            'with model.trace("The Louvre is in " * 60):\n    logits = model.output.save()\n',
            "This model has 128 positions.",
        ),
    ),
}
