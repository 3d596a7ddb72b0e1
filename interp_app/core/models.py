"""People, their API tokens, the audit trail and idempotency keys."""

from django.contrib.auth.models import AbstractUser
from django.db import models

from interp_app.core.ids import new_id


class Role(models.TextChoices):
    """Guest: an account outside the lab. Reader: sees what the lab shares. Member: also runs. Admin: everything."""

    GUEST = "guest", "Guest"
    READER = "reader", "Reader"
    MEMBER = "member", "Member"
    ADMIN = "admin", "Admin"


class User(AbstractUser):
    """An account. `public_id` is what URLs and the API show."""

    public_id = models.UUIDField(default=new_id, unique=True, editable=False)
    role = models.CharField(max_length=8, choices=Role, default=Role.GUEST)

    @property
    def in_lab(self) -> bool:
        return self.is_superuser or self.role != Role.GUEST

    @property
    def can_run(self) -> bool:
        return self.is_superuser or self.role in (Role.MEMBER, Role.ADMIN)

    @property
    def is_lab_admin(self) -> bool:
        return self.is_superuser or self.role == Role.ADMIN


class ApiToken(models.Model):
    """A bearer token: `pbt_<key>.<secret>`. Only the key and a keyed hash of the secret are stored."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80)
    key = models.CharField(max_length=16, unique=True)
    secret_hash = models.CharField(max_length=64)
    scopes = models.JSONField(default=list)
    """Any of "read", "write"."""
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"{self.name} ({self.key})"


class AuditEntry(models.Model):
    """Append-only: who did what to which object, and when."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    action = models.CharField(max_length=64)
    object_type = models.CharField(max_length=32)
    object_id = models.CharField(max_length=64)
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ("-at",)
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.action} {self.object_type} {self.object_id}"


class IdempotencyKey(models.Model):
    """The stored answer to a POST, so that a client may repeat it safely for 24 hours."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=128)
    request_hash = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField()
    response = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("user", "key"), name="one_answer_per_idempotency_key"),)

    def __str__(self) -> str:
        return self.key
