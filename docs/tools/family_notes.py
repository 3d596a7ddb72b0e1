"""What docs/families.md says of each architecture beside its tables: what to watch for, and an example that runs.

Every claim here is either shown by the example, whose output stands on the page, or checked by `families.check`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """One section: the model of tests/zoo.py that it shows, prose, and a block of Python."""

    zoo: str
    title: str
    text: str
    example: str


NOTES: tuple[Note, ...] = (
    Note(
        "gpt2",
        "GPT-2",
        "`q`, `k` and `v` are three equal parts of one projection, `attn.c_attn`; the sites cut them apart and write "
        "back. `attn.attn_dropout.input[0][0]` is the attention pattern too: reading it switches the eager path on.",
        """\
model = LanguageModel(tiny("gpt2"))
with model.trace(ids):
    q = model.sites.q[1].save()
    fused = model.transformer.h[1].attn.c_attn.output.save()
    pattern = model.sites.pattern[1].save()

print(q.shape, fused.shape, pattern.shape)
""",
    ),
    Note(
        "gpt_neox",
        "GPT-NeoX, Pythia",
        "Attention and MLP read the same residual (parallel blocks), so there is no `resid_mid`; checkpoints with "
        "`use_parallel_residual: false` have one. `query_key_value` holds q, k and v side by side within each head.",
        """\
model = LanguageModel(tiny("gpt_neox"))
with model.trace(ids):
    before = model.sites.resid_pre[1].save()
    attn = model.sites.attn_out[1].save()
    mlp = model.sites.mlp_out[1].save()
    after = model.gpt_neox.layers[1].output[0].save()

print(torch.allclose(before + attn + mlp, after, atol=1e-4))
""",
    ),
    Note(
        "llama",
        "LLaMA",
        "Under grouped-query attention `k` and `v` have the key-value heads, fewer than `q`. "
        "`q` and `k` are before rotation, `q_rot` and `k_rot` after it.",
        """\
model = LanguageModel(tiny("llama"))
with model.trace(ids):
    q = model.sites.q[0].save()
    k = model.sites.k[0].save()
    rotated = model.sites.k_rot[0].save()
    hidden = model.model.layers[1].output[0].save()

print(q.shape, k.shape, rotated.shape, hidden.shape)
""",
    ),
    Note(
        "mistral",
        "Mistral",
        "LLaMA's paths. Attention may look back over a sliding window only: keys outside of it have the weight 0.",
        """\
model = LanguageModel(tiny("mistral"))
with model.trace(ids):
    pattern = model.sites.pattern[0].save()

print((pattern[0, 0, -1] > 0).tolist())  # this model's window is 4
""",
    ),
    Note(
        "qwen2",
        "Qwen2",
        "LLaMA's paths, with biases on q, k and v. The sites include the bias, as the projections' outputs do.",
        """\
model = LanguageModel(tiny("qwen2"))
with model.trace(ids):
    model.sites.q[1][:, :, 0] = 0  # one head's queries
    flat = model.sites.pattern[1][0, 0, -1].save()

print(flat[:3])
""",
    ),
    Note(
        "qwen3",
        "Qwen3",
        "LLaMA's paths, and a norm of each head's queries and keys. `q` and `k` are before that norm, `q_rot` and "
        "`k_rot` after norm and rotation. `head_dim` need not be width / heads.",
        """\
model = LanguageModel(tiny("qwen3"))
with model.trace(ids):
    q = model.sites.q[1].save()
    normed = model.model.layers[1].self_attn.q_norm.output.save()

print(q.shape, normed.shape, torch.allclose(q, normed))
""",
    ),
    Note(
        "gemma2",
        "Gemma 2",
        "A norm stands in front of and behind each sublayer; what is added to the residual is the output of the "
        "second, so `attn_out` is `post_attention_layernorm`. Scores and logits are softcapped: `scores` are the "
        "capped ones, and `model.output` too. The embedding is scaled by the square root of the width before `embed`.",
        """\
model = LanguageModel(tiny("gemma2"))
with model.trace(ids):
    added = model.sites.attn_out[1].save()
    inside = model.model.layers[1].self_attn.output[0].save()
    before = model.sites.resid_pre[1].save()
    middle = model.sites.resid_mid[1].save()

