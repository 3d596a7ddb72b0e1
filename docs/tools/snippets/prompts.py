"""Mistakes with prompts, batches and pictures."""

from docs.tools.snippets.snippet import Snippet

PROMPTS = (
    Snippet(
        "An empty prompt",
        "PromptError",
        """\
with model.trace(""):
    logits = model.output.save()
""",
        "A model needs a token to start from.",
    ),
    Snippet(
        "Two prompts in one invoke",
        "PromptError",
        """\
with model.trace("The Louvre is in", "The Prado is in"):
    logits = model.output.save()
""",
        "A list of texts is a batch.",
    ),
    Snippet(
        "Something that is no prompt",
        "TypeError",
        """\
with model.trace(3.5):
    logits = model.output.save()
""",
        "Texts, ids and mappings are prompts.",
    ),
    Snippet(
        "A mapping without ids",
        "PromptError",
        """\
with model.trace({"attention_mask": torch.ones(1, 3)}):
    logits = model.output.save()
""",
        "What a tokenizer returns can be given as it is.",
    ),
    Snippet(
        "Numbers that are no ids",
        "PromptError",
        """\
with model.trace(torch.ones(1, 3)):
    logits = model.output.save()
""",
        "Token ids are whole numbers.",
    ),
    Snippet(
        "Ids of another vocabulary",
        "PromptError",
        """\
with model.trace([[1, 2, 50256]]):
    logits = model.output.save()
""",
        "Probably the ids of another model's tokenizer.",
    ),
    Snippet(
        "A mask of another length",
        "PromptError",
        """\
with model.trace([[1, 2, 3]], attention_mask=[[1, 1]]):
    logits = model.output.save()
""",
        "Masks and positions have one entry a token.",
    ),
    Snippet(
        "Ids given twice",
        "PromptError",
        """\
with model.trace([[1, 2, 3]], input_ids=[[4, 5, 6]]):
    logits = model.output.save()
""",
        "As a prompt or by name.",
    ),
    Snippet(
        "Ids of the wrong shape",
        "PromptError",
        """\
with model.trace(torch.ones(1, 1, 3, dtype=torch.long)):
    logits = model.output.save()
""",
        "A prompt is `[position]` or `[batch, position]`.",
    ),
    Snippet(
        "Ids that are no numbers",
        "TypeError",
        """\
with model.trace([[1, 2, None]]):
    logits = model.output.save()
""",
        "A missing token is a mistake of what made the list.",
    ),
    Snippet(
        "Text without a tokenizer",
        "ModelError",
        """\
from transformers import GPT2Config, GPT2LMHeadModel

config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
bare = LanguageModel(GPT2LMHeadModel(config))
with bare.trace("The Louvre is in"):
    logits = bare.output.save()
""",
        "A module in memory has no tokenizer of its own.",
    ),
    Snippet(
        "A generation that does not fit",
        "PromptError",
        """\
with model.generate("The Louvre is in", max_new_tokens=200):
    logits = model.output.save()
""",
        "Prompt and new tokens together must fit.",
    ),
    Snippet(
        "Inputs of two kinds",
        "PromptError",
        """\
with model.trace() as tracer:
    with tracer.invoke([[1, 2, 3]]):
        one = model.output.save()
    with tracer.invoke(inputs_embeds=torch.zeros(1, 3, 128)):
        other = model.output.save()
""",
        "The prompts of a trace are one call of the model.",
    ),
    Snippet(
        "Options that differ between prompts",
        "PromptError",
        """\
with model.trace() as tracer:
    with tracer.invoke("The Louvre is in", use_cache=True):
        one = model.output.save()
    with tracer.invoke("The Prado is in", use_cache=False):
        other = model.output.save()
""",
        "Options belong to the call, so to all its prompts.",
    ),
    Snippet(
        "Prompts of unequal lengths where padding would change values",
        "PromptError",
        """\
class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)

    def forward(self, input_ids):
        return self.embed(input_ids)


bag = LanguageModel(Bag())
with bag.trace([[1, 2, 3], [4, 5]]):
    out = bag.output.save()
""",
        "Where a model takes a mask, this is measured: padding must not change what it computes.",
    ),
    Snippet(
        "Tensors that cannot be one batch",
        "PromptError",
        """\
with net.trace() as tracer:
    with tracer.invoke(torch.ones(1, 3)):
        one = net.output.save()
    with tracer.invoke(torch.ones(1, 4)):
        other = net.output.save()
""",
        "Only prompts of language models are padded.",
    ),
    Snippet(
        "Pixels of the wrong shape",
        "PromptError",
        """\
from tracing import VisionModel
from transformers import ViTConfig, ViTForImageClassification

config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32)
vision = VisionModel(ViTForImageClassification(config))
with vision.trace(torch.ones(32, 32)):
    classes = vision.output.save()
""",
        "A picture has channels, and they come first.",
    ),
    Snippet(
        "Something that is no picture",
        "TypeError",
        """\
from tracing import VisionModel
from transformers import ViTConfig, ViTForImageClassification

config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32)
vision = VisionModel(ViTForImageClassification(config))
with vision.trace("cat.png"):
    classes = vision.output.save()
""",
        "Open the file first.",
    ),
    Snippet(
        "A picture without a processor",
        "ModelError",
        """\
import numpy
from tracing import VisionModel
from transformers import ViTConfig, ViTForImageClassification

config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32)
vision = VisionModel(ViTForImageClassification(config))
with vision.trace(numpy.zeros((32, 32, 3), dtype="uint8")):
    classes = vision.output.save()
""",
        "The processor is what knows how to scale a picture.",
    ),
    Snippet(
        "Structures that differ between prompts",
        "PromptError",
        """\
with net.trace() as tracer:
    with tracer.invoke((x, x)):
        one = net.output.save()
    with tracer.invoke((x,)):
        other = net.output.save()
""",
        "Prompts of a trace are one call.",
    ),
    Snippet(
        "A picture's other inputs without pixels",
        "PromptError",
        """\
from tracing import VisionModel
from transformers import ViTConfig, ViTForImageClassification

config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32)
vision = VisionModel(ViTForImageClassification(config))
with vision.trace({"pixels": torch.ones(1, 3, 32, 32)}):
    classes = vision.output.save()
""",
        "A processor's output has `pixel_values`.",
    ),
    Snippet(
        "Two pictures in one invoke",
        "PromptError",
        """\
from tracing import VisionModel
from transformers import ViTConfig, ViTForImageClassification

config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32)
vision = VisionModel(ViTForImageClassification(config))
with vision.trace(torch.ones(3, 32, 32), torch.ones(3, 32, 32)):
    classes = vision.output.save()
""",
        "A batch of pixels, or a list.",
    ),
    Snippet(
        "Pixels that nobody has scaled",
        "PromptError",
        """\
from tracing import VisionModel
from transformers import ViTConfig, ViTForImageClassification

config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32)
vision = VisionModel(ViTForImageClassification(config))
with vision.trace(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
    classes = vision.output.save()
""",
        "Give the picture to the processor, and the model what comes out.",
    ),
)
