"""Makes the stranger's tables, and the user ``ada``; prints how she shows who she is, as JSON."""

from __future__ import annotations

import base64
import json
import sys

import django


def main() -> None:
    django.setup()
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import Group, User
    from django.contrib.sessions.backends.db import SessionStore
    from django.core.management import call_command

    if "django_tenants" in settings.INSTALLED_APPS:
        make_tenants()
    else:
        call_command("migrate", verbosity=0)
    user, _ = User.objects.get_or_create(username="ada", email="ada@example.com")
    user.set_password("secret")
    user.save()
    stranger = settings.STRANGER
    headers = {}
    if stranger.credentials == "session":
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        headers["Cookie"] = f"sessionid={session.session_key}"
    elif stranger.credentials == "basic":
        headers["Authorization"] = f"Basic {base64.b64encode(b'ada:secret').decode()}"
    elif stranger.credentials == "knox":
        from knox.models import AuthToken

        headers["Authorization"] = f"Token {AuthToken.objects.create(user=user)[1]}"
    if "guardian" in settings.INSTALLED_APPS:
        from guardian.shortcuts import assign_perm

        mine, _ = Group.objects.get_or_create(pk=1, name="mine")
        Group.objects.get_or_create(pk=2, name="not mine")
        assign_perm("auth.view_group", user, mine)
    json.dump(headers, sys.stdout)


def make_tenants() -> None:
    """Make two tenants, each with a group of its own, and enter the schema of the first."""
    from django.contrib.auth.models import Group
    from django.core.management import call_command
    from django.db import connection
    from django_tenants.utils import schema_context

    from .tenants.models import Domain, Tenant

    call_command("migrate_schemas", shared=True, verbosity=0)
    for name, domain in (("one", "127.0.0.1"), ("two", "two.example")):
        tenant, _ = Tenant.objects.get_or_create(schema_name=name, name=name)
        Domain.objects.get_or_create(domain=domain, tenant=tenant, is_primary=True)
        with schema_context(name):
            Group.objects.get_or_create(name=f"the group of {name}")
    connection.set_schema("one")


main()
