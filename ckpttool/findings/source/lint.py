"""``lint --source``: reads what was named, and asks each rule of each class of modules."""

from __future__ import annotations

from collections.abc import Sequence

from ckpttool.findings.source.rules import RULES, Classes
from ckpttool.findings.source.scan import SCANNER
from ckpttool.kinds.source.library import SourceClass
from ckpttool.kinds.source.sources import Sources
from ckpttool.values.lint import LintFinding, LintReport
from ckpttool.values.progress import SILENT, Progress


def lint_source(texts: Sequence[str], progress: Progress = SILENT) -> LintReport:
    """Find what the classes of packages, folders and files do; with ``:Class``, that class and its bases.

    Raises:
        SourceNotFound: there is no such package, folder, file or class.
    """
    with Sources(texts, progress, SCANNER) as sources:
        named: list[SourceClass] = []
        for reader in sources.readers:
            sources.read_all(reader)
            named += sources.named_classes(reader)
        classes = Classes(sources.library)
        asked = classes.modules
        if named:
            only = {item.dotted for cls in named for item in classes.lineage(cls)}
            asked = [cls for cls in asked if cls.dotted in only]
        findings = [
            LintFinding(
                rule.code, rule.severity, f"{cls.name}.{hit.name}", hit.message, hit.fix, cls.file, hit.line
            )
            for rule in RULES
            for cls in asked
            for hit in rule.find(classes, cls)
        ]
        used = sources.used()
    return LintReport("", "", tuple(findings), (), sources=used, modules=len(asked))
