"""The code of the seed document, as it stands there but for the import: the tests run it, model names included."""

from typing import Final

FIRST_TRACE: Final = """
from tracing import LanguageModel

model = LanguageModel("openai-community/gpt2", device_map="auto")

with model.trace("The capital of France is") as tracer:
    # Extract hidden states from layer 5
    hidden = model.transformer.h[5].output[0].save()

    # Get final logits
    logits = model.output.save()

# Access saved values outside the trace
print(f"Hidden shape: {hidden.shape}")
print(f"Logits shape: {logits.shape}")
"""

TRACING_AND_PROXIES: Final = """
from tracing import LanguageModel
import torch

model = LanguageModel("gpt2", device_map="auto")

with model.trace("The Eiffel Tower is in") as tracer:
    # All operations are deferred (Proxy objects)
    h5_out = model.transformer.h[5].output[0]  # Proxy
    h5_mean = h5_out.mean(dim=-1)              # Proxy
    h5_saved = h5_mean.save()                  # Mark for retrieval

    # Modify activations in-place
    model.transformer.h[8].output[0][:] = 0    # Zero out layer 8

    # Get final output
    logits = model.output.save()

# After trace exits, access concrete values
print(h5_saved)      # Actual tensor
print(logits.shape)  # Actual shape
"""

MULTI_LAYER: Final = """
from tracing import LanguageModel
import torch

model = LanguageModel("gpt2", device_map="auto")
prompt = "The capital of France is"

with model.trace(prompt) as tracer:
    # Collect activations from all 12 layers
    layer_outputs = []
    for i in range(12):
        layer_out = model.transformer.h[i].output[0].save()
        layer_outputs.append(layer_out)

    # Collect attention patterns
    attn_patterns = []
    for i in range(12):
        attn = model.transformer.h[i].attn.attn_dropout.input[0][0].save()
        attn_patterns.append(attn)

    logits = model.output.save()

# Analyze layer norms and top predictions
for i, layer_out in enumerate(layer_outputs):
    print(f"Layer {i}: norm={layer_out.norm().item():.3f}")

probs = torch.softmax(logits[0, -1], dim=-1)
top_tokens = probs.topk(5)
for token, prob in zip(top_tokens.indices, top_tokens.values):
    print(f"  {model.tokenizer.decode(token)}: {prob.item():.3f}")
"""

ACTIVATION_PATCHING: Final = """
from tracing import LanguageModel
import torch

model = LanguageModel("gpt2", device_map="auto")

clean_prompt = "The Eiffel Tower is in"
corrupted_prompt = "The Colosseum is in"

# Step 1: Get clean activations
with model.trace(clean_prompt) as tracer:
    clean_hidden = model.transformer.h[8].output[0].save()

# Step 2: Patch clean activations into corrupted run
with model.trace(corrupted_prompt) as tracer:
    model.transformer.h[8].output[0][:] = clean_hidden
    patched_logits = model.output.save()

# Step 3: Compare predictions
paris_token = model.tokenizer.encode(" Paris")[0]
rome_token = model.tokenizer.encode(" Rome")[0]

patched_probs = torch.softmax(patched_logits[0, -1], dim=-1)
print(f"Paris: {patched_probs[paris_token].item():.3f}")
print(f"Rome: {patched_probs[rome_token].item():.3f}")
"""

PATCHING_SWEEP: Final = """
import torch

def patch_sweep(model, clean_prompt, corrupted_prompt, target_token, n_layers=12):
    \"\"\"Sweep activation patching across all layers and positions.\"\"\"
    # Get clean activations
    with model.trace(clean_prompt) as tracer:
        clean_cache = {}
        for i in range(n_layers):
            clean_cache[i] = model.transformer.h[i].output[0].save()
        clean_logits = model.output.save()

    seq_len = clean_cache[0].shape[1]
    results = torch.zeros(n_layers, seq_len)

    for layer in range(n_layers):
        for pos in range(seq_len):
            with model.trace(corrupted_prompt) as tracer:
                current = model.transformer.h[layer].output[0]
                current[:, pos, :] = clean_cache[layer][:, pos, :]
                logits = model.output.save()

            probs = torch.softmax(logits[0, -1], dim=-1)
            results[layer, pos] = probs[target_token].item()

    return results
"""

REMOTE: Final = """
from tracing import LanguageModel

# Load a 70B model (runs on NDIF servers)
model = LanguageModel("meta-llama/Llama-3.1-70B")

# Same code, just add remote=True
with model.trace("The meaning of life is", remote=True) as tracer:
    layer_40 = model.model.layers[40].output[0].save()
    logits = model.output.save()

print(f"Layer 40 shape: {layer_40.shape}")
"""

CROSS_PROMPT: Final = """
from tracing import LanguageModel

model = LanguageModel("gpt2", device_map="auto")

with model.trace() as tracer:
    # First prompt
    with tracer.invoke("The cat sat on the"):
        cat_hidden = model.transformer.h[6].output[0].save()

    # Second prompt with injected activations from first
    with tracer.invoke("The dog ran through the"):
        model.transformer.h[6].output[0][:] = cat_hidden
        dog_with_cat = model.output.save()
"""

GRADIENTS: Final = """
from tracing import LanguageModel
import torch

model = LanguageModel("gpt2", device_map="auto")

with model.trace("The quick brown fox") as tracer:
    hidden = model.transformer.h[5].output[0].save()
    hidden.retain_grad()

    logits = model.output
    target_token = model.tokenizer.encode(" jumps")[0]
    loss = -logits[0, -1, target_token]
    loss.backward()

    grad = hidden.grad

print(f"Gradient norm: {grad.norm().item():.3f}")
"""