print(torch.allclose(before + added, middle, atol=1e-4), torch.allclose(before + inside, middle, atol=1e-4))
""",
    ),
    Note(
        "gemma3_text",
        "Gemma 3",
        "As Gemma 2, without softcaps, and with a norm of each head's queries and keys. The model type of the text "
        "model is `gemma3_text`.",
        """\
model = LanguageModel(tiny("gemma3_text"))
with model.trace(ids):
    embed = model.sites.embed.save()
    table = model.model.embed_tokens.output.save()

print(embed.shape, torch.allclose(embed, table))
""",
    ),
    Note(
        "gemma3",
        "Gemma 3 with vision",
        "The checkpoints of 4B and more have a vision tower beside the language model; their model type is `gemma3`. "
        "The sites are the language model's, with text alone or with images among the tokens.",
        """\
model = LanguageModel(tiny("gemma3"))
with model.trace(ids):
    hidden = model.model.language_model.layers[1].output[0].save()
    same = model.sites.resid_post[1].save()

print(torch.equal(hidden, same))
""",
    ),
    Note(
        "phi",
        "Phi-1.5, Phi-2",
        "Parallel blocks that share one norm: no `resid_mid`. The unembedding has a bias.",
        """\
model = LanguageModel(tiny("phi"))
with model.trace(ids):
    final = model.model.final_layernorm.output
    logits = model.lm_head(final).save()
    same = model.output.save()

print(torch.allclose(logits, same))
""",
    ),
    Note(
        "phi3",
        "Phi-3",
        "q, k and v come from one projection, `self_attn.qkv_proj`, in unequal parts: all query heads, then the key "
        "heads, then the value heads.",
        """\
model = LanguageModel(tiny("phi3"))
with model.trace(ids):
    fused = model.model.layers[1].self_attn.qkv_proj.output.save()
    sizes = [site[1].save() for site in (model.sites.q, model.sites.k, model.sites.v)]

print(fused.shape, [tuple(size.shape) for size in sizes])
""",
    ),
    Note(
        "opt",
        "OPT",
        "There is no `mlp` module: `mlp_out` is the output of `fc2`. This half of a block runs on tokens side by side, "
        "so its modules' values are `[batch · position, d_model]`; the sites have the usual shape. "
        "Each block has a `final_layer_norm` of its own, which is not the model's.",
        """\
model = LanguageModel(tiny("opt"))
with model.trace(ids):
    mlp = model.sites.mlp_out[1].save()
    fc2 = model.model.decoder.layers[1].fc2.output.save()
    block_norm = model.model.decoder.layers[1].final_layer_norm.output.save()

print(mlp.shape, fc2.shape, block_norm.shape)
""",
    ),
    Note(
        "olmo2",
        "OLMo 2",
        "Norms stand behind the sublayers only: attention reads the residual itself, and `attn_out` is the output of "
        "`post_attention_layernorm`.",
        """\
model = LanguageModel(tiny("olmo2"))
with model.trace(ids):
    read = model.model.layers[1].self_attn.input.save()
    resid = model.sites.resid_pre[1].save()

print(torch.equal(read, resid))
""",
    ),
    Note(
        "mixtral",
        "Mixtral",
        "Mistral's attention. The MLP is a mixture of experts: `mlp.gate` routes and returns a tuple, and "
        "`mlp.experts` is called on tokens side by side. `mlp_out` is their sum, in the usual shape.",
        """\
model = LanguageModel(tiny("mixtral"))
with model.trace(ids):
    mlp = model.sites.mlp_out[1].save()
    router = model.model.layers[1].mlp.gate.output[0].save()

print(mlp.shape, router.shape)  # [batch · position, expert]
""",
    ),
    Note(
        "bloom",
        "BLOOM",
        "The modules `self_attention` and `mlp` add the residual inside, so their outputs are `resid_mid` and "
        "`resid_post`. The contributions are those of the dense layers, which is what `attn_out` and `mlp_out` are. "
        "A norm follows the embedding; positions enter as ALiBi biases of the scores.",
        """\
model = LanguageModel(tiny("bloom"))
with model.trace(ids):
    module = model.transformer.h[1].self_attention.output[0].save()
    middle = model.sites.resid_mid[1].save()
    added = model.sites.attn_out[1].save()

