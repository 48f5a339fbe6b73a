"""The view of ``inspect --check``: what the checksums said."""

from __future__ import annotations

from ckpttool.files.checksums import CheckReport, CheckResult
from ckpttool.render.json import encode, place
from ckpttool.values.words import format_count, format_nbytes, plural


def check_fact(report: CheckReport) -> str:
    """Return ``checksums: 519 members verified (4.6 MiB), 2 have none``, what is wrong first."""
    facts = []
    if report.bad:
        facts.append(f"{format_count(len(report.bad))} wrong")
    if report.verified:
        members = plural(report.verified, "member")
        facts.append(f"{members} verified ({format_nbytes(report.verified_nbytes)})")
    if report.not_recorded:
        facts.append(f"{plural(report.not_recorded, 'member')} without")
    if report.files_without_checksums:
        facts.append(
            f"{plural(len(report.files_without_checksums), 'file')} of a format without; sizes add up"
        )
    return f"checksums: {', '.join(facts) or 'none'}"


def check_object(report: CheckReport) -> dict[str, object]:
    """Return the field ``check`` of the document."""
    bad = [_bad_object(result) for result in report.bad]
    counted = encode(report._replace(bad=()))
    return {"ok": report.ok, "conclusive": report.conclusive, **counted, "bad": bad}


def _bad_object(result: CheckResult) -> dict[str, object]:
    fields: dict[str, object] = encode(result._replace(entries=()))
    del fields["nbytes"]
    return {**fields, "entries": [place(entry.root, entry.name) for entry in result.entries]}
