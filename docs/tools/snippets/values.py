"""Mistakes with values: using what is not there yet, or no more."""

from docs.tools.snippets.snippet import Snippet

VALUES = (
    Snippet(
        "Reading a value that was not saved",
        "NotSavedError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0]

hidden.norm()
""",
        "Only what `.save()` marked is kept.",
    ),
    Snippet(
        "Reading a value inside its trace",
        "NotSavedError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0].save()
    hidden.value
""",
        "The value is there when the block has ended.",
    ),
    Snippet(
        "Using a value that is not there yet",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0]
    if hidden.norm() > 10:
        hidden[:] = 0
""",
        "A condition on a value is a `with tracer.cond(...)` block, or `torch.where`.",
    ),
    Snippet(
        "The length of a value",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    logits = model.output
    last = len(logits[0]) - 1
""",
        "Here `logits[0, -1]` needs no length.",
    ),
    Snippet(
        "A loop over a value",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    for row in model.output:
        row.save()
""",
        "Loop over numbers, and index.",
    ),
    Snippet(
        "A value as a Python number",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    largest = float(model.output.max())
""",
        "Save it and convert it after the block.",
    ),
    Snippet(
        "Formatting a value inside the trace",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    print(f"{model.output.max():.2f}")
""",
        "`print(proxy)` alone shows what it stands for; numbers come after the block.",
    ),
    Snippet(
        "A value that has no effect",
        "",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0] * 0
    logits = model.output.save()
""",
        "`hidden *= 0` or `hidden[:] = 0` changes the model; `x * 0` only makes a value.",
    ),
    Snippet(
        "A value written into a plain tensor",
        "RecordError",
        """\
rows = torch.zeros(2, 128)
with model.trace("The Louvre is in"):
    rows[0] = model.transformer.h[1].output[0][0, -1]
""",
        "The tensor exists now and the value only later.",
    ),
    Snippet(
        "Writing after the trace",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0]

hidden[:] = 0
""",
        "The model has run; a write must be inside the block.",
    ),
    Snippet(
        "A value as a NumPy array",
        "RecordError",
        """\
import numpy

with model.trace("The Louvre is in"):
    array = numpy.asarray(model.output)
""",
        "After the block a saved value is taken by NumPy like any tensor.",
    ),
    Snippet(
        "An attribute that a value has not",
        "OperationError",
        """\
with model.trace("The Louvre is in"):
    model.output.data = torch.zeros(1)
""",
        "Parts are written by index, whole values by assigning to the module.",
    ),
    Snippet(
        "Calling a value",
        "OperationError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output(0)
""",
        "Round brackets where square ones were meant.",
    ),
    Snippet(
        "Storing a proxy",
        "TypeError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0]

torch.save({"hidden": hidden}, "hidden.pt")
""",
        "Files are for tensors.",
    ),
    Snippet(
        "A value of a branch that was not taken",
        "NotSavedError",
        """\
with model.trace("The Louvre is in") as tracer:
    hidden = model.transformer.h[1].output[0]
    with tracer.cond(hidden.norm() > 1e6):
        large = hidden.max().save()

large.item()
""",
        "What a condition leaves out has no value.",
    ),
    Snippet(
        "A value of a trace that failed",
        "NotSavedError",
        """\
try:
    with model.trace("The Louvre is in"):
        hidden = model.transformer.h[1].output[0].save()
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass

hidden.norm()
""",
        "An error inside the block ends the trace before the model runs.",
    ),
    Snippet(
        "A value of another trace that is still open",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    hidden = model.transformer.h[1].output[0]
    with net.trace(x):
        net[0].output[:] = hidden[0, 0, :4]
""",
        "Values of one model's trace enter another's when they are tensors.",
    ),
)
