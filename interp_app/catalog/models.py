"""Models the lab allows and prompt sets. A version of a prompt set never changes once written."""

from django.conf import settings
from django.db import models

from interp_app.core.ids import new_id
from interp_app.core.visibility import Visibility, VisibleQuerySet


class ModelSource(models.Model):
    """A model an administrator allowed. `location` is `<root alias>/<folder>` under `settings.MODEL_ROOTS`.

    Facts and hashes are read from the folder's config.json, tokenizer.json and safetensors files when it is registered;
    weights are never loaded by the web process. Registering a slug again rewrites its row: runs submitted before keep
    their spec's hash, and a worker that finds another one refuses them (`model_changed`).
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    slug = models.SlugField(unique=True)
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    location = models.CharField(max_length=200)
    revision = models.CharField(max_length=64, blank=True)
    family = models.CharField(max_length=40)
    facts = models.JSONField()
    """The fields of `tracing.experiments.registry.ModelFacts`."""
    config = models.JSONField()
    """config.json without what tells of the machine it was saved on (`files.public_config`)."""
    weights_sha256 = models.JSONField()
    """{"model.safetensors": "<sha256>", …}"""
    tokenizer_sha256 = models.CharField(max_length=64)
    config_sha256 = models.CharField(max_length=64)
    """Of the whole config.json: the same weights under another config are another model."""
    allowed = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("title",)

    def __str__(self) -> str:
        return self.title


class PromptSet(models.Model):
    """A named set of prompt pairs; the pairs themselves are in its numbered versions."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    slug = models.SlugField(null=True, blank=True, unique=True)
    """Set for the built-in sets only, so that seeding them is idempotent."""
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    task = models.CharField(max_length=40, blank=True)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="prompt_sets")
    visibility = models.CharField(max_length=8, choices=Visibility, default=Visibility.LAB)
    archived_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = VisibleQuerySet.as_manager()

    class Meta:
        ordering = ("title", "id")

    def __str__(self) -> str:
        return self.title


class PromptSetVersion(models.Model):
    """Version `number` (1, 2, …) of a prompt set. Immutable; `sha256` is the hash of the canonical JSON of `pairs`."""

    prompt_set = models.ForeignKey(PromptSet, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    pairs = models.JSONField()
    """A list of `tracing.prompts.PromptPair` in JSON."""
    n_pairs = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    note = models.CharField(max_length=200, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("prompt_set", "-number")
        constraints = (models.UniqueConstraint(fields=("prompt_set", "number"), name="one_row_per_prompt_version"),)

    def __str__(self) -> str:
        return f"{self.prompt_set} v{self.number}"
