"""Folders and hub ids that cannot be loaded say why and what to do; no code of the others is run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file

from tests import zoo
from tests.decoders import gpt2
from tracing.errors import ModelError
from tracing.models import LanguageModel
from tracing.models.base import Model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved tiny model without tokenizer."""
    folder = tmp_path / "tiny"
    gpt2().save_pretrained(folder)
    return folder


def test_a_saved_model_loads_in_evaluation_mode_without_gradients(saved: Path) -> None:
    model = LanguageModel(saved)
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    assert model._model is model.module
    torch.testing.assert_close(model.logits([[1, 2, 3]]), gpt2()(torch.tensor([[1, 2, 3]])).logits)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model folder 'nowhere'"):
        LanguageModel(tmp_path / "nowhere")


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        LanguageModel(tmp_path)


def test_a_broken_config_is_named(saved: Path) -> None:
    (saved / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        LanguageModel(saved)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model\.bin\).*safe_serialization=True"):
        LanguageModel(saved)


def test_a_folder_without_weights_says_so(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        LanguageModel(saved)


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")


def test_a_model_that_transformers_lacks_is_refused_and_its_code_not_run(saved: Path) -> None:
    change_config(saved, model_type="mine", auto_map={"AutoModelForCausalLM": "code.Mine"})
    (saved / "code.py").write_text("raise SystemExit('was run')", encoding="utf-8")
    with pytest.raises(ModelError, match=r"type 'mine'.*never run.*LanguageModel\(module\)"):
        LanguageModel(saved)


def test_an_architecture_of_another_type_is_not_believed(saved: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    change_config(saved, model_type="llama", **sizes)  # while the architecture is still GPT-2's
    with pytest.raises(ModelError, match=r"'tiny' lack .* 'lm_head\.weight'"):
        LanguageModel(saved)


def test_a_config_without_architecture_is_a_causal_model(saved: Path) -> None:
    change_config(saved, architectures=None)
    assert type(LanguageModel(saved).module).__name__ == "GPT2LMHeadModel"


def test_weights_that_lack_a_tensor_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors.*transformer\.h\.1\.mlp\.c_fc\.weight"):
        LanguageModel(saved)


def test_no_message_tells_where_the_folder_is_on_this_machine(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "other.safetensors")  # transformers quotes the path it looked in
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        LanguageModel(saved)
    assert "'tiny'" in str(raised.value)
    assert str(saved.parent) not in str(raised.value)
    assert raised.value.remedy


def test_truncated_weights_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ModelError, match="'tiny'"):
        LanguageModel(saved)


def test_an_unknown_precision_lists_the_known_ones(saved: Path) -> None:
    with pytest.raises(ModelError, match="float32, float64, bfloat16, float16"):
        LanguageModel(saved, dtype="int8")


def test_a_model_without_tokenizer_says_so_when_text_is_needed(saved: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        _ = LanguageModel(saved).tokens


def test_a_model_describes_itself_in_a_notebook() -> None:
    assert repr(LanguageModel(gpt2(), dtype="float64")) == (
        "LanguageModel(gpt2, 3 layers × 4 heads, d_model 32, 0.0M parameters, float64 on cpu)"
    )


# -- devices ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("device_map", ["auto", "sequential", "cpu", {"": "cpu"}, torch.device("cpu")])
@pytest.mark.parametrize("kind", ["folder", "module"])
def test_a_model_is_spread_over_what_the_machine_has(kind: str, device_map: Any, saved: Path) -> None:
    model = LanguageModel(saved if kind == "folder" else gpt2(), device_map=device_map)
    expected = LanguageModel(saved).logits([[1, 2, 3]])
    torch.testing.assert_close(model.logits([[1, 2, 3]]).cpu(), expected, atol=1e-4, rtol=1e-4)


def test_a_map_over_parts_is_followed(saved: Path) -> None:
    parts = {"transformer": "cpu", "lm_head": "cpu"}
    assert LanguageModel(saved, device_map=parts).device.type == "cpu"
    with pytest.raises(ModelError, match=r"cannot be laid out as \{'transformer\.wte': 'cpu'\}"):
        LanguageModel(gpt2(), device_map={"transformer.wte": "cpu"})


def test_parts_that_accelerate_keeps_on_disk_are_computed_where_it_says(tmp_path: Path) -> None:
    places = {name: "cpu" for name, _ in gpt2().transformer.named_children()}
    places = {f"transformer.{name}": place for name, place in places.items()} | {"transformer.wpe": "disk"}
    module = gpt2()
    expected = module(torch.tensor([[1, 2, 3]])).logits
    accelerate.dispatch_model(module, device_map={**places, "lm_head": "cpu"}, main_device="cpu", offload_dir=tmp_path)
    model = LanguageModel(module)
    assert next(model.module.transformer.wpe.parameters()).is_meta
    assert model.device.type == "cpu"
    torch.testing.assert_close(model.logits([[1, 2, 3]]), expected, atol=1e-5, rtol=1e-5)
    with model.trace([[1, 2, 3]]):  # a write that needs a value from elsewhere makes the order known first
        model.transformer.h[1].skip(model.transformer.h[1].input)
        skipped = model.output.save()
    assert not torch.allclose(skipped, expected, atol=1e-3)
    torch.testing.assert_close(model.logits([[1, 2, 3]]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["folder", "module"])
def test_a_map_to_the_disk_is_refused(kind: str, saved: Path) -> None:
    with pytest.raises(ModelError, match="keeps parts of the model on disk"):
        LanguageModel(saved if kind == "folder" else gpt2(), device_map={"transformer": "cpu", "lm_head": "disk"})


def test_spreading_without_accelerate_says_how_to_install_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracing.models.loading.is_accelerate_available", lambda: False)
    for model in (saved, gpt2()):
        with pytest.raises(ModelError, match=r"device_map='auto' needs .* accelerate.*pip install accelerate"):
            LanguageModel(model, device_map="auto")
    assert LanguageModel(saved, device_map="cpu").device.type == "cpu"


@pytest.mark.parametrize("options", [{"device": "cuda:99"}, {"device_map": "cuda:99"}, {"device": "tpu"}])
def test_a_device_that_is_not_there_is_named(saved: Path, options: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=f"no device '{next(iter(options.values()))}' on this machine"):
        LanguageModel(saved, **options)


def test_one_device_and_a_map_contradict_each_other(saved: Path) -> None:
    with pytest.raises(TypeError, match=r"either device .* or device_map"):
        LanguageModel(saved, device="cpu", device_map="auto")


def test_a_module_in_memory_stays_as_it_is_unless_told_otherwise() -> None:
    module = gpt2().double()
    assert LanguageModel(module).dtype == torch.float64
    assert LanguageModel(module, dtype="float32", device="cpu").dtype == torch.float32
    assert LanguageModel(module, attn_implementation="eager").attention == "eager"
    with pytest.raises(ModelError, match="cannot run attention as 'magic'"):
        LanguageModel(module, attn_implementation="magic")


def test_attention_that_a_built_module_does_not_change_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"was built for 'sdpa' attention and does not change to 'eager'"):
        LanguageModel(zoo.model("falcon"), attn_implementation="eager")


def test_a_folder_is_loaded_in_32_bits_unless_told_otherwise(saved: Path) -> None:
    gpt2().to(torch.bfloat16).save_pretrained(saved)
    assert LanguageModel(saved).dtype == torch.float32
    assert LanguageModel(saved, dtype="auto").dtype == torch.bfloat16
    assert LanguageModel(saved, dtype=torch.float64, attn_implementation="eager").attention == "eager"


# -- the hub ----------------------------------------------------------------------------------------------------------
HUB_ID = "openai-community/gpt2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds one model, and no network."""
    cache = tmp_path / "hub"
    repository = cache / f"models--{HUB_ID.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    shutil.copytree(saved, repository / "snapshots" / COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_hub_id_is_loaded_from_the_cache(cache: Path, revision: str | None) -> None:
    model = LanguageModel(HUB_ID, revision=revision)
    torch.testing.assert_close(model.logits([[1, 2, 3]]), gpt2()(torch.tensor([[1, 2, 3]])).logits)
    assert model.source is not None
    assert model.source.name == HUB_ID


def test_a_hub_id_is_looked_up_where_the_environment_says(cache: Path) -> None:
    code = "from tracing import LanguageModel; print(repr(LanguageModel('openai-community/gpt2', device_map='auto')))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith("LanguageModel(gpt2, 3 layers")


def test_a_hub_id_that_is_not_in_the_cache_says_what_to_do(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"'nobody/nothing' is not on this machine.*HF_HUB_OFFLINE.*Go online once"):
        LanguageModel("nobody/nothing")
    with pytest.raises(ModelError, match="at revision 'v9' is not on this machine"):
        LanguageModel(HUB_ID, revision="v9")


def test_a_cached_model_without_safetensors_is_refused(cache: Path) -> None:
    weights = cache / "models--openai-community--gpt2" / "snapshots" / COMMIT / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match=f"'{HUB_ID}' has .*pickled"):
        LanguageModel(HUB_ID)
    assert not LanguageModel(HUB_ID, device="meta").has_weights


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GatedRepoError, "only for people who accepted its terms.*hf auth login"),
        (RepositoryNotFoundError, "There is no model 'a/b': no such folder here, and no such model"),
        (RevisionNotFoundError, "'a/b' has no revision 'v2'"),
    ],
)
def test_what_the_hub_answers_is_passed_on(
    kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise kind.__new__(kind)

    monkeypatch.setattr("tracing.models.hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match=message):
        LanguageModel("a/b", revision="v2")


def test_only_weights_configs_and_tokenizers_of_the_hub_are_asked_for(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append(options)
        return str(saved)

    monkeypatch.setattr("tracing.models.hub.snapshot_download", download)
    LanguageModel(HUB_ID)
    LanguageModel(HUB_ID, device="meta")
    patterns = [options["allow_patterns"] for options in asked]
    assert "*.safetensors" in patterns[0]
    assert "*.safetensors" not in patterns[1]
    assert not any(end in pattern for end in (".bin", ".py", ".pt", ".pkl") for pattern in patterns[0])
    assert asked[0]["ignore_patterns"] == ["*/*", "consolidated*"]


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "../nowhere", "models/my/gpt2", "C:\\models\\gpt2"])
def test_what_looks_like_a_path_is_never_looked_up_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracing.models.hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match="There is no model folder"):
        LanguageModel(name)
    with pytest.raises(ModelError, match="There is no model folder 'nowhere'"):
        LanguageModel(Path("nowhere"))


