"""Rows for tests, made through factory_boy. Model and prompt rows point at the tiny model of `tests.tiny`."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import factory
from django.utils import timezone
from factory.django import DjangoModelFactory

from interp_app.catalog.models import ModelSource, PromptSet, PromptSetVersion
from interp_app.core.canonical import sha256_of
from interp_app.core.models import Role, User
from interp_app.runs.models import Run, RunEvent, Status, Tile, Worker
from tests import tiny
from tracing.families.facts import model_facts


class UserFactory(DjangoModelFactory[User]):
    """A member of the lab; `role=Role.GUEST` is a stranger."""

    class Meta:
        model = User
        skip_postgeneration_save = True

    username = factory.Sequence(lambda n: f"user{n}")
    email = factory.LazyAttribute(lambda user: f"{user.username}@example.org")
    role = Role.MEMBER

    @factory.post_generation
    def password(self, create: bool, extracted: str | None, **_: Any) -> None:
        self.set_password(extracted or "correct horse battery")
        if create:
            self.save()


class ModelSourceFactory(DjangoModelFactory[ModelSource]):
    """The tiny gpt2 of `tests.tiny`; its folder is made by the fixture `tiny_model`."""

    class Meta:
        model = ModelSource

    slug = factory.Sequence(lambda n: f"tiny-{n}")
    title = factory.LazyAttribute(lambda model: model.slug.title())
    location = f"{tiny.ROOT_ALIAS}/{tiny.FOLDER}"
    family = "gpt2"
    config = factory.LazyFunction(lambda: dict(tiny.CONFIG))
    facts = factory.LazyAttribute(lambda model: asdict(model_facts(model.config)))
    weights_sha256 = factory.LazyFunction(lambda: {"model.safetensors": "a" * 64})
    tokenizer_sha256 = "b" * 64
    config_sha256 = "c" * 64


class PromptSetFactory(DjangoModelFactory[PromptSet]):
    class Meta:
        model = PromptSet

    title = factory.Sequence(lambda n: f"Prompts {n}")
    owner = factory.SubFactory(UserFactory)


class PromptSetVersionFactory(DjangoModelFactory[PromptSetVersion]):
    """Version 1 of a new prompt set: two aligned pairs in the tiny model's vocabulary."""

    class Meta:
        model = PromptSetVersion

    prompt_set = factory.SubFactory(PromptSetFactory)
    number = 1
    pairs = factory.LazyFunction(lambda: [pair.model_dump(mode="json") for pair in tiny.pairs(2)])
    n_pairs = factory.LazyAttribute(lambda version: len(version.pairs))
    sha256 = factory.LazyAttribute(lambda version: sha256_of(version.pairs))
    created_by = factory.SelfAttribute("prompt_set.owner")


class WorkerFactory(DjangoModelFactory[Worker]):
    """An online worker that has no models unless told."""

    class Meta:
        model = Worker

    name = factory.Sequence(lambda n: f"worker-{n}")
    device = "cpu"
    started_at = factory.LazyFunction(timezone.now)
    heartbeat_at = factory.LazyFunction(timezone.now)


class RunFactory(DjangoModelFactory[Run]):
    """A queued run. `status=Status.RUNNING` adds a lease, a terminal status a finish time; `pairs` etc. as rows."""

    class Meta:
        model = Run

    title = factory.Sequence(lambda n: f"Run {n}")
    owner = factory.SubFactory(UserFactory)
    method = "activation_patching"
    spec = factory.LazyFunction(lambda: {"sites": ["resid_pre"], "over": "layer_position", "seed": 0})
    spec_hash = factory.Sequence(lambda n: f"{n:064x}")
    model = factory.SubFactory(ModelSourceFactory)
    prompts = factory.SubFactory(PromptSetVersionFactory)
    status = Status.QUEUED
    queued_at = factory.LazyFunction(timezone.now)
    cells_total = 12
    attempt = factory.LazyAttribute(lambda run: 0 if run.status == Status.QUEUED else 1)
    started_at = factory.LazyAttribute(lambda run: None if run.status == Status.QUEUED else timezone.now())
    lease_until = factory.LazyAttribute(
        lambda run: timezone.now() + timedelta(seconds=60) if run.status == Status.RUNNING else None
    )
    finished_at = factory.LazyAttribute(
        lambda run: timezone.now() if run.status in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED) else None
    )


class RunEventFactory(DjangoModelFactory[RunEvent]):
    class Meta:
        model = RunEvent

    run = factory.SubFactory(RunFactory)
    seq = factory.Sequence(lambda n: n + 1)
    attempt = 1
    kind = "log"
    payload = factory.LazyFunction(lambda: {"level": "info", "message": "hello"})
    created_at = factory.LazyFunction(timezone.now)


class TileFactory(DjangoModelFactory[Tile]):
    """One cell with value 0.5 in one plane."""

    class Meta:
        model = Tile

    run = factory.SubFactory(RunFactory)
    seq = factory.Sequence(lambda n: n + 1)
    panel = 0
    r0 = 0
    c0 = factory.Sequence(int)
    nr = 1
    nc = 1
    planes = 1
    values = b"\x00\x00\x00\x3f"
