"""The doctor: finds what keeps a browser from a stream, and says it in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

from django_sse.wire.events import CONTENT_TYPE

from . import answers, flow
from .findings import Finding
from .probe import observe, protocol

#: How many redirects it follows.
MAX_REDIRECTS = 5


@dataclass(frozen=True)
class Diagnosis:
    """All findings for an address."""

    url: str
    findings: list[Finding]

    @property
    def problems(self) -> list[Finding]:
        """The findings that are problems."""
        return [finding for finding in self.findings if finding.level == "problem"]


def examine(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    seconds: float = 35.0,
    insecure: bool = False,
) -> Diagnosis:
    """Connect like a browser, listen for ``seconds``, and return the findings.

    Takes twice as long where the stream arrives compressed: the second request asks for it without
    compression, to find other problems. ``insecure`` accepts any certificate. Raises ``ValueError``
    for an address or headers that cannot be sent.
    """
    given = dict(headers or {})
    findings: list[Finding] = []
    for _ in range(MAX_REDIRECTS + 1):
        seen = observe(url, headers=given, seconds=seconds, insecure=insecure)
        if seen.status not in {301, 302, 303, 307, 308}:
            break
        target = urljoin(url, seen.headers.get("location", ""))
        finding = answers.redirect(url, target, seen)
        findings.append(finding)
        if finding.level == "problem":
            return Diagnosis(url, findings)
        url = target
    else:
        findings.append(Finding("redirects", "problem", f"More than {MAX_REDIRECTS} redirects."))
        return Diagnosis(url, findings)
    if not seen.status and seen.failure is None:
        # Not even headers came. Ask by HEAD, which has no body that a proxy could wait for.
        head = observe(url, headers=given, seconds=0, method="HEAD", insecure=insecure)
        findings.append(answers.no_head(seen, head))
        return Diagnosis(url, findings)
    refusal = answers.not_a_stream(seen)
    if refusal is not None:
        findings.append(refusal)
        return Diagnosis(url, findings)
    findings.append(Finding("stream", "ok", f"It answers {seen.status} with {CONTENT_TYPE}."))
    if (later := flow.come_back_later(seen)) is not None:
        return Diagnosis(url, [*findings, later])
    encoding = seen.headers.get("content-encoding", "identity")
    if encoding != "identity":
        findings.append(answers.compressed(encoding))
        plain = {**given, "Accept-Encoding": "identity"}
        seen = observe(url, headers=plain, seconds=seconds, insecure=insecure)
    findings += answers.headers(seen)
    findings += flow.timing(seen)
    findings += answers.transport(url, seen, protocol(url, insecure=insecure))
    return Diagnosis(url, findings)
