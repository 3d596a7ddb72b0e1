"""Mistakes with loading models and with options of a trace."""

from docs.tools.snippets.snippet import Snippet

MODELS = (
    Snippet(
        "A misspelt option",
        "TypeError",
        """\
with model.trace("The Louvre is in", remot=True):
    logits = model.output.save()
""",
        "Nothing runs locally by accident.",
    ),
    Snippet(
        "A trace without with",
        "",
        """\
model.trace("The Louvre is in")
""",
        "Nothing is recorded without a block.",
    ),
    Snippet(
        "A prompt twice",
        "RecordError",
        """\
with model.trace("The Louvre is in") as tracer:
    with tracer.invoke("The Prado is in"):
        logits = model.output.save()
""",
        "Either the trace has a prompt, or its invokes have.",
    ),
    Snippet(
        "No prompt at all",
        "RecordError",
        """\
with model.trace():
    logits = model.output.save()
""",
        "A trace without invokes needs inputs.",
    ),
    Snippet(
        "Remote execution without a server",
        "RemoteError",
        """\
with model.trace("The Louvre is in", remote=True):
    logits = model.output.save()
""",
        "A trace marked `remote=True` never runs here.",
    ),
    Snippet(
        "A model that is not there",
        "ModelError",
        """\
LanguageModel("./no-such-folder")
""",
        "A folder, or an id of the hub.",
    ),
    Snippet(
        "Another engine",
        "ModelError",
        """\
LanguageModel(MODEL_DIR, engine="warp")
""",
        "The engines are listed.",
    ),
    Snippet(
        "A prompt that is too long",
        "PromptError",
        """\
with model.trace("The Louvre is in " * 60):
    logits = model.output.save()
""",
        "This model has 128 positions.",
    ),
    Snippet(
        "A misspelt argument of a model",
        "TypeError",
        """\
LanguageModel(MODEL_DIR, dtyp="float64")
""",
        "No argument is ignored.",
    ),
    Snippet(
        "An unknown precision",
        "ModelError",
        """\
LanguageModel(MODEL_DIR, dtype="float13")
""",
        "Or a `torch.dtype`.",
    ),
    Snippet(
        "A device that is not there",
        "ModelError",
        """\
LanguageModel(MODEL_DIR, device="cuda:97")
""",
        "Nothing is moved to the CPU silently.",
    ),
    Snippet(
        "Two places for one model",
        "TypeError",
        """\
LanguageModel(MODEL_DIR, device="cpu", device_map="auto")
""",
        "One or the other.",
    ),
    Snippet(
        "A folder without a model",
        "ModelError",
        """\
from pathlib import Path

Path("empty").mkdir()
LanguageModel("empty")
""",
        "The folder above or below is a frequent slip.",
    ),
    Snippet(
        "A config that is no JSON",
        "ModelError",
        """\
from pathlib import Path

Path("broken").mkdir()
Path("broken/config.json").write_text("{")
LanguageModel("broken")
""",
        "A download that was cut off looks like this.",
    ),
    Snippet(
        "A folder without weights",
        "ModelError",
        """\
model._model.config.save_pretrained("config-only")
LanguageModel("config-only")
""",
        '`device="meta"` builds the model without them.',
    ),
    Snippet(
        "Pickled weights",
        "ModelError",
        """\
from pathlib import Path

model._model.config.save_pretrained("pickled")
torch.save(model._model.state_dict(), Path("pickled") / "pytorch_model.bin")
LanguageModel("pickled")
""",
        "A pickle is a program; safetensors is data.",
    ),
    Snippet(
        "Weights that are not complete",
        "ModelError",
        """\
from safetensors.torch import save_file

model._model.config.save_pretrained("torn")
save_file({"transformer.ln_f.weight": torch.ones(128)}, "torn/model.safetensors", {"format": "pt"})
LanguageModel("torn")
""",
        "What is missing is never filled with random numbers.",
    ),
    Snippet(
        "A model type that nobody knows",
        "ModelError",
        """\
import json
from pathlib import Path

Path("new").mkdir()
Path("new/config.json").write_text(json.dumps({"model_type": "brand_new"}))
LanguageModel("new")
""",
        "Code of a model repository is never run.",
    ),
    Snippet(
        "A revision of a folder",
        "ModelError",
        """\
LanguageModel(MODEL_DIR, revision="main")
""",
        "Revisions are of the hub.",
    ),
    Snippet(
        "A revision of a module",
        "ModelError",
        """\
LanguageModel(model._model, revision="main")
""",
        "What is in memory is what it is.",
    ),
    Snippet(
        "An attention that the model cannot run",
        "ModelError",
        """\
LanguageModel(model._model, attn_implementation="warp_attention")
""",
        "`scores` and `pattern` can be read from both of these.",
    ),
    Snippet(
        "Running a model without weights",
        "ModelError",
        """\
shapes = LanguageModel(MODEL_DIR, device="meta")
with shapes.trace("The Louvre is in"):
    logits = shapes.output.save()
""",
        "`shapes.scan(...)` checks a trace on it.",
    ),
    Snippet(
        "Throwing weights away",
        "ModelError",
        """\
LanguageModel(model._model, device="meta")
""",
        "A module in memory keeps its weights.",
    ),
    Snippet(
        "Generating with a model that cannot",
        "ModelError",
        """\
with net.generate(x, max_new_tokens=2) as tracer:
    ids = tracer.result.save()
""",
        "Only causal and encoder-decoder language models generate.",
    ),
    Snippet(
        "Nothing to run on",
        "PromptError",
        """\
with model.trace() as tracer:
    with tracer.invoke():
        logits = model.output.save()
""",
        "An invoke without a prompt sees the prompts of the others.",
    ),
    Snippet(
        "A time limit of a local trace",
        "TypeError",
        """\
with model.trace("The Louvre is in", timeout=300):
    logits = model.output.save()
""",
        "`timeout=` is how long to wait for a server.",
    ),
    Snippet(
        "Shapes that depend on numbers",
        "TraceError",
        """\
with model.scan("The Louvre is in"):
    likely = model.output[model.output > 3].save()

likely.shape
""",
        "How many there are is known when the model has run.",
    ),
    Snippet(
        "A config that is no object",
        "ModelError",
        """\
from pathlib import Path

Path("list").mkdir()
Path("list/config.json").write_text("[]")
LanguageModel("list")
""",
        "Any other JSON file of that name.",
    ),
    Snippet(
        "Weights of another size",
        "ModelError",
        """\
import json
import shutil
from pathlib import Path

shutil.copytree(MODEL_DIR, "resized")
config = json.loads(Path("resized/config.json").read_text())
Path("resized/config.json").write_text(json.dumps({**config, "n_embd": 64}))
LanguageModel("resized")
""",
        "Two checkpoints mixed in one folder look like this.",
    ),
    Snippet(
        "A tokenizer that cannot be read",
        "ModelError",
        """\
import shutil
from pathlib import Path

shutil.copytree(MODEL_DIR, "copied")
Path("copied/tokenizer_config.json").write_text("{")
LanguageModel("copied").tokenizer
""",
        "The weights are fine, so ids can be traced all the same.",
    ),
    Snippet(
        "A device map with a gap",
        "ModelError",
        """\
LanguageModel(model._model, device_map={"transformer": "cpu"})
""",
        "Every module has a place.",
    ),
    Snippet(
        "Sizes that a config does not say",
        "ModelError",
        """\
from tracing.families import model_facts

model_facts({"model_type": "gpt2", "n_embd": 16})
""",
        "`families.model_facts` reads a config without loading the model.",
    ),
    Snippet(
        "A module without weights",
        "ModelError",
        """\
shapes = Model(nn.Linear(3, 4, device="meta"))
with shapes.trace(x):
    out = shapes.output.save()
""",
        "`shapes.scan(x)` works.",
    ),
    Snippet(
        "A TorchScript module",
        "ModelError",
        """\
scripted = torch.jit.trace(nn.Linear(3, 4), x)
Model(scripted)
""",
        "Wrap the module that it was made of.",
    ),
    Snippet(
        "Parts of a model on disk",
        "ModelError",
        """\
LanguageModel(MODEL_DIR, device_map={"": "disk"})
""",
        "Parts may be on the CPU: they are moved for each forward.",
    ),
)
