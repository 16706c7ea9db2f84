"""``manage.py sse_doctor``: find what keeps a browser from a stream."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict, replace
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_sse.brokers import get_broker
from django_sse.conf import conf
from django_sse.exceptions import BrokerError
from django_sse.management.terminal import harmless
from django_sse.monitoring.doctor import examine
from django_sse.monitoring.findings import Finding
from django_sse.rows.diagnosis import examine_triggers


class Command(BaseCommand):
    """Connects to a stream like a browser, and shows the findings; fails if there is a problem."""

    help = (
        "Connect to a stream like a browser, and say in plain words what stands between: login "
        "pages, buffering, compression, time limits, missing headers. Fails if there is a problem."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("url", metavar="URL")
        parser.add_argument(
            "--header",
            action="append",
            default=[],
            metavar="'NAME: VALUE'",
            help="send a header, such as 'Cookie: sessionid=…'; may be repeated",
        )
        parser.add_argument(
            "--timeout",
            type=float,
            default=35.0,
            metavar="SECONDS",
            help="listen for so long (35): more than twice the heartbeat's period sees most",
        )
        parser.add_argument(
            "--insecure", action="store_true", help="accept any certificate, also one of your own"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object: url, findings")

    def handle(self, *args: Any, **options: Any) -> None:
        """Examine the stream, the broker and the triggers, and show the findings."""
        headers = {}
        for line in options["header"]:
            name, colon, value = line.partition(":")
            if not colon:
                raise CommandError(f"--header takes 'Name: value', got {line!r}.")
            headers[name.strip()] = value.strip()
        if not options["timeout"] > 0:
            raise CommandError(f"--timeout takes seconds above 0, got {options['timeout']:g}.")
        try:
            diagnosis = examine(
                options["url"],
                headers=headers,
                seconds=options["timeout"],
                insecure=options["insecure"],
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        found = [*diagnosis.findings, *_of_the_broker(), *examine_triggers()]
        diagnosis = replace(diagnosis, findings=found)
        if options["json"]:
            findings = [asdict(finding) for finding in diagnosis.findings]
            self.stdout.write(json.dumps({"url": diagnosis.url, "findings": findings}))
        else:
            styles = {
                "ok": self.style.SUCCESS,
                "note": self.style.WARNING,
                "problem": self.style.ERROR,
            }
            for finding in diagnosis.findings:
                self.stdout.write(
                    f"{styles[finding.level](finding.level.ljust(7))}  {harmless(finding.text)}"
                )
                if finding.remedy:
                    self.stdout.write(f"         → {harmless(finding.remedy)}")
        if count := len(diagnosis.problems):
            raise CommandError(f"{count} problem{'s' if count > 1 else ''} found.")


def _of_the_broker() -> list[Finding]:
    """Return findings about the broker of the settings, which this machine may not reach."""
    try:
        texts = get_broker().problems(timeout=conf.publish_timeout)
    except BrokerError as error:
        return [Finding("broker", "note", str(error))]
    return [Finding("broker", "problem", text) for text in texts]
