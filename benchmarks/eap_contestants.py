"""One contestant of `benchmarks.eap` in a process of its own: reads commands, measures itself, answers.

python -m benchmarks.eap_contestants NAME MODEL_FOLDER OPTIONS_JSON
"""

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.peers.worker import reset_peak, resident

ANSWER, FOIL = 11, 13
Task = Callable[[Tensor, Tensor], Tensor | None]


def plain(model: Any, _steps: int) -> Task:
    """One forward of the clean prompts, as everyone writes it: what times are counted in."""

    @torch.no_grad()
    def run(clean: Tensor, _corrupted: Tensor) -> None:
        model(clean, use_cache=False)

    return run


def backward(model: Any, _steps: int) -> Task:
    """A forward with its backward to the embeddings, nothing else: the memory of the activations alone."""

    def run(clean: Tensor, _corrupted: Tensor) -> None:
        embedded = model.transformer.wte(clean).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[:, -1]
        torch.autograd.grad((logits[:, ANSWER] - logits[:, FOIL]).sum(), embedded)

    return run


def ours(model: Any, steps: int) -> Task:
    """`tracing.circuits.edge_attribution`: EAP for one step, else EAP-IG-inputs."""
    from tracing.circuits import edge_attribution
    from tracing.models import LanguageModel
    from tracing.prompts import TokenizedPair

    wrapped = LanguageModel(model)
    method: Any = "eap" if steps == 1 else "eap-ig-inputs"

    def run(clean: Tensor, corrupted: Tensor) -> Tensor:
        pairs = [
            TokenizedPair(n, tuple(a), tuple(b), tuple(map(str, a)), tuple(map(str, b)), (ANSWER,), (FOIL,))
            for n, (a, b) in enumerate(zip(clean.tolist(), corrupted.tolist(), strict=True), start=1)
        ]
        # The batch is given where memory is compared, so that nobody gains by cutting it.
        batch: Any = len(pairs) if pairs and len(pairs) <= 2 else "auto"
        return torch.from_numpy(edge_attribution(wrapped, pairs, method=method, steps=steps, batch=batch).scores)

    return run


def by_hand(model: Any, steps: int) -> Task:
    """GPT-2's EAP (or EAP-IG-inputs) in plain torch for this one model: hooks, one backward a step, einsum."""
    body, heads = model.transformer, model.config.n_head
    width = model.config.n_embd
    d, layers = width // heads, len(body.h)

    def record(embedded: Tensor, *, grad: bool) -> dict[str, Any]:
        seen: dict[str, Any] = {"z": [], "mlp": [], "x": [], "qkv": [], "mid": []}
        handles = []
        for block in body.h:
            handles += [
                block.attn.c_proj.register_forward_pre_hook(lambda _, a: seen["z"].append(a[0].detach())),
                block.mlp.register_forward_hook(lambda _m, _a, out: seen["mlp"].append(out.detach())),
                block.ln_1.register_forward_pre_hook(lambda _, a: seen["x"].append(a[0].detach())),
                block.attn.c_attn.register_forward_hook(lambda _m, _a, out: seen["qkv"].append(out)),
                block.ln_2.register_forward_pre_hook(_own(seen["mid"])),
            ]
        handles.append(body.h[-1].register_forward_hook(lambda _m, _a, out: seen.update(final=out)))
        with torch.set_grad_enabled(grad):
            logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[:, -1]
        for handle in handles:
            handle.remove()
        if grad:
            wanted = [*seen["qkv"], *seen["mid"], seen["final"]]
            grads = torch.autograd.grad((logits[:, ANSWER] - logits[:, FOIL]).sum(), wanted)
            seen["g_qkv"], seen["g_mid"] = grads[:layers], grads[layers : 2 * layers]
            seen["g_final"] = grads[-1]
        return seen

    def changes(clean: dict[str, Any], corrupted: dict[str, Any], embedding: Tensor) -> Tensor:
        rows = [embedding.flatten(0, 1)[None]]
        for n, block in enumerate(body.h):
            z = (corrupted["z"][n] - clean["z"][n]).flatten(0, 1).unflatten(-1, (heads, d))
            rows.append(torch.einsum("thd,hdm->htm", z, block.attn.c_proj.weight.unflatten(0, (heads, d))))
            rows.append((corrupted["mlp"][n] - clean["mlp"][n]).flatten(0, 1)[None])
        return torch.cat(rows)

    def contracted(change: Tensor, seen: dict[str, Any]) -> Tensor:
        columns = []
        for n, block in enumerate(body.h):
            g = seen["g_qkv"][n].flatten(0, 1).unflatten(-1, (3 * heads, d))
            weight = block.attn.c_attn.weight.unflatten(-1, (3 * heads, d))
            pulled = torch.einsum("trd,mrd->rtm", g, weight) * block.ln_1.weight
            x = seen["x"][n].flatten(0, 1)
            x = x - x.mean(-1, keepdim=True)
            scale = (x.square().mean(-1, keepdim=True) + block.ln_1.eps).rsqrt()
            x = x * scale
            pulled = (pulled - pulled.mean(-1, keepdim=True) - x * (pulled * x).mean(-1, keepdim=True)) * scale
            before = change[: 1 + n * (heads + 1)]
            columns.append(_padded(torch.einsum("stm,rtm->sr", before, pulled), len(change)))
            before = change[: 1 + n * (heads + 1) + heads]
            mlp = seen["g_mid"][n].flatten(0, 1)
            columns.append(_padded(torch.einsum("stm,tm->s", before, mlp)[:, None], len(change)))
        columns.append(torch.einsum("stm,tm->s", change, seen["g_final"].flatten(0, 1))[:, None])
        return torch.cat(columns, 1)

    def run(clean: Tensor, corrupted: Tensor) -> Tensor:
        own, other = body.wte(clean).detach(), body.wte(corrupted).detach()
        patched = record(other, grad=False)
        if steps == 1:
            seen = record(own.requires_grad_(), grad=True)
            with torch.no_grad():
                return contracted(changes(seen, patched, other - own), seen) / len(clean)
        base = record(own, grad=False)
        with torch.no_grad():
            change = changes(base, patched, other - own)
        total: Any = 0
        for step in range(steps):
            seen = record((other + step / steps * (own - other)).requires_grad_(), grad=True)
            with torch.no_grad():
                total = total + contracted(change, seen)
        return total / steps / len(clean)  # type: ignore[no-any-return]

    return run


