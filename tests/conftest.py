"""Fixtures shared by every suite."""

from pathlib import Path

import pytest
from django.conf import settings

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import Role, User
from tests import tiny
from tests.factories import ModelSourceFactory, PromptSetVersionFactory, UserFactory


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder, made once a session."""
    root = tmp_path_factory.mktemp("models")
    tiny.make(root / tiny.FOLDER)
    return root / tiny.FOLDER


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer only: what the web process needs, made without torch."""
    root = tmp_path_factory.mktemp("tokenizers")
    tiny.write_tokenizer(root / tiny.FOLDER)
    return root / tiny.FOLDER


@pytest.fixture
def model(tokenizer_folder: Path, db: None, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    """A registered model whose tokenizer this process can read (no weights: nothing in a web process loads them)."""
    monkeypatch.setitem(settings.MODEL_ROOTS, tiny.ROOT_ALIAS, tokenizer_folder.parent)
    return ModelSourceFactory(slug="tiny")


@pytest.fixture
def tiny_model(tiny_folder: Path, db: None, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    """A registered model with its weights and their true hashes, for tests that compute."""
    monkeypatch.setitem(settings.MODEL_ROOTS, tiny.ROOT_ALIAS, tiny_folder.parent)
    return ModelSourceFactory(slug="tiny", **tiny.hashes(tiny_folder))


@pytest.fixture
def prompts(member: User) -> PromptSetVersion:
    """Two aligned pairs, shared with the lab."""
    return PromptSetVersionFactory(prompt_set__owner=member, prompt_set__title="Who gets the drink")


@pytest.fixture
def member(db: None) -> User:
    return UserFactory(username="ada", role=Role.MEMBER)


@pytest.fixture
def colleague(db: None) -> User:
    return UserFactory(username="grace", role=Role.MEMBER)


@pytest.fixture
def reader(db: None) -> User:
    return UserFactory(username="rita", role=Role.READER)


@pytest.fixture
def stranger(db: None) -> User:
    """Signed in, but not of the lab."""
    return UserFactory(username="mallory", role=Role.GUEST)


@pytest.fixture
def lab_admin(db: None) -> User:
    return UserFactory(username="root", role=Role.ADMIN, is_staff=True)
