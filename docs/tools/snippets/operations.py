"""Mistakes with operations, shapes and gradients."""

from docs.tools.snippets.snippet import Snippet

OPERATIONS = (
    Snippet(
        "Shapes that do not fit",
        "RuntimeError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0]
    twice = (hidden @ hidden).save()
""",
        "torch's own error, with the line that recorded the operation, its site and the shapes.",
    ),
    Snippet(
        "The same, found while recording",
        "RuntimeError",
        """\
with model.trace("The Louvre is in", validate=True):
    hidden = model.transformer.h[1].output[0]
    twice = (hidden @ hidden).save()
""",
        "`validate=True` runs each operation on fake tensors at its own line, before the model runs.",
    ),
    Snippet(
        "A value of the wrong shape",
        "RuntimeError",
        """\
with model.trace("The Louvre is in"):
    model.transformer.h[1].output[0][:] = torch.zeros(3, 7)
    logits = model.output.save()
""",
        "A write must fit what it is written to.",
    ),
    Snippet(
        "An operation that a graph cannot hold",
        "OperationError",
        """\
with model.trace("The Louvre is in"):
    values = model.output[0, -1].tolists()
""",
        "A graph holds operations of a fixed table. `tracer.apply` runs anything else, on this machine.",
    ),
    Snippet(
        "An argument that a graph cannot hold",
        "OperationError",
        """\
with model.trace("The Louvre is in"):
    scaled = (model.output * object()).save()
""",
        "Tensors, numbers, text, slices and proxies can be arguments.",
    ),
    Snippet(
        "A whole output of another shape",
        "ValueError",
        """\
with model.trace("The Louvre is in"):
    model.transformer.h[1].output = torch.zeros(1, 128)
    logits = model.output.save()
""",
        "The model goes on with what is assigned, so its shape must be the site's.",
    ),
    Snippet(
        "The same with several prompts",
        "ValueError",
        """\
with model.trace() as tracer:
    with tracer.invoke("The Louvre is in"):
        logits = model.output.save()
    with tracer.invoke("The Prado is in"):
        model.transformer.h[1].mlp.output = torch.zeros(2, 4, 128)
""",
        "A prompt's block has that prompt's rows only.",
    ),
    Snippet(
        "An output that is no tensor any more",
        "TypeError",
        """\
with model.trace("The Louvre is in"):
    model.transformer.h[1].mlp.output = "nothing"
    logits = model.output.save()
""",
        "Numbers fill the site; other values cannot stand in for a tensor.",
    ),
    Snippet(
        "What all prompts share, changed for one",
        "ValueError",
        """\
with model.trace() as tracer:
    with tracer.invoke("The Louvre is in"):
        model.transformer.wpe.output[:] = 0
    with tracer.invoke("The Prado is in"):
        logits = model.output.save()
""",
        "GPT-2 computes one position embedding for the whole batch.",
    ),
    Snippet(
        "A field that the output has not",
        "AttributeError",
        """\
with model.trace("The Louvre is in"):
    loss = model.output.loss.save()
""",
        "There is a loss where `labels=` are given.",
    ),
    Snippet(
        "An operation with an effect",
        "OperationError",
        """\
with model.trace("The Louvre is in"):
    hidden = torch.nn.functional.relu(model.transformer.h[1].output[0], inplace=True)
""",
        "What a trace changes, it changes by a write that can be seen.",
    ),
    Snippet(
        "A number beyond 64 bits",
        "OverflowError",
        """\
with model.trace("The Louvre is in"):
    count = (model.output.shape[1] * 10**18 * 10).save()
""",
        "Whole numbers of a trace have the range of torch's.",
    ),
    Snippet(
        "A tensor without end",
        "ValueError",
        """\
with model.trace("The Louvre is in"):
    many = torch.arange(model.output.shape[1] * 10**10).save()
""",
        "A stored graph must not be able to fill the memory by one number.",
    ),
    Snippet(
        "A write through a copy",
        "ValueError",
        """\
with model.trace("The Louvre is in"):
    model.transformer.h[1].output.transpose(1, 2).flatten()[:10] = 0
    logits = model.output.save()
""",
        "Some views cannot be views: torch copies, and what is written there would be lost.",
    ),
    Snippet(
        "Several values of a module, with several prompts",
        "TypeError",
        """\
with model.trace() as tracer:
    with tracer.invoke("The Louvre is in"):
        attn = model.transformer.h[1].attn
        attn.output = (torch.zeros(1, 4, 128), None)
    with tracer.invoke("The Prado is in"):
        logits = model.output.save()
""",
        "Attention returns a tuple; `attn.output[0][:] = value` writes its first item.",
    ),
    Snippet(
        "Arithmetic with what is no number",
        "TypeError",
        """\
with model.trace("The Louvre is in"):
    more = (model.transformer.h[1].inputs + 1).save()
""",
        "`inputs` is `(args, kwargs)`; `input` is the tensor.",
    ),
    Snippet(
        "Comparing what is no number",
        "TypeError",
        """\
with model.trace("The Louvre is in"):
    larger = (model.transformer.h[1].inputs > 1).save()
""",
        "As above.",
    ),
    Snippet(
        "A loss of many numbers in a checked trace",
        "RuntimeError",
        """\
with model.trace("The Louvre is in", validate=True):
    hidden = model.transformer.h[1].output[0]
    hidden.retain_grad()
    model.output.backward()
""",
        "The same as without `validate`, at the line itself.",
    ),
    Snippet(
        "A model whose shapes depend on numbers",
        "TraceError",
        """\
class Chooses(nn.Module):
    def forward(self, x):
        return x[x > 0] if x.sum() > 0 else x


with Model(Chooses()).scan(x) as tracer:
    out = tracer.model.output.save()
""",
        "Some mixtures of experts are such models. Run the trace.",
    ),
    Snippet(
        "A power beyond 64 bits",
        "OverflowError",
        """\
with model.trace("The Louvre is in"):
    count = (10 ** model.output.shape[2]).save()
""",
        "Take the power of a tensor, or its logarithm.",
    ),
    Snippet(
        "A tuple of another length",
        "TypeError",
        """\
with model.trace("The Louvre is in"):
    model.transformer.h[1].attn.output = torch.zeros(1, 4, 128)
    logits = model.output.save()
""",
        "Attention returns its output and its pattern.",
    ),
    Snippet(
        "Setting all positional arguments to one value",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    model.transformer.h[1].input[0] = torch.zeros(1, 4, 128)
""",
        "`input` itself is the tensor; `input[0]` is the tuple that it is in.",
    ),
    Snippet(
        "A value as the key of a dict",
        "OperationError",
        """\
with model.trace("The Louvre is in") as tracer:
    top = model.output[0, -1].argmax()
    names = tracer.apply(len, {top: "city"}).save()
""",
        "A key must be known when the dict is made.",
    ),
)
