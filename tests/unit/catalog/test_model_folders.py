"""Model folders: only through allowed roots, only safetensors, and a reason for each refusal."""

import hashlib
import io
import json
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from interp_app.catalog import files, selectors
from interp_app.catalog.models import ModelSource
from interp_app.core.errors import ServiceError
from interp_app.core.models import AuditEntry
from tests import tiny


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(settings.MODEL_ROOTS, "lab", tmp_path / "models")
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def folder(root: Path) -> Path:
    """A folder with config, tokenizer and a weights file; the catalog never looks inside the weights."""
    path = root / "small"
    tiny.write_tokenizer(path)
    (path / "config.json").write_text(json.dumps(tiny.CONFIG))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def refused(location: str) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        files.read_model_folder(location)
    return raised.value


def test_a_folder_is_described_and_hashed(folder: Path):
    found = files.read_model_folder("lab/small")
    assert found.weights_sha256 == {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    assert found.tokenizer_sha256 == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert found.config_sha256 == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert (found.facts["family"], found.facts["n_layers"], found.facts["n_heads"]) == ("gpt2", 3, 4)


def test_what_is_shown_of_a_config_tells_nothing_of_the_machine_it_was_saved_on(folder: Path):
    config = {
        **tiny.CONFIG,
        "_name_or_path": "/srv/models/small",
        "name_or_path": "ada/small",
        "tokenizer_file": "D:\\models\\tokenizer.json",
        "cache": "~/cache",
        "text_config": {"_commit_hash": "abc", "data": "/srv/data", "n_layer": 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    found = files.read_model_folder("lab/small")
    assert found.config == {**tiny.CONFIG, "text_config": {"n_layer": 3}}
    assert found.config_sha256 == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "location",
    [
        "lab/../secret", "lab/small/../../secret", "lab/..", "lab/", "lab", "lab//small", "/etc", "lab//etc/passwd",
        "lab/small\x00", "lab/.hidden", "nowhere/small", "lab/small%2e%2e", "lab/a b", "",
    ],
)  # fmt: skip
def test_a_location_never_leaves_its_root(folder: Path, location: str):
    (folder.parent.parent / "secret").mkdir()
    assert refused(location).code == "model_location_refused"


def test_a_linked_folder_is_refused(folder: Path):
    (folder.parent / "link").symlink_to(folder)
    assert "symbolic link" in refused("lab/link").message


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_linked_file_is_refused(folder: Path, name: str):
    moved = folder.parent.parent / name
    (folder / name).rename(moved)
    (folder / name).symlink_to(moved)
    assert "symbolic link" in refused("lab/small").message


def test_a_missing_folder_says_where_to_put_it(root: Path):
    error = refused("lab/gone")
    assert error.code == "model_unavailable"
    assert "PATCHBAY_MODEL_ROOTS" in error.remedy


def test_pickled_weights_are_never_an_option(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused("lab/small")
    assert "pickled weights only (pytorch_model.bin)" in error.message
    assert "safe_serialization=True" in error.remedy


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", "{", "not JSON"),
        ("config.json", "[]", "not a JSON object"),
        ("config.json", '{"model_type": "unheard_of"}', "unheard_of"),
        ("tokenizer.json", None, "no tokenizer.json"),
        ("model.safetensors", None, "no safetensors weights"),
    ],
)
def test_a_broken_folder_says_what_is_wrong(folder: Path, name: str, content: str | None, words: str):
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    error = refused("lab/small")
    assert words in error.message


def test_no_message_tells_where_the_server_keeps_its_files(folder: Path):
    (folder / "config.json").write_text("{")
    for location in ("lab/small", "lab/gone", "lab/..", "nowhere/x"):
        assert str(folder.parent.parent) not in str(refused(location))


def test_a_replaced_tokenizer_is_read_again(folder: Path):
    first = files.tokens_at("lab/small")
    changed = (folder / "tokenizer.json").read_text().replace("Mary", "Maria")
    (folder / "tokenizer.json").write_text(changed)
    assert first.encode("Mary") != files.tokens_at("lab/small").encode("Mary")


def test_readable_means_config_and_weights(folder: Path):
    assert files.is_readable("lab/small")
    (folder / "model.safetensors").unlink()
    assert not files.is_readable("lab/small")


@pytest.mark.django_db
def test_a_model_is_disallowed_and_allowed_again(model: ModelSource) -> None:
    call_command("disallow_model", "tiny", stdout=io.StringIO())
    assert not selectors.allowed_models().exists()
    call_command("allow_model", "tiny", stdout=io.StringIO())
    assert selectors.model_by_slug("tiny") == model
    assert [entry.action for entry in AuditEntry.objects.order_by("pk")] == ["model.disallow", "model.allow"]
    with pytest.raises(CommandError, match="no such model"):
        call_command("disallow_model", "unknown")
