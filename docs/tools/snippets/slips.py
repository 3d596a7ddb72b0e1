"""Slips of the first hour, and idioms of other tracers."""

from docs.tools.snippets.snippet import Snippet

SLIPS = (
    Snippet(
        "A step of a block as a number",
        "RecordError",
        """\
with model.generate("The Louvre is in", max_new_tokens=3) as tracer:
    with tracer.iter[:] as step:
        if step == 1:
            model.transformer.h[1].output[0][:] = 0
""",
        "`for step in tracer.iter[:]:` gives numbers.",
    ),
    Snippet(
        "Steps beyond the last",
        "RecordError",
        """\
with model.generate("The Louvre is in", max_new_tokens=2) as tracer:
    for step in tracer.iter[:6]:
        model.transformer.h[1].output[0][:] = 0
""",
        "Two new tokens are steps 0 and 1.",
    ),
    Snippet(
        "A write in a step that never came",
        "",
        """\
with model.generate("The Eiffel Tower is in", max_new_tokens=8) as tracer:
    for step in tracer.iter[5:7]:
        model.transformer.h[1].output[0][:] = 0
    ids = tracer.result.save()
""",
        "The model ended its text before; the result is as it was without the write.",
    ),
    Snippet(
        "Two names for an edited model",
        "RecordError",
        """\
with model.edit() as (tracer, edited):
    edited.transformer.h[1].output[0][:] = 0
""",
        "An edit has no tracer.",
    ),
    Snippet(
        "A value as a prompt",
        "RecordError",
        """\
with model.session():
    with model.generate("The Louvre is in", max_new_tokens=2) as tracer:
        ids = tracer.result
    with model.trace(ids):
        logits = model.output.save()
""",
        "Two blocks without a session are two runs; a prompt may be what the first one saved.",
    ),
    Snippet(
        "A result outside of its block",
        "RecordError",
        """\
with model.generate("The Louvre is in", max_new_tokens=2) as tracer:
    logits = model.output.save()
print(tracer.result)
""",
        "What is not saved is not kept.",
    ),
    Snippet(
        "A tuple for a block that returns a tensor",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[0].output
    model.transformer.h[1].skip((hidden,))
    logits = model.output.save()
""",
        "Blocks used to return tuples, in older versions of transformers.",
    ),
    Snippet(
        "A tuple of fewer items",
        "TypeError",
        """\
with model.trace("The Louvre is in"):
    attention = model.transformer.h[1].attn
    attention.output = (attention.output[0] * 0,)
    logits = model.output.save()
""",
        "`attention.output[0][:] = 0` leaves the other items as they are.",
    ),
    Snippet(
        "Reading a site without its layer",
        "PathError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.sites.resid_post.save()
""",
        "`model.sites.resid_post[3]` is a value.",
    ),
    Snippet(
        "Computing with a site without its layer",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.sites.resid_post * 2
""",
        "`[h * 2 for h in model.sites.resid_post]` computes layer by layer.",
    ),
    Snippet(
        "Sites without their layers in a list",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    hidden = torch.stack([model.sites.resid_pre, model.sites.resid_post])
""",
        "`torch.stack(model.sites.resid_post[:])` stacks the layers.",
    ),
    Snippet(
        "A layer before the name of its site",
        "SiteError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.sites[3].resid_post.save()
""",
        "The name comes first.",
    ),
    Snippet(
        "The generator of nnsight",
        "PathError",
        """\
with model.generate("The Louvre is in", max_new_tokens=2):
    ids = model.generator.output.save()
""",
        "Ids are what the call of generate returns.",
    ),
    Snippet(
        "The log of nnsight",
        "OperationError",
        """\
with model.trace("The Louvre is in") as tracer:
    tracer.log(model.output.shape)
""",
        "A saved value is printed after the block.",
    ),
    Snippet(
        "An option of nnsight",
        "TypeError",
        """\
with model.trace("The Louvre is in", scan=False, validate=False):
    logits = model.output.save()
""",
        "Without `validate=True`, shapes are checked when the model runs.",
    ),
)
