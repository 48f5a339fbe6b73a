"""What ``lint`` finds in a model, as values without torch."""

from __future__ import annotations

from typing import NamedTuple

from ckpttool.values.source import SourceUsed


class LintFinding(NamedTuple):
    """A trap of Parameter and Buffer in a model.

    ``code`` is documented in docs/lint.md; ``severity`` is ``error``, ``warning`` or ``info``;
    ``name`` the path of the tensor, attribute or module; ``message`` one sentence without the
    name; ``fix`` what to write instead. Of source ``name`` is the class and its attribute, in
    ``line`` of ``file``, relative to the folder that the package lies in; of a model both are None.
    """

    code: str
    severity: str
    name: str
    message: str
    fix: str
    file: str | None = None
    line: int | None = None


class Proof(NamedTuple):
    """What was seen to happen to one tensor. None: it could not be seen, e.g. there are no elements.

    ``in_parameters`` and ``in_state_dict`` are membership; ``changed_by_forward`` and
    ``changed_by_step`` compare bytes before and after one forward and the one
    ``optimizer.step()`` behind it; ``moved`` is its device after ``.to(device)``; ``restored`` is
    whether other bytes, put in its place, arrive in a fresh build by way of ``state_dict()`` and
    ``load_state_dict()``.
    """

    requires_grad: bool | None
    in_parameters: bool
    in_state_dict: bool
    changed_by_forward: bool | None
    changed_by_step: bool | None
    moved: bool | None
    restored: bool | None


class LintEntry(NamedTuple):
    """A tensor that the model holds, registered or not.

    ``kind`` is a value of ``checkpoint.Kind``, or ``attribute`` (a tensor that no module
    registered), or ``computed`` (an attribute that hooks of torch compute from parameters).
    ``dtype`` is None for what is no tensor, ``shape`` also before a lazy module has run.
    """

    name: str
    kind: str
    dtype: str | None
    shape: tuple[int, ...] | None
    proof: Proof | None = None


class LintReport(NamedTuple):
    """The result of ``lint`` for one model, or for source.

    ``model`` is how the user named it; ``notes`` are what was not checked, and why; ``device`` and
    ``loss`` say how the proof was made, empty without one. Of source there are ``sources``, with the
    count of their classes that are ``modules``, and neither a model, a class nor entries.
    """

    model: str
    class_name: str
    findings: tuple[LintFinding, ...]
    entries: tuple[LintEntry, ...]
    notes: tuple[str, ...] = ()
    device: str = ""
    loss: str = ""
    sources: tuple[SourceUsed, ...] = ()
    modules: int = 0

    @property
    def ok(self) -> bool:
        """True when no finding is a warning or an error."""
        return all(finding.severity == "info" for finding in self.findings)
