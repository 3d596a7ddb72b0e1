"""Accounts from the command line: who may come in, and as what."""

import io

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from interp_app.core.models import AuditEntry, Role, User
from interp_app.core.visibility import Visibility, may_see
from interp_app.runs.models import Run
from tests.factories import RunFactory, UserFactory

pytestmark = pytest.mark.django_db


def called(*arguments: str) -> str:
    output = io.StringIO()
    call_command(*arguments, stdout=output, stderr=io.StringIO())
    return output.getvalue().strip()


@pytest.mark.parametrize("role", Role.values)
def test_an_added_user_signs_in_with_the_printed_password_and_has_the_role(client: Client, role: str) -> None:
    password = called("add_user", "lin", "--role", role, "--email", "lin@example.org")
    assert len(password) >= 20
    assert client.login(username="lin", password=password)
    user = User.objects.get(username="lin")
    assert (user.role, user.email, user.can_run) == (role, "lin@example.org", role in ("member", "admin"))
    assert password not in user.password
    assert AuditEntry.objects.get().action == "account.create"


def test_a_password_may_come_from_the_standard_input_and_is_not_printed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a rather long sentence\n"))
    assert called("add_user", "lin", "--role", "member", "--password-stdin") == ""
    assert client.login(username="lin", password="a rather long sentence")


@pytest.mark.parametrize(
    ("name", "password", "said"),
    [("lin", "short", "too short"), ("not a name", None, "valid username"), ("ada", None, "an account 'ada' already")],
)
def test_an_account_that_cannot_be_made_is_a_sentence(
    member: User, monkeypatch: pytest.MonkeyPatch, name: str, password: str | None, said: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(password or ""))
    more = ["--password-stdin"] if password else []
    with pytest.raises(CommandError, match=said):
        called("add_user", name, "--role", "reader", *more)
    assert User.objects.count() == 1


def test_a_role_is_given_and_taken(stranger: User) -> None:
    assert called("set_role", "mallory", "member") == "mallory is member now."
    assert User.objects.get(pk=stranger.pk).can_run
    called("set_role", "mallory", "guest")
    assert not User.objects.get(pk=stranger.pk).in_lab
    assert AuditEntry.objects.first().detail == {"before": "member", "role": "guest"}
    with pytest.raises(CommandError, match="no account 'nobody'"):
        called("set_role", "nobody", "reader")


def test_a_row_at_hand_is_judged_as_the_query_judges_it(
    member: User, reader: User, stranger: User, lab_admin: User
) -> None:
    for level in Visibility.values:
        RunFactory(owner=member, visibility=level)
    away = UserFactory(role=Role.MEMBER, is_active=False)
    for viewer in (None, member, reader, stranger, lab_admin, away):
        seen = {run for run in Run.objects.all() if may_see(viewer, run.owner_id, run.visibility)}
        assert seen == set(Run.objects.visible_to(viewer))
