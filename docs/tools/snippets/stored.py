"""Mistakes with edits and stored graphs."""

from docs.tools.snippets.snippet import Snippet

STORED = (
    Snippet(
        "A function in a graph that is to be stored",
        "GraphFormatError",
        """\
from tracing.graph import codec

with model.trace("The Louvre is in") as tracer:
    words = tracer.apply(torch.Tensor.tolist, model.output).save()

codec.dumps(tracer.graph)
""",
        "A stored graph holds operations, never code.",
    ),
    Snippet(
        "A file that is no edit",
        "GraphFormatError",
        """\
from tracing.graph import codec

with model.trace("The Louvre is in") as tracer:
    logits = model.output.save()

codec.save(tracer.graph, "trace.json")
model.load_edits("trace.json")
""",
        "Edits are stored with `edited.save_edits(...)`.",
    ),
    Snippet(
        "Edits to a folder that is not there",
        "ModelError",
        """\
with model.edit() as edited:
    model.transformer.h[0].output[:, -1] = 0

edited.save_edits("nowhere/edits.json")
""",
        "A folder is made first.",
    ),
    Snippet(
        "An edit that changes nothing",
        "RecordError",
        """\
with model.edit() as edited:
    hidden = edited.transformer.h[1].output[0]
    hidden * 0
""",
        "Write to the model: `hidden *= 0`.",
    ),
    Snippet(
        "An edit inside a trace",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    with model.edit() as edited:
        edited.transformer.h[1].output[0][:] = 0
""",
        "Edits are made before; a trace writes by itself.",
    ),
    Snippet(
        "An edit that saves",
        "RecordError",
        """\
with model.edit() as edited:
    edited.transformer.h[1].output[0][:] = 0
    logits = edited.output.save()
""",
        "An edit has no prompt, so it has no values to keep.",
    ),
    Snippet(
        "Storing no edits",
        "TraceError",
        """\
model.save_edits("edits.json")
""",
        "The model that `model.edit()` gave has the edits, not the one it was made of.",
    ),
    Snippet(
        "A file of a newer version",
        "GraphFormatError",
        """\
from tracing.graph import codec

codec.loads('{"format": "tracing-graph", "version": 99}', {})
""",
        "Older versions are read.",
    ),
    Snippet(
        "A file that is something else",
        "GraphFormatError",
        """\
from tracing.graph import codec

codec.loads('{"name": "gpt2"}', {})
""",
        "The first key to look at is `format`.",
    ),
    Snippet(
        "An operation that the table does not have",
        "GraphFormatError",
        """\
import json

from tracing.graph import codec

with model.trace("The Louvre is in") as tracer:
    top = model.output.argmax().save()

text, tensors = codec.dumps(tracer.graph)
codec.loads(text.replace("argmax", "system"), tensors)
""",
        "A file can name the operations of the table and no others.",
    ),
    Snippet(
        "Constants that are missing",
        "GraphFormatError",
        """\
from tracing.graph import codec

with model.trace("The Louvre is in") as tracer:
    model.transformer.h[1].output[0][:, -1] += torch.ones(128)
    logits = model.output.save()

text, tensors = codec.dumps(tracer.graph)
codec.loads(text, {})
""",
        "The two files belong together.",
    ),
    Snippet(
        "An unknown parameter",
        "SiteError",
        """\
model.parameter("lm_head.bias")
""",
        "This model's unembedding has no bias.",
    ),
    Snippet(
        "A script for nnsight of what nnsight cannot express",
        "ExportError",
        """\
with model.trace("The Louvre is in") as tracer:
    words = tracer.apply(torch.Tensor.tolist, model.output).save()

tracer.graph.to_nnsight_source()
""",
        "Exported scripts hold operations of torch only.",
    ),
    Snippet(
        "A script of a graph whose model is not known",
        "ExportError",
        """\
from tracing.graph import codec

with model.trace("The Louvre is in") as tracer:
    top = model.output.argmax().save()

codec.loads(*codec.dumps(tracer.graph)).to_nnsight_source()
""",
        "Which modules are residual blocks is known from the model.",
    ),
    Snippet(
        "Layers that are no number",
        "SiteError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.sites.resid_post["last"].save()
""",
        "`-1` is the last one.",
    ),
    Snippet(
        "An edit of another model",
        "GraphFormatError",
        """\
with model.edit() as edited:
    edited.transformer.h[1].output[0][:] = 0

edited.save_edits("zero.json")
net.load_edits("zero.json")
""",
        "An edit names modules, and the model must have them.",
    ),
)
