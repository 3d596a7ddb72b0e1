"""`Envoy`: a module of the wrapped model as a trace sees it, `model.transformer.h[5].attn`.

Attributes and indices lead to submodules; `.output`, `.input` and `.inputs` are the values that pass through, to be
read or assigned inside a trace.
"""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from tracing.errors import PathError, RecordError
from tracing.graph.arguments import is_proxy
from tracing.graph.lines import user_line
from tracing.graph.nodes import Site
from tracing.graph.proxy import Proxy
from tracing.graph.proxy_kinds import BlockOutput, FirstInput, ReadOnly, RootOutput
from tracing.graph.recorder import Base, Recorder, current
from tracing.models.foreign import MODULES

if TYPE_CHECKING:
    from tracing.models.base import Model


VALUES = ("output", "input", "inputs", "skip", "next")
"""Attributes of every module, which is why a misspelt one may mean them."""


WEIGHTS = (
    "write to the module's output instead, e.g. module.output = module.input[0][0] @ changed_weight.T, or change "
    "model._model itself outside of the trace"
)


class Envoy:
    """One module. `path` is its dotted path in the wrapped model, "" for the model itself."""

    def __init__(self, root: "Model", path: str, module: nn.Module) -> None:
        object.__setattr__(self, "_root", root)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_children", {})

    # -- the tree -----------------------------------------------------------------------------------------------------
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = self.__dict__["_children"].get(name)
        if known is not None:
            return known
        if name in self._module._parameters or name in self._module._buffers:
            return self._parameter(name)
        return self._child(name)

    def _parameter(self, name: str) -> Any:
        """A weight or buffer: inside a trace a value (a copy, so that no write changes it), outside the tensor."""
        recorder = current(self._root.origin)
        if recorder is None:
            return getattr(self._module, name)
        path = f"{self.path}.{name}".lstrip(".")
        proxy = Proxy(Base(recorder, recorder.add("parameter", (path,))))
        return ReadOnly.of(proxy, f"{path} is read as a copy, so that no trace changes the model for good: {WEIGHTS}")

    def _child(self, name: str) -> "Envoy":
        children: dict[str, Envoy] = self.__dict__["_children"]
        found = children.get(name)
        if found is None:
            alias = self._root.renames.get(name, name)
            module = self._module._modules.get(alias)
            if module is None:
                return self._aliased(name, alias)
            found = children[name] = Envoy(self._root, f"{self.path}.{alias}" if self.path else alias, module)
        return found

    def _aliased(self, name: str, alias: str) -> "Envoy":
        attached = self._root.attached.get(_join(self.path, name))
        if attached is not None:  # before this wrapper was made as a copy of another
            found = self.__dict__["_children"][name] = Envoy(self._root, _join(self.path, name), attached)
            return found
        if "." in alias and not self.path:
            return self._root.get(alias)  # type: ignore[no-any-return]
        raise self._no_child(name)

    def _no_child(self, name: str) -> AttributeError:
        names = list(self._module._modules)
        ours = VALUES if self.path else dir(self)
        near = difflib.get_close_matches(name, [*names, *ours], 3)
        if not set(near) & set(names):  # the submodules are what is wanted, or say best what there is
            near += [other for other in names[:8] if other not in near]
        where = f"Module {self.path!r}" if self.path else f"The model ({type(self._module).__name__})"
        elsewhere = self._root.paths_ending_in(name)
        hint = f" There is {', '.join(elsewhere)}." if elsewhere else ""
        return PathError(
            f"{where} has no submodule {name!r} (at {user_line()}).{hint}",
            remedy=MODULES.get(name)
            or (f"It has {', '.join(near)}. " if near else "It has no submodules. ")
            + "print(model) shows the whole tree.",
            where={"path": f"{self.path}.{name}".lstrip(".")},
        )

    def __getitem__(self, key: int | slice | str) -> Any:
        if type(key) is int and type(self._module) is nn.ModuleList:
            known = self.__dict__["_children"].get(str(key))
            if known is not None:
                return known
        names = list(self._module._modules)
        if isinstance(key, str):
            return self._child(key)
        if isinstance(key, slice):
            return [self._child(name) for name in names[key]]
        try:
            return self._child(names[key])
        except IndexError:
            raise IndexError(
                f"{self.path or 'The model'} has {len(names)} submodules, so there is no {self.path}[{key}] "
                f"(at {user_line()}). Give an index from 0 to {len(names) - 1}."
            ) from None

    def __len__(self) -> int:
        return len(self._module._modules)

    def __iter__(self) -> Iterator["Envoy"]:
        return (self._child(name) for name in self._module._modules)

    def __bool__(self) -> bool:
        return True

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._module._modules, *self._given_names()]

    def _given_names(self) -> list[str]:
        """Names of submodules that the user gave: of attached ones, and new names of the model's own."""
        below = f"{self.path}." if self.path else ""
        attached = [path[len(below) :] for path in self._root.attached if path.startswith(below)]
        renamed = [
            new
            for new, old in self._root.renames.items()
            if old in self._module._modules or ("." in old and not self.path)
        ]
        return [*(name for name in attached if "." not in name), *renamed]

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            self._root.attach(self, name, value)
        elif name in self._module._parameters or name in self._module._buffers:
            self._parameter(name)._write((), value) if current(self._root.origin) else setattr(
                self._module, name, value
            )
        elif name in ("output", "input", "inputs") or name in self.__dict__:
            object.__setattr__(self, name, value)
        else:
            raise (
                self._no_child(name)
                if name not in self._module._modules
                else RecordError(
                    f"{_join(self.path, name)} is a module; only its output or input can be set (at {user_line()}).",
                    remedy=f"Write {name}.output = value.",
                )
            )

    def __delattr__(self, name: str) -> None:
        """Take a module that was attached off again."""
        if self._root.attached.pop(_join(self.path, name), None) is not None:
            self.__dict__["_children"].pop(name, None)
        elif name in self.__dict__:
            object.__delattr__(self, name)
        else:
            raise (
                self._no_child(name)
                if name not in self._module._modules
                else RecordError(
                    f"{_join(self.path, name)} is a module of the model itself, which stays as it is (at "
                    f"{user_line()}).",
                    remedy="Only what was attached can be deleted; to leave a module out of a forward, skip it.",
                )
            )

    def modules(self) -> list["Envoy"]:
        """This module and all below it."""
        return [self._root.get(_join(self.path, name)) for name, _ in self._module.named_modules()]

    def named_modules(self) -> list[tuple[str, "Envoy"]]:
        """As `modules`, with their paths."""
        return [(envoy.path, envoy) for envoy in self.modules()]

    # -- values -------------------------------------------------------------------------------------------------------
    @property
    def output(self) -> Any:
        """What the module returns. For residual blocks the hidden state, for the model the logits."""
        base = self._recorder("output").site(self.path, "output")
        steps = (("main",),) if self._root.is_block(self.path) else ()
        if "output" in self._module._modules:
            return WithSubmodules.of(base, steps, self._child("output"))
        if steps:
            return BlockOutput(base, steps)
        return Proxy(base) if self.path else RootOutput(base, (("logits",),))

    @output.setter
    def output(self, value: Any) -> None:
        recorder = self._recorder("output")
        if self._root.is_block(self.path) and type(value) in (tuple, list) and value:
            value = value[0]
        steps = (("main",),) if self._root.is_block(self.path) else () if self.path else (("logits",),)
        _assign(recorder, recorder.site(self.path, "output"), steps, value)

    @property
    def input(self) -> Any:
        """The module's first argument; `input[0]` is the tuple of its positional arguments."""
        return FirstInput(self._recorder("input").site(self.path, "inputs"), (("first",),))

    @input.setter  # noqa: A003 (the name that users know)
    def input(self, value: Any) -> None:
        recorder = self._recorder("input")
        _assign(recorder, recorder.site(self.path, "inputs"), (("first",),), value)

    @property
    def inputs(self) -> Any:
        """The module's arguments: `(positional, keyword)`."""
        return Proxy(self._recorder("inputs").site(self.path, "inputs"))

    @inputs.setter
    def inputs(self, value: Any) -> None:
        recorder = self._recorder("inputs")
        _assign(recorder, recorder.site(self.path, "inputs"), (), value)

    def skip(self, value: Any) -> None:
        """Do not run this module; `value` stands for its output. Where a module returns a tuple, give a tuple."""
        recorder = self._recorder("skip")
        stage, invoke = recorder.place(f"{self.path}.skip")
        step, call = recorder.when(self.path)
        if call:
            raise RecordError(
                f"{self.path} is skipped in a whole forward, not in one of its calls (at {user_line()}).",
                remedy="Write to the output of that call: module.next().output[...] = value.",
            )
        if type(value) in (tuple, list) and self._root.returns_tensor(self.path):
            raise RecordError(
                f"{self.path} returns one tensor, so a {type(value).__name__} cannot stand for it (at {user_line()}).",
                remedy="Give the tensor: module.skip(value).",
            )
        site = Site(stage.index, invoke.index, self.path, "skip", step)
        recorder.add("skip", (self.path, recorder.encode(value), site))
        recorder.expect(site)

    def next(self, count: int = 1) -> "Envoy":
        """Go `count` calls of this module on: in a generation, that many steps. Returns the module."""
        recorder = self._recorder("next")
        recorder.shifts[self.path] = recorder.shifts.get(self.path, 0) + count
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Inside a trace: run this module on values (a logit lens). Outside: run it on tensors, now."""
        recorder = current(self._root.origin)
        if recorder is None:
            return self._module(*args, **kwargs)
        node = recorder.add("module", (self.path, recorder.encode(args), recorder.encode(kwargs)))
        return Proxy(Base(recorder, node))

    def _recorder(self, what: str) -> Recorder:
        recorder = current(self._root.origin)
        if recorder is None:
            name = f"{self.path}.{what}".lstrip(".")
            raise RecordError(
                f"{name!r} was accessed outside of a trace (at {user_line()}).",
                remedy="Values exist only while the model runs: use `with model.trace(prompt):`.",
            )
        return recorder

    def __repr__(self) -> str:
        text: str = self._root.tree(self.path)
        return text


class WithSubmodules(BlockOutput):
    """The output of a module that has a submodule called `output`, as BERT's layers do.

    `layer.output` is the layer's value, and `layer.output.dense` the submodule's `dense`.
    """

    __slots__ = ("_envoy",)

    @classmethod
    def of(cls, base: Base, steps: tuple[Any, ...], envoy: Envoy) -> Proxy:
        """A block's output, or (with no steps) any module's."""
        proxy = cls(base, steps)
        object.__setattr__(proxy, "_envoy", envoy)
        return proxy

    def __getattr__(self, name: str) -> Any:
        if self._envoy is not None and name in self._envoy._module._modules:
            return self._envoy._child(name)
        return super().__getattr__(name)

    def _close(self) -> None:
        super()._close()
        object.__setattr__(self, "_envoy", None)  # a value that a user keeps must not keep the model

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if self._steps else Proxy.__getitem__(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._steps:
            super().__setitem__(key, value)
        else:
            Proxy.__setitem__(self, key, value)


def _assign(recorder: Recorder, base: Base, steps: tuple[Any, ...], value: Any) -> None:
    if is_proxy(value) and value._base is base and value._steps == steps:
        return  # `module.output += x` assigns what it has just written
    encoded = recorder.encode(value)
    node = recorder.add("write", (base.node, steps, encoded, base.site))
    recorder.advance(base, node)


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)
