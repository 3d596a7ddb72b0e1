"""Signing in, and API tokens."""

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.utils import timezone

LIFETIMES = (("30", "30 days"), ("90", "90 days"), ("365", "1 year"), ("", "Does not expire"))


class SignInForm(AuthenticationForm):
    """User name and password."""

    error_messages = {
        "invalid_login": "This user name and password do not match an active account. Both are case-sensitive.",
        "inactive": "This account is switched off. Ask an administrator of the lab.",
        "throttled": "Too many attempts. Wait five minutes, or ask an administrator to set a new password.",
    }


class TokenForm(forms.Form):
    """A new API token."""

    name = forms.CharField(
        label="Name", max_length=80, help_text="What will use it, e.g. “notebook on the cluster”.", strip=True
    )
    scope = forms.ChoiceField(
        label="Allows",
        choices=(("read", "Reading"), ("write", "Reading, and submitting and changing runs")),
        initial="write",
    )
    lifetime = forms.ChoiceField(label="Expires after", choices=LIFETIMES, initial="90", required=False)

    @property
    def expires_at(self) -> datetime | None:
        days: Any = self.cleaned_data["lifetime"]
        return timezone.now() + timedelta(days=int(days)) if days else None