def test_a_folder_or_module_has_no_revisions(saved: Path) -> None:
    for model in (saved, gpt2()):
        with pytest.raises(ModelError, match="has no revisions"):
            LanguageModel(model, revision="main")


@pytest.mark.parametrize("named", [True, False], ids=["in the config", "in the weights only"])
def test_shapes_without_weights_have_the_stored_precision_where_it_is_asked_for(saved: Path, named: bool) -> None:
    gpt2().to(torch.bfloat16).save_pretrained(saved)
    if not named:
        config = json.loads((saved / "config.json").read_text())
        (saved / "config.json").write_text(
            json.dumps({k: v for k, v in config.items() if k not in ("dtype", "torch_dtype")})
        )
    assert LanguageModel(saved, dtype="auto").dtype == torch.bfloat16
    assert LanguageModel(saved, device="meta", dtype="auto").dtype == torch.bfloat16
    assert LanguageModel(saved, device="meta").dtype == torch.float32


def test_wrapping_freezes_a_module_in_memory_and_traces_go_on_when_that_is_undone() -> None:
    module = zoo.model("gpt2").train().requires_grad_(True)
    model = LanguageModel(module)
    assert not module.training
    assert not any(weight.requires_grad for weight in module.parameters())
    gradients = []
    for _ in range(2):
        with model.trace(zoo.ids(1, 5)):
            hidden = model.transformer.h[1].output
            model.output.sum().backward()
            gradients.append(hidden.grad.save())
        module.requires_grad_(True)
    assert torch.allclose(*gradients)
    assert all(weight.grad is None for weight in module.parameters())


def test_a_plain_wrapper_leaves_mode_and_gradients_alone() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    Model(module)
    assert module.training
    assert all(weight.requires_grad for weight in module.parameters())
