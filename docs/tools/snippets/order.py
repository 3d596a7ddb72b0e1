"""Mistakes with the order of a program: causality, prompts, generation steps, blocks in blocks."""

from docs.tools.snippets.snippet import Snippet

ORDER = (
    Snippet(
        "A write that needs a later value",
        "CausalityError",
        """\
with model.trace("The Louvre is in"):
    late = model.transformer.h[3].output[0]
    model.transformer.h[1].output[0][:] = late
    logits = model.output.save()
""",
        "Found before the model runs. Take the value in a trace of its own, or in another invoke.",
    ),
    Snippet(
        "A generation step that did not happen",
        "StepNotReachedError",
        """\
with model.generate("The Eiffel Tower is in", max_new_tokens=8) as tracer:
    for step in tracer.iter[5:6]:
        logits = model.output.save()

logits.shape
""",
        "The model ended its text before; what the other steps saved is there.",
    ),
    Snippet(
        "A generation step that cannot happen",
        "RecordError",
        """\
with model.generate("The Louvre is in", max_new_tokens=2) as tracer:
    for step in tracer.iter[4]:
        logits = model.output.save()
""",
        "Two new tokens are steps 0 and 1.",
    ),
    Snippet(
        "Skipping with a later value",
        "CausalityError",
        """\
with model.trace("The Louvre is in"):
    model.transformer.h[1].skip(model.transformer.h[3].output[0])
    logits = model.output.save()
""",
        "What stands in for a module must be known when the module is reached.",
    ),
    Snippet(
        "Prompts that wait for each other",
        "CausalityError",
        """\
with model.trace() as tracer:
    with tracer.invoke("The Louvre is in"):
        one = model.transformer.h[3].output[0]
        first = model.transformer.h[1].output
    with tracer.invoke("The Prado is in"):
        other = model.transformer.h[3].output[0]
        model.transformer.h[1].output[0][:] = one
        second = model.output.save()
    with tracer.invoke("The Kremlin is in"):
        pass
    first[:] = other
""",
        "Each of the two would have to run before the other.",
    ),
    Snippet(
        "The whole batch across prompts that run one after the other",
        "CausalityError",
        """\
with model.trace() as tracer:
    with tracer.invoke("The Louvre is in"):
        late = model.transformer.h[3].output[0]
    with tracer.invoke("The Prado is in"):
        model.transformer.h[1].output[0][:] = late
    with tracer.invoke():
        everything = model.output.save()
""",
        "An invoke without a prompt needs one forward of all prompts.",
    ),
    Snippet(
        "Steps of a trace that generates nothing",
        "RecordError",
        """\
with model.trace("The Louvre is in") as tracer:
    for step in tracer.iter[0:2]:
        logits = model.output.save()
""",
        "A trace is one forward.",
    ),
    Snippet(
        "The result of a trace that generates nothing",
        "RecordError",
        """\
with model.trace("The Louvre is in") as tracer:
    ids = tracer.result.save()
""",
        "Ids come from `model.generate`.",
    ),
    Snippet(
        "Every step of a generation without an end",
        "RecordError",
        """\
with model.generate("The Louvre is in", max_length=8) as tracer:
    for step in tracer.iter[:]:
        logits = model.output.save()
""",
        "Say how many there are at most.",
    ),
    Snippet(
        "A loop over steps inside another",
        "RecordError",
        """\
with model.generate("The Louvre is in", max_new_tokens=2) as tracer:
    with tracer.iter[:2]:
        with tracer.iter[:2]:
            logits = model.output.save()
""",
        "One loop goes through the steps.",
    ),
    Snippet(
        "A condition that is known already",
        "RecordError",
        """\
with model.trace("The Louvre is in") as tracer:
    with tracer.cond(2 > 1):
        model.transformer.h[1].output[0][:] = 0
""",
        "`tracer.cond` is for values of the model.",
    ),
    Snippet(
        "An option of generation in a trace",
        "TypeError",
        """\
with model.trace("The Louvre is in", max_new_tokens=3):
    logits = model.output.save()
""",
        "One forward makes no new tokens.",
    ),
    Snippet(
        "A trace inside a trace of one session",
        "RecordError",
        """\
with model.session():
    with model.trace("The Louvre is in"):
        with model.trace("The Prado is in"):
            logits = model.output.save()
""",
        "The traces of a session stand one after the other; several prompts of one trace are invokes.",
    ),
    Snippet(
        "A prompt inside a prompt",
        "RecordError",
        """\
with model.trace() as tracer:
    with tracer.invoke("The Louvre is in"):
        with tracer.invoke("The Prado is in"):
            logits = model.output.save()
""",
        "Blocks of prompts stand side by side.",
    ),
    Snippet(
        "A tracer used twice",
        "RecordError",
        """\
tracer = model.trace("The Louvre is in")
with tracer:
    logits = model.output.save()
with tracer:
    logits = model.output.save()
""",
        "Each run is a new trace.",
    ),
    Snippet(
        "A prompt's block opened twice",
        "RecordError",
        """\
with model.trace() as tracer:
    louvre = tracer.invoke("The Louvre is in")
    with louvre:
        logits = model.output.save()
    with louvre:
        hidden = model.transformer.h[1].output.save()
""",
        "Write all that concerns a prompt into one block, or give it twice.",
    ),
    Snippet(
        "A session inside a trace",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    with model.session():
        pass
""",
        "A session holds traces, not the other way round.",
    ),
    Snippet(
        "A scan inside a session",
        "RecordError",
        """\
with model.session():
    with model.scan("The Louvre is in"):
        logits = model.output.save()
""",
        "`validate=True` checks a trace of a session.",
    ),
    Snippet(
        "Values of a generation with beams",
        "PromptError",
        """\
with model.generate(max_new_tokens=2, num_beams=2) as tracer:
    with tracer.invoke("The Louvre is in"):
        one = model.transformer.h[1].output[0].save()
    with tracer.invoke("The Prado is in"):
        other = model.transformer.h[1].output[0].save()
""",
        "Beams and several samples multiply the rows while they run.",
    ),
    Snippet(
        "A prompt after the whole batch in a scan",
        "TraceError",
        """\
with model.scan() as tracer:
    with tracer.invoke("The Louvre is in"):
        one = model.output.save()
    with tracer.invoke():
        everything = model.output.save()
    with tracer.invoke("The Prado is in"):
        other = model.output.save()
""",
        "While scanning, the whole batch is what was given so far.",
    ),
    Snippet(
        "A session of another wrapper",
        "RecordError",
        """\
with model.edit() as edited:
    edited.transformer.h[1].output[0][:] = 0

edited.transformer.h[2].extra = nn.Linear(128, 128)
with model.session():
    with edited.trace("The Louvre is in"):
        block = edited.transformer.h[2]
        block.output = block.extra(block.output)
""",
        "Open the session of the wrapper that has the modules.",
    ),
    Snippet(
        "A value of a session's trace that failed",
        "RecordError",
        """\
with model.session():
    try:
        with model.trace("The Louvre is in"):
            hidden = model.transformer.h[1].output[0]
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    with model.trace("The Prado is in"):
        model.transformer.h[1].output[0][:] = hidden
""",
        "The rest of the session has no use for it.",
    ),
    Snippet(
        "Skipping a module that is not called",
        "SiteNotReachedError",
        """\
model.transformer.h[1].extra = nn.Linear(128, 128)
with model.trace("The Louvre is in"):
    model.transformer.h[1].extra.skip(torch.zeros(1, 4, 128))
    logits = model.output.save()
""",
        "There is nothing to leave out.",
    ),
    Snippet(
        "A value of a loop over nothing",
        "RecordError",
        """\
with model.generate("The Louvre is in", max_new_tokens=2) as tracer:
    with tracer.iter[1:1]:
        logits = model.output
    best = logits.argmax().save()
""",
        "Steps 1 to 1 are none.",
    ),
    Snippet(
        "Stopping before anything is asked for",
        "RecordError",
        """\
with model.trace() as tracer:
    tracer.stop()
    with tracer.invoke("The Louvre is in"):
        logits = model.output.save()
""",
        "A forward stops behind what stands above the line.",
    ),
    Snippet(
        "A cache outside of a prompt's block",
        "RecordError",
        """\
with model.trace() as tracer:
    cache = tracer.cache(modules=[model.transformer.h[0]])
    with tracer.invoke("The Louvre is in"):
        logits = model.output.save()
""",
        "One cache a prompt.",
    ),
    Snippet(
        "A cache of a generation outside of its steps",
        "RecordError",
        """\
with model.generate("The Louvre is in", max_new_tokens=2) as tracer:
    cache = tracer.cache(modules=[model.transformer.h[0]])
""",
        "One cache a step.",
    ),
    Snippet(
        "A write at a step that cannot come",
        "StepNotReachedError",
        """\
with model.generate("The Louvre is in", max_new_tokens=2) as tracer:
    model.transformer.h[1].next(5).output[0][:] = 0
    ids = tracer.result.save()
""",
        "A read at such a step says so when its value is used; a write would be lost, so nothing runs.",
    ),
    Snippet(
        "Skipping one call of a module",
        "RecordError",
        """\
with model.trace("The Louvre is in"):
    model.transformer.h[1].next().skip(torch.zeros(1, 4, 128))
    logits = model.output.save()
""",
        "A skip is of the whole forward.",
    ),
)