print(torch.equal(module, middle), torch.equal(module, added))
""",
    ),
    Note(
        "falcon",
        "Falcon",
        "Three layouts, told apart by the config: multi-query (7B), key-value groups with two norms "
        "(`new_decoder_architecture`), and sequential with ALiBi (RW). The parallel ones have no `resid_mid`. Their "
        "blocks change the MLP's output in place after it was returned; a value read or saved here is that of the MLP.",
        """\
model = LanguageModel(tiny("falcon"))
grouped = LanguageModel(tiny("falcon_new"))
with model.trace(ids):
    mlp = model.transformer.h[1].mlp.output.save()
    attn = model.sites.attn_out[1].save()
    step = (model.sites.resid_post[1] - model.sites.resid_pre[1]).save()
with grouped.trace(ids):
    k = grouped.sites.k[1].save()

print(torch.allclose(mlp + attn, step, atol=1e-4), k.shape)
""",
    ),
    Note(
        "gpt_bigcode",
        "GPT-BigCode, StarCoder",
        "GPT-2's paths. With `multi_query` all heads share one key and one value head.",
        """\
model = LanguageModel(tiny("gpt_bigcode"))
with model.trace(ids):
    q = model.sites.q[1].save()
    v = model.sites.v[1].save()

print(q.shape, v.shape)
""",
    ),
    Note(
        "gptj",
        "GPT-J",
        "Parallel blocks that share one norm: no `resid_mid`. Only part of each head is rotated. The unembedding has a "
        "bias.",
        """\
model = LanguageModel(tiny("gptj"))
with model.trace(ids):
    q = model.sites.q[1].save()
    rotated = model.sites.q_rot[1].save()

print([torch.allclose(q[..., part], rotated[..., part]) for part in (slice(0, 4), slice(4, None))])
""",
    ),
    Note(
        "bert",
        "BERT",
        "An encoder that norms after each sublayer: `resid_mid` is LN(resid_pre + attn_out), so the residual stream is "
        "not a sum over layers. `attention.self` gives the heads before W_O; W_O is `attention.output.dense`. A "
        "submodule is called `output`: `layer.output` is the layer's value, `layer.output.dense` the submodule's.",
        """\
model = LanguageModel(tiny("bert"))
with model.trace(ids):
    layer = model.bert.encoder.layer[1]
    hidden = layer.output.save()
    mlp = layer.output.dense.output.save()
    same = model.sites.mlp_out[1].save()

print(hidden.shape, torch.equal(mlp, same))
""",
    ),
    Note(
        "vit",
        "ViT",
        "`VisionModel` takes pixels, a processor's output or images. Positions are patches behind one class token, "
        "which the classifier reads; attention is bidirectional.",
        """\
model = VisionModel(tiny("vit"))
pixels = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
with model.trace(pixels):
    hidden = model.vit.layers[1].output[0].save()
    pattern = model.sites.pattern[1].save()
    classes = model.output.save()

print(hidden.shape, pattern.shape, classes.shape)
""",
    ),
    Note(
        "mamba",
        "Mamba",
        "A state space model: no heads, no pattern, no MLP. A block adds one contribution, `mixer_out`.",
        """\
model = LanguageModel(tiny("mamba"))
with model.trace(ids):
    before = model.sites.resid_pre[1].save()
    added = model.sites.mixer_out[1].save()
    after = model.backbone.layers[1].output[0].save()

print(torch.allclose(before + added, after, atol=1e-4))
""",
    ),
    Note(
        "t5",
        "T5",
        "Encoder and decoder, at block level. Sites without a prefix are the decoder's, those of the encoder begin "
        "with `encoder_`. A decoder block adds three contributions, `attn_out`, `cross_out` (attention to the "
        "encoder) and `mlp_out`.",
        """\
model = LanguageModel(tiny("t5"))
with model.trace(input_ids=ids, decoder_input_ids=ids[:, :4]):
    encoder = model.sites.encoder_resid_post[1].save()
    decoder = model.sites.resid_post[1].save()
    cross = model.sites.cross_out[1].save()

print(encoder.shape, decoder.shape, cross.shape)
""",
    ),
)
