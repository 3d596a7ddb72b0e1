"""`Model`: any PyTorch module, ready to be traced. `LanguageModel` and `VisionModel` know their inputs better.

    model = Model(net)
    with model.trace(x):
        hidden = model.layer1.output.save()

The wrapped module stays unmodified: a trace hooks the modules that it names and takes the hooks off again.
"""

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tracing.engines.scan import Scan
from tracing.errors import ModelError, RecordError, SiteError
from tracing.graph.lines import user_line
from tracing.graph.recorder import Recorder, current
from tracing.models.batching import Batch, Inputs, batch_tensors
from tracing.models.editing import Edit, load_edits, replay, save_edits
from tracing.models.envoy import VALUES, Envoy
from tracing.models.given import refuse_text, require_module
from tracing.models.renames import resolved
from tracing.models.rules import accepted_keywords
from tracing.models.scanning import Scanner
from tracing.models.session import Session
from tracing.models.tracer import Tracer
from tracing.models.tree import tree_text


class Model(Envoy):
    """A wrapped module: the root of the tree of envoys, and what traces run on."""

    public: ClassVar[tuple[str, ...]] = (
        "trace", "generate", "scan", "session", "edit", "edits", "clear_edits", "save_edits", "load_edits", "copy",
        "get", "attach", "parameter", "device", "tree", "call", "modules", "named_modules", "path", *VALUES,
    )  # fmt: skip
    """What `dir(model)` and tab completion show beside the submodules; the rest is for the machinery of traces."""

    def __init__(self, module: nn.Module, *, rename: Mapping[str, str] | None = None) -> None:
        """`rename` gives submodules other names: `{"layers": "transformer.h", "attn": "self_attn"}`.

        A path is counted from the root and its new name is there; one module's name stands for it at any level. The
        other way round, `{"transformer.h": "layers"}`, means the same. Raises `ModelError` for a module that the model
        does not have.
        """
        require_module(type(self), module)
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                "A TorchScript module cannot be traced: its submodules are not called one by one.",
                remedy="Wrap the module that it was made from.",
            )
        super().__init__(self, "", module)
        self.__dict__.update(
            module=module, renames=resolved(rename, module, type(self)), origin=self, attached={}, edits=[]
        )
        self._warn_hidden()

    # -- traces -------------------------------------------------------------------------------------------------------
    def trace(self, *inputs: Any, **options: Any) -> Tracer:
        """Record what the block does with the model's values, and run it when the block ends.

        `inputs` are one prompt (or batch); without any, give prompts with `tracer.invoke(...)`. Options: `remote`,
        `validate` (check shapes while recording), and keyword arguments of the model's forward.
        Raises `TypeError` for an option that neither this library nor the model knows.
        """
        return Tracer(self, "forward", inputs, options)

    def generate(self, *inputs: Any, **options: Any) -> Tracer:
        """As `trace`, for a whole generation; `max_new_tokens` and everything else transformers' generate takes.

        Raises `ModelError` for a model that cannot generate, `TypeError` for an unknown option.
        """
        if not hasattr(self._module, "generate"):
            raise ModelError(
                f"{type(self._module).__name__} cannot generate.", remedy="Use model.trace, or a causal language model."
            )
        return Tracer(self, "generate", inputs, options)

    def scan(self, *inputs: Any, **options: Any) -> Scanner:
        """As `trace`, without running anything: shapes, dtypes and devices are known and checked while recording.

        Needs no weights. Saved values are tensors on the "meta" device afterwards. Raises `TraceError` for a model
        whose forward depends on numbers (the routing of some mixtures of experts), naming the module.
        """
        return Scanner(self, inputs, options)

    def session(self) -> Session:
        """Several traces as one program: values flow from one to the next without being saved."""
        return Session(self)

    def edit(self, *, inplace: bool = False) -> Edit:
        """Record changes that every later trace begins with.

        `with model.edit() as edited:` leaves this model as it is; `inplace` changes this wrapper (never the module).
        """
        return Edit(self, inplace=inplace)

    def clear_edits(self) -> None:
        """Forget all edits of this wrapper."""
        self.edits.clear()

    def save_edits(self, path: str | Path) -> None:
        """Store the edits as `path`.json and `path`.safetensors."""
        save_edits(self.edits, path)

    def load_edits(self, path: str | Path) -> None:
        """Add stored edits to this wrapper's. Raises `GraphFormatError` for a malformed file or another model's."""
        self.edits.extend(load_edits(path, self))

    def copy(self) -> Self:
        """Another wrapper of the same module, with the same edits and attached modules."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.__dict__.update(_root=made, _children={}, edits=list(self.edits), attached=dict(self.attached))
        return made

    # -- what tracers ask ---------------------------------------------------------------------------------------------
    def input_names(self) -> frozenset[str]:
        """Keyword arguments that are a prompt's own, with one row for each of its sequences."""
        return frozenset()

    def option_names(self, mode: str) -> frozenset[str] | None:
        """Keyword arguments that a forward (or a generation) takes besides; None for any."""
        return accepted_keywords(self._module) if mode == "forward" else None

    def steps_of(self, options: Mapping[str, Any]) -> int | None:
        """How many steps a generation with these options takes at most, where that is known."""
        return options.get("max_new_tokens")

    def most_steps(self, options: Mapping[str, Any]) -> int | None:
        """A number of steps that a generation with these options cannot exceed, where there is one."""
        known, own = self.steps_of(options), getattr(self._module, "generation_config", None)
        if known is not None:
            return known
        for config in (options, vars(options.get("generation_config") or object), vars(own or object)):
            if config.get("max_length") is not None:
                return int(config["max_length"]) - 1  # there is one token of the prompt at least
        defaults: dict[str, Any] = getattr(own, "_get_default_generation_params", dict)()
        return defaults.get("max_length")  # of new tokens, where neither length is given

    def sequences_of(self, options: Mapping[str, Any]) -> int:
        """How many rows a generation with these options makes of each row of a prompt."""
        return max(int(options.get(name) or 1) for name in ("num_beams", "num_return_sequences"))

    def begin_invoke(self, recorder: Recorder) -> None:
        """A prompt's block begins: record the edits for it."""
        stage, invoke = recorder.stage, recorder.invoke
        if not self.edits or stage is None or invoke is None or invoke.inputs is None:
            return
        steps = 1
        if stage.mode == "generate":
            most = self.most_steps(stage.options)
            if most is None:
                raise RecordError(
                    f"How many steps this generation takes is not known (at {user_line()}), and the edits of the model "
                    "hold at each.",
                    remedy="Give max_new_tokens to model.generate.",
                )
            steps = max(most, 1)
        for graph in self.edits:
            replay(graph, recorder, steps)

    def start_validation(self, recorder: Recorder) -> None:
        """Check every operation while it is recorded."""
        if recorder.validator is None:
            recorder.validator = Scan(self, recorder.graph)

    def returns_tuple(self, path: str) -> bool:
        """Whether a module returns more than its main tensor, which later modules may need."""
        return False

    def returns_tensor(self, path: str) -> bool:
        """Whether a module is known to return one tensor and nothing else."""
        return type(self.submodule(path)) in (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.Dropout)

    def needs_eager(self, path: str) -> bool:
        """Whether the module is called only by the eager path of attention."""
        return False

    def asks_eager(self, options: Mapping[str, Any]) -> bool:
        """Whether a forward with these options is asked for what only the eager path of attention returns."""
        return False

    # -- the wrapped module -------------------------------------------------------------------------------------------
    @property
    def _model(self) -> nn.Module:
        """The wrapped module."""
        return self._module  # type: ignore[no-any-return]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Outside of a trace: run the wrapped module on tensors, now. Raises `PromptError` for text."""
        refuse_text(
            self._module,
            args,
            "Open a trace, `with model.trace(text): logits = model.output.save()`, or give tensors; a LanguageModel's "
            "logits of a text are model.logits(text).",
        )
        return super().__call__(*args, **kwargs)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module."""
        return self._module(*args, **kwargs)

    def require_weights(self) -> None:
        """Raises `ModelError` where the module has only shapes."""
        if any(parameter.is_meta for parameter in self._module.parameters()):
            raise ModelError(
                "This module has no weights (it was built on the meta device), so it cannot be run here.",
                remedy="model.scan works without weights.",
            )

    def generate_ids(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module's generation."""
        return self._module.generate(*args, **kwargs)

    def batch(self, inputs: Sequence[Inputs], *, generating: bool, steps: int = 1) -> Batch:
        """One call for the inputs of all invokes, of which `steps` generation steps are read or written.

        Raises `PromptError` where they do not fit together.
        """
        for one in inputs:
            refuse_text(self._module, one.args, "LanguageModel(module, tokenizer=...) reads text, Model tensors only.")
        return batch_tensors(inputs)

    def is_block(self, path: str) -> bool:
        """Whether the module is a residual block, whose `output[0]` is the whole hidden state."""
        return False

    def submodule(self, path: str) -> nn.Module:
        """The module at a dotted path, attached ones included."""
        for base, module in self.attached.items():
            if path == base or path.startswith(base + "."):
                return module.get_submodule(path[len(base) + 1 :])  # type: ignore[no-any-return]
        return self._module.get_submodule(path)  # type: ignore[no-any-return]

    def is_attached(self, path: str) -> bool:
        """Whether the module at a path was put into the tree by the user."""
        return bool(self.attached) and any(f"{path}.".startswith(f"{base}.") for base in self.attached)

    def parameter(self, path: str) -> Tensor:
        """A parameter or buffer by its dotted path."""
        module, _, name = path.rpartition(".")
        value = getattr(self.submodule(module), name, None)
        if not isinstance(value, Tensor):
            raise SiteError(f"There is no parameter {path!r}.", remedy="print(model) shows the modules.")
        return value

    def get(self, path: str) -> Any:
        """The envoy at a dotted path: `model.get("transformer.h.0.attn")`."""
        envoy: Any = self
        for name in path.split(".") if path else ():
            envoy = envoy._child(name)
        return envoy

    def attach(self, envoy: Envoy, name: str, module: nn.Module) -> None:
        """Put a module of your own (a sparse autoencoder) into the tree; a trace runs it where it calls it."""
        path = f"{envoy.path}.{name}".lstrip(".")
        if name in envoy._module._modules:
            raise ModelError(f"{path} is a module of the model already.", remedy="Attach yours under another name.")
        self.attached[path] = module
        envoy.__dict__["_children"][name] = Envoy(self, path, module)

    @property
    def device(self) -> torch.device:
        """The device of the module's first parameter."""
        # Where it is kept is remembered, not the parameter: `module.to(device)` may replace that.
        nothing: tuple[dict[str, Tensor | None], str] = ({}, "")
        holder, name = self.__dict__.get("_first_parameter", nothing)
        if holder.get(name) is None:
            parts = self._module.modules()
            given = (
                (part._parameters, name)
                for part in parts
                for name, value in part._parameters.items()
                if value is not None
            )
            holder, name = self.__dict__["_first_parameter"] = next(given, nothing)
        parameter = holder.get(name)
        return torch.device("cpu") if parameter is None else parameter.device

    # -- names --------------------------------------------------------------------------------------------------------
    def _warn_hidden(self) -> None:
        """Warn of submodules that have the name of an attribute of ours, which comes first."""
        everywhere = {*vars(Envoy), "path"} - {"output"}  # `module.output.name` leads to both
        of_root = {*dir(type(self)), *self.__dict__} - {"output"}
        hidden = [
            f"{path}.{name}".lstrip(".")
            for path, part in self._module.named_modules()
            for name in part._modules
            if name in (everywhere if path else of_root)
        ]
        if hidden:
            line = user_line()
            warnings.warn_explicit(
                f"Wrapped modules have an attribute of the same name as the submodule{'s' if hidden[1:] else ''} "
                f"{', '.join(hidden[:4])}{', …' if hidden[4:] else ''}, and it comes first: reach the submodule as "
                f'model.get("{hidden[0]}"), or give it another name by rename={{"my_name": '
                f'"{hidden[0].rpartition(".")[2]}"}}.',
                UserWarning,
                line.file,
                line.number,
            )

    def paths_ending_in(self, name: str) -> list[str]:
        """Up to three module paths whose last part is `name`."""
        return [path for path, _ in self._module.named_modules() if path.rpartition(".")[2] == name][:3]

    def why_not_reached(self, path: str) -> str:
        """A sentence for a site that the forward did not pass."""
        module = self.submodule(path)
        if self.is_attached(path):
            return "An attached module runs where the trace calls it: value = model.path.module(value)."
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            return f"{path} is a container that is never called itself: use one of its items, {path}[0]."
        paths = [name for name, _ in self._module.named_modules() if name]
        near = [name for name in difflib.get_close_matches(path, paths, 4) if name != path]
        return (
            "The module exists, but this forward did not call it (as often as asked)."
            + (f" Near it: {', '.join(near)}." if near else "")
            + " print(model) shows the whole tree."
        )

    def tree(self, path: str = "") -> str:
        """The module tree as text, each module with its class and, once, the standard sites that lie there.

        Of modules of one class and with the same insides that follow each other, one is written out.
        """
        text = tree_text(self.submodule(path), path, self.site_notes(), type(self).__name__, self.attached)
        first, line, rest = text.partition("\n")
        return f"{first}{'' if path else self.edits_note()}{line}{rest}"

    def edits_note(self) -> str:
        """Of an edited model, the number of its edits."""
        count = len(self.edits)
        return f", {count} edit{'s' if count > 1 else ''}" if count else ""

    def site_notes(self) -> dict[str, str]:
        """Which standard sites lie at which module of the first layer."""
        return {}

    def __setattr__(self, name: str, value: Any) -> None:
        if "edits" not in self.__dict__ or name.startswith("_") or hasattr(type(self), name):
            object.__setattr__(self, name, value)
        elif isinstance(value, nn.Module):
            self.attach(self, name, value)
        elif name not in self.__dict__ and (self._is_part(name) or current(self.origin) is not None):
            super().__setattr__(name, value)  # a weight is written, a module or a slip (`model.ouput`) refused
        else:
            object.__setattr__(self, name, value)

    def _is_part(self, name: str) -> bool:
        """Whether the wrapped module has a submodule, parameter or buffer of this name."""
        module = self._module
        return any(name in parts for parts in (module._modules, module._parameters, module._buffers, self.renames))

    def __iter__(self) -> Iterator[Envoy]:
        """The items of a model that is a container itself. Raises `RecordError` for any other."""
        if not hasattr(type(self._module), "__iter__"):
            raise RecordError(
                f"A model is no list of modules, nor a pair, so it cannot be iterated over or unpacked (at "
                f"{user_line()}).",
                remedy="`with model.edit() as edited:` gives one value, the edited model. To go through modules, name "
                "a list of them, or take model.modules().",
            )
        return super().__iter__()

    def __dir__(self) -> list[str]:
        return [*self.public, *self._module._modules, *self._given_names()]

    def __repr__(self) -> str:
        return self.tree()
