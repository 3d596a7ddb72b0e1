"""Who may see what, in one place: private, lab or public, as a queryset verb used by pages, API, sockets and files."""

from typing import Any, Self

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Q


class Visibility(models.TextChoices):
    """Private: the owner alone. Lab: every member of the lab. Public: everybody, signed in or not."""

    PRIVATE = "private", "Private"
    LAB = "lab", "Lab"
    PUBLIC = "public", "Public"


class VisibleQuerySet(models.QuerySet[Any]):
    """For models with `owner` and `visibility`. What is not visible does not exist for that user (404, not 403)."""

    def visible_to(self, user: Any) -> Self:
        """Rows that `user` may read; `user` may be anonymous."""
        if user is None or isinstance(user, AnonymousUser) or not user.is_active:
            return self.filter(visibility=Visibility.PUBLIC)
        return self.all() if user.is_lab_admin else self.shared_with(user)

    def shared_with(self, user: Any) -> Self:
        """Rows that the signed-in `user` reads as a person of the lab, without an administrator's right to all."""
        allowed = Q(visibility=Visibility.PUBLIC) | Q(owner=user)
        if user.in_lab:
            allowed |= Q(visibility=Visibility.LAB)
        return self.filter(allowed)

    def editable_by(self, user: Any) -> Self:
        """Rows that `user` may change: their own, or all for an administrator of the lab."""
        if user is None or isinstance(user, AnonymousUser) or not user.is_active:
            return self.none()
        return self.all() if user.is_lab_admin else self.filter(owner=user)


def may_see(user: Any, owner_id: int, visibility: str) -> bool:
    """`visible_to` for a row that is here already: what its `owner_id` and `visibility` say about `user`."""
    if visibility == Visibility.PUBLIC:
        return True
    if user is None or isinstance(user, AnonymousUser) or not user.is_active:
        return False
    return bool(user.is_lab_admin or owner_id == user.pk or (visibility == Visibility.LAB and user.in_lab))
