"""The statements of an exported script: one or a few for each node, in the block where it stands."""

from collections.abc import Callable
from typing import Any

from tracing.export.facts import refusal
from tracing.export.gradients import Gradients
from tracing.export.names import envoy_text, operation_name
from tracing.export.plan import Home, Plan, is_table
from tracing.export.sites import Sites
from tracing.export.writer import Writer
from tracing.graph.nodes import Node


class Body:
    """Writes the statements of all nodes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.writer = Writer(plan)
        sites = Sites(self.writer)
        gradients = Gradients(self.writer, sites, self._write)
        self._writers: dict[str, Callable[[Node], None]] = {
            "site": sites.site,
            "part": sites.part,
            "write": sites.write,
            "skip": sites.skip,
            "backward": gradients.backward,
            "grad_total": self._grad_total,
            "module": self._module,
            "parameter": self._parameter,
            "stop": self._stop,
            "list": self._list,
            "append": self._append,
        }

    def write_all(self) -> None:
        """Write every node. Raises `ExportError` naming the first that cannot be."""
        self._begin_lists()
        for node in self.plan.order:
            if node not in self.writer.done:
                self._write(node)
        self._save_lists()

    def _write(self, node: Node) -> None:
        with self.writer.writing(node):
            try:
                self.writer.sync_all([guard for guard, _ in self.plan.guards[node]])
                if is_table(node):
                    self._operation(node)
                elif node.op in self._writers:
                    self._writers[node.op](node)
                else:
                    raise refusal(node, f"there are no words for {node.op!r}", "Say it with operations of torch.")
            except TypeError as error:
                raise refusal(
                    node, f"one of its arguments is an object ({error})", "Give tensors, numbers, text and lists."
                ) from None

    # -- computed values ----------------------------------------------------------------------------------------------
    def _operation(self, node: Node) -> None:
        try:
            expression = self.writer.expressions.of(node)
        except LookupError:
            raise refusal(node, f"{node.op!r} is no function of torch", "Say it with operations of torch.") from None
        self.writer.assign(node, expression, f"{operation_name(node)}_{node.id}")
        self.writer.make_leaf(node)

    def _module(self, node: Node) -> None:
        path, args, kwargs = node.args
        if not path:
            raise refusal(node, "it calls the whole model inside of itself", "Give the prompt a trace of its own.")
        call = f"{envoy_text(path)}{self.writer.expressions.call(args, kwargs)}"
        self.writer.assign(node, call, f"{path.split('.')[-1]}_{node.id}")
        self.writer.make_leaf(node)

    def _parameter(self, node: Node) -> None:
        path = node.args[0]
        owner, _, name = path.rpartition(".")
        kind = "parameter" if name in self.plan.model.submodule(owner)._parameters else "buffer"
        self.writer.assign(node, f'module.get_{kind}("{path}").detach().clone()', path.replace(".", "_"))
        self.writer.make_leaf(node)

    def _grad_total(self, node: Node) -> None:
        self.writer.assign(node, " + ".join(self.writer.text_of(one) for one in node.args[0]), f"grad_{node.id}")

    def _stop(self, node: Node) -> None:
        """The values are the same if the forward goes on; nnsight would drop what other prompts wait for."""

    # -- lists --------------------------------------------------------------------------------------------------------
    def _list(self, node: Node) -> None:
        items = ", ".join(self.writer.copied(one) for one in node.args[0])
        self.writer.assign(node, f"[{items}]", f"values_{node.id}")

    def _append(self, node: Node) -> None:
        writer, (values, new) = self.writer, node.args
        text = writer.text_of(values)
        if len(self.plan.users(values)) == 1 and values not in writer.saved:
            writer.text[node] = text
            writer.say(f"{text}.append({writer.copied(new)})", node)
            return
        variable = writer.text[node] = writer.unique("values")
        writer.unguarded(node, variable, text)
        writer.say(f"{variable} = [*{text}, {writer.copied(new)}]", node)

    def _begin_lists(self) -> None:
        """Lists of the values of several steps are begun before the trace, so that an early end leaves what came."""
        writer = self.writer
        for node in self.plan.order:
            if node.op == "list" and self._over_steps(node.args[0]):
                name = writer.unique(f"values_{node.id}")
                writer.known_before(node, name)
                writer.say(f"{name} = []", node, home=Home(self.plan.keys[node][0] - 1), guards=())
                for one in node.args[0]:
                    writer.growing.setdefault(one, []).append(name)

    def _over_steps(self, values: Any) -> bool:
        return (
            bool(values)
            and all(isinstance(one, Node) for one in values)
            and any(self.plan.keys[one][1] for one in values)
        )

    def _save_lists(self) -> None:
        """Save the lists that generations filled, after them."""
        writer = self.writer
        for node in self.plan.order:
            if node in writer.saved and writer.grows_to_the_end(node):
                text = f"save({writer.expressions.value(writer.saved[node])}, {writer.text[node]})"
                writer.say(text, node, home=Home(self.plan.keys[node][0]), guards=())
