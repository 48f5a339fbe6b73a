"""The view of ``inspect --check``: what the checksums said."""

from __future__ import annotations

from ckpttool.files.checksums import CheckReport, CheckResult
from ckpttool.render.json import key_value, root_keys
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
    return {
        "ok": report.ok,
        "conclusive": report.conclusive,
        "verified": report.verified,
        "verified_nbytes": report.verified_nbytes,
        "not_recorded": report.not_recorded,
        "files_without_checksums": list(report.files_without_checksums),
        "bad": [_bad_object(result) for result in report.bad],
    }


def _bad_object(result: CheckResult) -> dict[str, object]:
    return {
        "name": result.name,
        "file": result.file,
        "status": result.status.value,
        "expected": result.expected,
        "actual": result.actual,
        "message": result.message,
        "entries": [
            {"root": root_keys(entry.root), "name": key_value(entry.name)} for entry in result.entries
        ],
    }
