"""Mistakes with gradients."""

from docs.tools.snippets.snippet import Snippet

GRADIENTS = (
    Snippet(
        "A gradient that cannot be reached",
        "GradientError",
        """\
with model.trace("The Louvre is in"):
    late = model.transformer.h[3].output[0]
    loss = model.transformer.h[1].output[0].sum()
    loss.backward()
    gradient = late.grad.save()
""",
        "The loss does not depend on the value.",
    ),
    Snippet(
        "A gradient without a backward",
        "GradientError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0]
    gradient = hidden.grad.save()
""",
        "A gradient is of some loss.",
    ),
    Snippet(
        "The backward of more than one number",
        "GradientError",
        """\
with model.trace("The Louvre is in"):
    model.output.backward()
""",
        "Reduce it to one number first.",
    ),
    Snippet(
        "A loss that does not depend on the value",
        "GradientError",
        """\
with model.trace("The Louvre is in"):
    early = model.transformer.h[0].output[0]
    late = model.transformer.h[3].output[0]
    early.retain_grad()
    model.transformer.h[1].output[0].sum().backward()
    gradient = late.grad.save()
""",
        "Gradients flow to what came before.",
    ),
    Snippet(
        "The gradient of whole numbers",
        "GradientError",
        """\
with model.trace("The Louvre is in"):
    ids = model.transformer.wte.input
    model.output.sum().backward()
    gradient = ids.grad.save()
""",
        "Take the gradient of the embedding, `model.sites.embed`.",
    ),
    Snippet(
        "A gradient that was not kept",
        "GradientError",
        """\
with model.trace("The Louvre is in"):
    early = model.transformer.h[0].output[0].save()
    hidden = model.transformer.h[1].output[0].save()
    early.retain_grad()
    model.output.sum().backward()

hidden.grad
""",
        "`hidden.retain_grad()` in the block keeps it.",
    ),
    Snippet(
        "A gradient in a generation",
        "GradientError",
        """\
with model.generate("The Louvre is in", max_new_tokens=2):
    hidden = model.transformer.h[1].output[0]
    model.output.sum().backward()
    gradient = hidden.grad.save()
""",
        "Generate first, then differentiate one forward on the ids.",
    ),
    Snippet(
        "A backward block inside another",
        "GradientError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0]
    with model.output[0, -1, 0].backward(retain_graph=True):
        with model.output[0, -1, 1].backward():
            gradient = hidden.grad.save()
""",
        "Each backward has a block of its own.",
    ),
    Snippet(
        "A loss that needs its own gradient",
        "CausalityError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0]
    (model.output * hidden.grad.norm()).sum().backward()
""",
        "A gradient of another backward can be part of a loss.",
    ),
    Snippet(
        "Gradients of one backward that wait for each other",
        "CausalityError",
        """\
with model.trace("The Louvre is in"):
    early = model.transformer.h[1].output[0]
    late = model.transformer.h[3].output[0]
    late.grad[:] = early.grad
    model.output.sum().backward()
    gradient = model.sites.embed.grad.save()
""",
        "A backward goes from late sites to early ones.",
    ),
    Snippet(
        "An autograd graph in a cache",
        "RecordError",
        """\
with model.trace("The Louvre is in") as tracer:
    cache = tracer.cache(detach=False)
""",
        "Gradients are taken in the trace.",
    ),
    Snippet(
        "A gradient that none of several losses reaches",
        "GradientError",
        """\
with model.trace("The Louvre is in"):
    early = model.transformer.h[0].output[0]
    late = model.transformer.h[3].output[0]
    early.grad.save()
    model.transformer.h[1].output[0].sum().backward()
    model.transformer.h[2].output[0].sum().backward()
    gradient = late.grad.save()
""",
        "Several backwards add up; this value is part of none.",
    ),
)
