"""Names of other tracers that are not of this library, each with what says the same here."""

from typing import Final

_CHECKED: Final = "validate=True checks shapes while recording; model.scan(prompt) checks them and runs nothing."

OPTIONS: Final = {
    "scan": _CHECKED,
    "trace": "Without a block, call the module itself: model.call(input_ids), or save model.output in the block.",
    "invoker_args": "Options of the forward go to model.trace itself, those of one prompt to tracer.invoke(prompt, …).",
    "dispatch": 'A model\'s weights are loaded when it is made; LanguageModel(name, device="meta") has none.',
    "backend": "A trace runs on this machine.",
}
"""Keyword arguments of traces."""

MODULES: Final = {
    "generator": "What a generation returns is tracer.result, in `with model.generate(prompt) as tracer:`.",
    "all": "All steps of a generation are `for step in tracer.all():`, or tracer.iter[:].",
    "iter": "Steps of a generation are `for step in tracer.iter[a:b]:`.",
    "source": "What lies inside a forward is reached by modules, and by model.sites where it has no module.",
}
"""Attributes of modules."""

TRACERS: Final = {
    "log": "print(x) after the block shows a saved value, tracer.apply(print, x) one while the trace runs.",
    "inputs": "What a prompt became is model.inputs, (args, kwargs), inside the block.",
    "input": "What a prompt became is model.inputs, (args, kwargs), inside the block.",
    "batch_size": "A saved value says it: model.output.shape[0].",
    "wait": "Values flow from prompt to prompt by themselves.",
}
"""Attributes of traces and of the blocks of prompts."""
