"""Traces that are exported: a case for each thing that a graph can say, in words that fit every family.

Prompts are of unequal lengths wherever there are several, so that padding is in the way.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.parity.peers.layout import Layout

LONG = [5, 7, 30, 41, 8, 77, 12, 60]
MIDDLE = [3, 40, 17, 88, 21, 9]
SHORT = [61, 4, 19]
TWO = [[3, 40, 17, 88], [11, 6, 9, 2]]
Given = Mapping[str, Tensor]


# -- reads and writes -------------------------------------------------------------------------------------------------
def case_output_0_of_blocks(model: Any, at: Layout, given: Given) -> None:
    with model.trace(TWO):
        hidden = at.blocks[0].output[0]
        hidden.save()
        hidden[:, -1].save()
        at.blocks[1].output[0][:] = hidden * 2
        at.blocks[2].output[0].save()
        model.output.save()


def case_every_way_to_write(model: Any, at: Layout, given: Given) -> None:
    with model.trace(TWO):
        first, second, third = at.blocks
        first.output[:, 1, 3:9] = 0.25
        first.output[:, -2] += given["direction"]
        first.output.transpose(1, 2)[:, 4:6] *= 0.5
        first.output[:, 1:].unflatten(-1, (4, 8))[:, :, 2] = 1.5
        second.output = second.output * 2 + given["direction"]
        second.output[second.output > 3] = 3
        at.mlps[2].input[:, 0] = 0
        third.input = third.input + 1
        at.attentions[1].output[0][..., :4] = 7
        at.unembedding.output = at.unembedding.output * 2
        model.output[..., 5] = -100
        for block in at.blocks:
            block.output.save()
            block.input.save()
        model.output.save()


def case_versions_keep_their_values(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        hidden = at.blocks[1].output
        before = hidden.save()
        part = hidden[:, 2]
        doubled = hidden * 2
        hidden[:, 0] = 0
        between = hidden.clone().save()
        hidden *= 3
        hidden.save()
        (doubled + between + before).sum(-1).save()
        part.save()
        model.output.save()


def case_reads_in_any_order(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        late = at.blocks[2].output.save()
        early = at.blocks[0].output.save()
        logits = model.output.save()
        at.blocks[1].output[:] = early.flip(1)
        (late[..., :3] * early[..., :3]).save()
        logits.argmax(-1).save()
        at.embedding.output.save()


def case_inputs_of_modules(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        at.attentions[0].input.save()
        at.attentions[1].input[:, 1] = 0.5
        at.blocks[1].inputs[0][0].save()
        at.mlps[1].inputs[0][0].norm().save()
        at.attentions[1].output[0].save()
        model.output.save()


def case_standard_sites(model: Any, at: Layout, given: Given) -> None:
    sites = model.sites
    with model.trace(TWO):
        sites.embed.save()
        sites.resid_pre[1].save()
        sites.resid_mid[1].save()
        sites.q[1].save()
        sites.k[1].save()
        sites.v[1].save()
        sites.z[1].save()
        sites.head_out[1].save()
        sites.attn_out[1].save()
        sites.mlp_out[1].save()
        sites.resid_post[1].save()
        sites.logits.save()


def case_writes_to_standard_sites(model: Any, at: Layout, given: Given) -> None:
    sites = model.sites
    with model.trace(TWO):
        sites.embed[:, 0] = 0.1
        sites.q[0][:, :, 1] = 0.5
        sites.v[0][:, 1] *= 2
        sites.k[1][..., 0] = 0
        sites.z[1][:, :, 2] = 0
        sites.z[1][:, 1, 3] += 1
        sites.resid_mid[1][:, -1] = given["direction"]
        sites.resid_mid[2] = sites.resid_mid[2] * 0.5
        sites.resid_pre[2][:, 1] += 1
        sites.mlp_out[2][:] = 0
        sites.resid_mid[2].save()
        sites.resid_post[2].save()
        sites.logits.save()


def case_patterns(model: Any, at: Layout, given: Given) -> None:
    with model.trace() as tracer:
        for prompt in (MIDDLE, MIDDLE[::-1]):
            with tracer.invoke(prompt):
                model.sites.pattern[1].save()
                model.sites.pattern[2][:, 1, -1].sum(-1).save()


def case_many_modules(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE) as tracer:
        tracer.cache(modules=[at.mlps[0], at.blocks[1]], include_inputs=True)


def case_keyword_arguments_of_the_forward(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE, use_cache=False, output_hidden_states=True):
        model.output.hidden_states[1].save()
        model.output.logits[:, -1].save()


def case_a_loss_from_labels(model: Any, at: Layout, given: Given) -> None:
    with model.trace(input_ids=torch.tensor(TWO), labels=torch.tensor(TWO)):
        at.blocks[0].output[:] *= 0.5
        model.output.loss.save()


# -- other families: every standard site ------------------------------------------------------------------------------
def standard_sites(model: Any) -> list[tuple[str, Any]]:
    """The sites of layer 1 and those that have no layer, but those inside attention."""
    found = [(name, getattr(model.sites, name)) for name in dir(model.sites)]
    inside = ("pattern", "scores", "q_rot", "k_rot")
    return [(name, site[1] if is_layered(site) else site) for name, site in found if name not in inside]


def is_layered(site: Any) -> bool:
    """Whether a site has a value in each layer."""
    return type(site).__name__ == "LayerSites"


def sites_read(model: Any) -> None:
    with model.trace(TWO):
        for _, site in standard_sites(model):
            site.save()


def sites_written(model: Any) -> None:
    with model.trace() as tracer:
        for prompt in (MIDDLE, SHORT):
            with tracer.invoke(prompt):
                for name, site in standard_sites(model):
                    if name not in ("head_out", "logits"):
                        site[:, 1] = site[:, 1] * 0.5 + 1
                model.output.save()


def sites_differentiated(model: Any) -> None:
    with model.trace(TWO):
        for name, site in standard_sites(model):
            if name != "head_out":
                site.grad.save()
        model.output[:, -1, 3].sum().backward()


# -- operations -------------------------------------------------------------------------------------------------------
def case_operations(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        hidden, logits = at.blocks[1].output, model.output
        (-hidden + 1 - 2 * hidden / 3 + hidden**2 % 5 // 2).save()
        (2 - hidden).save()
        (1 / (hidden.abs() + 1)).save()
        ((hidden > 0) & ~(hidden > 1) | (hidden == 0)).save()
        (hidden @ given["direction"]).save()
        hidden.mean(dim=-1, keepdim=True).save()
        hidden.std(-1).clamp(0.1, 2.0).save()
        functional.layer_norm(hidden, (32,), eps=1e-6).save()
        functional.softmax(logits[0, -1] / 0.7, dim=-1).save()
        functional.cosine_similarity(hidden[:, 0], hidden[:, 1], dim=-1).save()
        torch.einsum("bpd,d->bp", hidden, given["direction"]).save()
        torch.stack([hidden[:, 0], hidden[:, -1]]).permute(1, 0, 2).reshape(-1).save()
        torch.where(hidden > 0, hidden, float("-inf")).save()
        torch.linalg.norm(hidden, dim=-1).save()
        top = logits[0, -1].topk(3)
        top.values.save()
        top[1].save()
        logits.gather(-1, logits.argmax(-1, keepdim=True)).save()
        hidden.to(torch.float32).double().save()
        hidden.masked_fill(hidden < 0, 0).cumsum(1).save()
        torch.zeros_like(hidden).add_(1).save()


def case_indices(model: Any, at: Layout, given: Given) -> None:
    with model.trace(TWO):
        hidden = at.blocks[1].output
        hidden[0, 1:3, ::2].save()
        hidden[:, [0, 2]].save()
        hidden[..., None, -1].save()
        hidden[hidden > 0].save()
        hidden[torch.tensor([1, 0]), :, 3].save()
        hidden[:, hidden[0, :, 0].argmax()].save()
        hidden.shape.save()
        hidden.shape[1].save()
        hidden[0, 0, 0].item().save()


def case_conditions(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE) as tracer:
        hidden = at.blocks[0].output
        with tracer.cond(hidden.mean() > 100) as branch:
            hidden[:] = 0
        with branch.otherwise():
            hidden[:, 1] = 1
            with tracer.cond(hidden.sum() < 1e9):
                at.blocks[1].output = at.blocks[1].output * 2
        at.blocks[1].output.save()
        model.output.save()


def case_constants(model: Any, at: Layout, given: Given) -> None:
    table = torch.arange(200)
    with model.trace(MIDDLE):
        at.blocks[1].output[:] += given["direction"]
        (model.output[0, -1] * given["direction"].mean()).save()
        (at.blocks[1].output[0, :, 0] + table[:6]).save()
        (model.output.argmax(-1) == table[100]).save()


def case_computed_values_are_written(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        mixed = at.blocks[0].output * 2
        mixed[:, 1] = 0
        mixed[:, 2:4] += 1
        at.blocks[1].output[:] = mixed
        mixed.save()
        model.output.save()


# -- modules ----------------------------------------------------------------------------------------------------------
def case_logit_lens(model: Any, at: Layout, given: Given) -> None:
    with model.trace(TWO):
        for block in at.blocks:
            at.unembedding(at.norm(block.output[0][:, -1])).softmax(-1).save()


def case_parameters(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        (at.unembedding.weight[7] @ at.norm.output[0, -1]).save()
        at.blocks[1].output[:, -1] = at.embedding.weight[17]
        model.output.save()


def case_skip(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        at.blocks[1].skip(at.blocks[1].input * 0.5)
        at.mlps[2].skip(torch.zeros(1, 6, 32, dtype=torch.float64))
        model.output.save()


def case_skip_of_some_prompts_and_of_attention(model: Any, at: Layout, given: Given) -> None:
    with model.trace() as tracer:
        with tracer.invoke(LONG):
            at.attentions[1].skip(torch.zeros(1, 8, 32, dtype=torch.float64))
            model.output.save()
        with tracer.invoke(SHORT):
            at.blocks[2].skip(at.blocks[2].input * 2)
            model.output.save()


def case_stop(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE) as tracer:
        at.blocks[0].output.save()
        tracer.stop()


def case_edits(model: Any, at: Layout, given: Given) -> None:
    with model.edit() as edited:
        Layout(edited, at.family).mlps[1].output[:] = 0
    with edited.edit() as both:
        Layout(both, at.family).blocks[0].output[:, -1] += 1
    with both.trace() as tracer:
        for prompt in (LONG, SHORT):
            with tracer.invoke(prompt):
                both.output.save()


# -- prompts ----------------------------------------------------------------------------------------------------------
def case_prompts_of_unequal_lengths(model: Any, at: Layout, given: Given) -> None:
    with model.trace() as tracer:
        for number, prompt in enumerate((SHORT, LONG, TWO)):
            with tracer.invoke(prompt):
                at.blocks[0].output[0][:, 0] = number
                at.blocks[1].output[0].save()
                at.attentions[1].output[0].save()
                model.output.argmax(-1).save()
        with tracer.invoke():
            at.blocks[2].output[:, -1].save()


def case_values_cross_prompts(model: Any, at: Layout, given: Given) -> None:
    with model.trace() as tracer:
        with tracer.invoke(LONG):
            late = at.blocks[1].output[0][:, -1]
        with tracer.invoke(SHORT):
            at.blocks[1].output[0][:, 1] = late
            mine = at.blocks[1].output[0].save()
            model.output.save()
        with tracer.invoke(MIDDLE):
            at.blocks[2].output[0][:, :3] = mine + late
            model.output.save()


def case_values_cross_to_an_earlier_prompt(model: Any, at: Layout, given: Given) -> None:
    saved = []
    with model.trace() as tracer:
        with tracer.invoke(LONG):
            mine = at.blocks[0].output
            saved.append(model.output[:, -1].save())
        with tracer.invoke(SHORT):
            at.blocks[0].output[:, -1] = mine[:, 2]
            back = at.blocks[1].output
        with tracer.invoke(MIDDLE):
            at.blocks[1].output[:, 1] = back[:, 1]
            saved.append(model.output[:, -1].save())


def case_both_prompts_give_to_each_other(model: Any, at: Layout, given: Given) -> None:
    with model.trace() as tracer:
        with tracer.invoke(LONG):
            first = at.blocks[0].output[:, -1]
        with tracer.invoke(SHORT):
            at.blocks[1].output[:, -1] = first
            second = at.blocks[1].output[:, 0]
            model.output.save()
        with tracer.invoke(MIDDLE):
            at.blocks[2].output[:, 0] = second + first
            (model.output[:, -1] + at.blocks[2].output.sum()).save()


def case_a_later_layer_into_an_earlier_one(model: Any, at: Layout, given: Given) -> None:
    """One forward cannot do it: the prompts run one after the other."""
    with model.trace() as tracer:
        with tracer.invoke(LONG):
            late = at.blocks[2].output[0][:, -1]
        with tracer.invoke(SHORT):
            at.blocks[0].output[0][:, -1] = late
            logits = model.output[:, -1].save()
        with tracer.invoke(MIDDLE):
            at.embedding.output[:, 1] = late
            (model.output[:, -1] - logits).save()


def case_a_session(model: Any, at: Layout, given: Given) -> None:
    with model.session():
        with model.trace(LONG):
            one = at.blocks[2].output[0]
            total = model.output.sum()
        with model.trace(MIDDLE):
            at.blocks[0].output[0][:, :2] = one[:, :2]
            two = at.blocks[1].output.mean(1).save()
        with model.trace(SHORT):
            at.blocks[1].output[:, -1] = two
            (model.output + total).save()
