"""Accounts of the lab, as the command line makes and changes them."""

import secrets

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from interp_app.core import audit
from interp_app.core.errors import ServiceError, conflict
from interp_app.core.models import Role, User


def add_user(*, username: str, role: str, email: str = "", password: str | None = None) -> tuple[User, str]:
    """A new account and its password: the given one, or one made up. Raises `ServiceError`."""
    made_up = password is None
    password = secrets.token_urlsafe(15) if password is None else password
    user = User(username=username, email=email, role=_role(role))
    try:
        user.clean_fields(exclude=["password"])
        if not made_up:
            validate_password(password, user)
    except ValidationError as error:
        raise ServiceError("account_invalid", " ".join(error.messages)) from error
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save()
            audit.record(actor=None, action="account.create", target=user, role=user.role)
    except IntegrityError as error:
        raise conflict(
            "account_exists", f"There is an account {username!r} already.", "Change it with set_role or changepassword."
        ) from error
    return user, password


@transaction.atomic
def set_role(*, username: str, role: str) -> User:
    """Give an account another role; it holds from the next request on. Raises `ServiceError`."""
    wanted = _role(role)
    user = User.objects.select_for_update(no_key=True).filter(username=username).first()
    if user is None:
        raise ServiceError("account_unknown", f"There is no account {username!r}.", "Make it with add_user.")
    before, user.role = user.role, wanted
    user.save(update_fields=["role"])
    audit.record(actor=None, action="account.role", target=user, before=before, role=wanted)
    return user


def _role(role: str) -> str:
    if role not in Role.values:
        raise ServiceError("role_unknown", f"{role!r} is no role.", f"Use {', '.join(Role.values)}.")
    return role