def _own(kept: list[Tensor]) -> Any:
    def hook(_module: Any, args: Any) -> Any:
        kept.append(args[0].view_as(args[0]))
        return (kept[-1], *args[1:])

    return hook


def _padded(columns: Tensor, rows: int) -> Tensor:
    return torch.cat([columns, columns.new_zeros(rows - len(columns), columns.shape[1])])


def lens(folder: str) -> Task:
    """TransformerLens's own EAP; its gradients are taken in its "corrupt" run, so the prompts change places."""
    # The peer is on this process's path alone.
    bridges: Any = importlib.import_module("transformer_lens.model_bridge")
    analysis: Any = importlib.import_module("transformer_lens.tools.analysis.attribution_patching")
    bridge = bridges.TransformerBridge.boot_transformers(folder, dtype=torch.float32, device="cpu")
    letters = {"q_input": 0, "k_input": 1, "v_input": 2}

    def run(clean: Tensor, corrupted: Tensor) -> Tensor:
        found = analysis.attribution_patch(
            bridge, corrupted, clean, lambda logits: logits[0, -1, ANSWER] - logits[0, -1, FOIL],
            analysis.EdgeAttributionConfig(granularity="edge"),
        ).edge_scores  # fmt: skip
        layers, heads = bridge.cfg.n_layers, bridge.cfg.n_heads
        scores = torch.zeros(1 + layers * (heads + 1), layers * (3 * heads + 1) + 1)
        for (source, reader), score in found.items():
            row, column = 0, -1
            if source.kind != "embed":
                row = 1 + source.layer * (heads + 1) + (heads if source.kind == "mlp_out" else source.head)
            if reader.kind != "logits":
                part = 3 * heads if reader.kind == "mlp_in" else letters[reader.kind] * heads + reader.head
                column = reader.layer * (3 * heads + 1) + part
            scores[row, column] += score
        return scores

    return run


def task_of(name: str, folder: str, options: dict[str, Any]) -> Task:
    """A contestant by name: "ours", "ours ig", "by hand", "by hand ig", "plain", "backward", "lens"."""
    if name == "lens":
        return lens(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options["dtype"]))
    model = model.to(options["device"]).eval().requires_grad_(False)
    kinds = {"plain": plain, "backward": backward, "ours": ours, "by hand": by_hand}
    return kinds[name.removesuffix(" ig")](model, options["steps"] if name.endswith(" ig") else 1)


def prompts(pairs: int, tokens: int, device: str) -> tuple[Tensor, Tensor]:
    """Random prompts `[pair, token]` that differ everywhere."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randint(100, 50_000, (2, pairs, tokens), generator=generator)
    return both[0].to(device), both[1].to(device)


def measured(task: Task, given: tuple[Tensor, Tensor], device: str, values: str) -> dict[str, Any]:
    """Time, CPU time and the memory on top of the loaded model, of one call."""
    cuda = device.startswith("cuda")
    gc.collect()
    reset_peak()
    before = resident("VmRSS")
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    wall, cpu = time.perf_counter(), time.process_time()
    found = task(*given)
    if cuda:
        torch.cuda.synchronize()
    answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    if found is not None:
        save_file({"scores": found.detach().float().cpu().contiguous()}, values)
    peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")
    return {**answer, "peak": max(0, peak - before)}


def main() -> None:
    """Answer commands, a line each: {"pairs", "tokens"}."""
    name, folder, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(options["threads"])
    task = task_of(name, folder, options)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        given = prompts(command["pairs"], command["tokens"], options["device"])
        values = Path(options["work"]) / f"{name.replace(' ', '-')}.safetensors"
        print(json.dumps(measured(task, given, options["device"], str(values))), flush=True)


if __name__ == "__main__":
    main()
