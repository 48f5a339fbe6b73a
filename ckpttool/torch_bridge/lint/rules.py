"""The table of rules: every code of ``lint`` with its severity. docs/lint.md has an example of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ckpttool.torch_bridge.lint import behaviour, registration, saving
from ckpttool.torch_bridge.lint.facts import Facts, Hit


class LintRule(NamedTuple):
    """A trap: its stable code, how bad it is, and how it is found."""

    code: str
    severity: str
    find: Callable[[Facts], Iterable[Hit]]


RULES: tuple[LintRule, ...] = (
    LintRule("CKPT101", "error", registration.find_plain_tensors),
    LintRule("CKPT102", "error", registration.find_plain_parameters),
    LintRule("CKPT103", "error", registration.find_plain_modules),
    LintRule("CKPT104", "error", registration.find_tensors_with_history),
    LintRule("CKPT105", "warning", registration.find_parameters_as_buffers),
    LintRule("CKPT106", "info", registration.find_empty_slots),
    LintRule("CKPT107", "warning", registration.find_uninitialized),
    LintRule("CKPT108", "error", registration.find_meta_tensors),
    LintRule("CKPT109", "info", registration.find_computed),
    LintRule("CKPT201", "info", saving.find_rebuildable),
    LintRule("CKPT202", "warning", saving.find_random_constants),
    LintRule("CKPT203", "info", saving.find_frozen_constants),
    LintRule("CKPT204", "warning", saving.find_large_storages),
    LintRule("CKPT205", "error", saving.find_expanded),
    LintRule("CKPT206", "info", saving.find_non_contiguous),
    LintRule("CKPT207", "info", saving.find_batch_norms_without_statistics),
    LintRule("CKPT208", "info", saving.find_averaged_buffers),
    LintRule("CKPT301", "info", saving.find_tied),
    LintRule("CKPT302", "info", saving.find_shared_modules),
    LintRule("CKPT303", "warning", saving.find_buffers_in_parameters),
    LintRule("CKPT304", "warning", saving.find_overlapping_parameters),
    LintRule("CKPT305", "info", saving.find_overlapping_buffers),
    LintRule("CKPT401", "error", behaviour.find_failing_reload),
    LintRule("CKPT402", "warning", behaviour.find_silent_reload),
    LintRule("CKPT403", "info", behaviour.find_own_loading),
    LintRule("CKPT404", "info", behaviour.find_opaque_extra_state),
    LintRule("CKPT501", "error", behaviour.find_unmoved),
    LintRule("CKPT502", "info", behaviour.find_uncast),
    LintRule("CKPT503", "warning", behaviour.find_stale_aliases),
    LintRule("CKPT504", "warning", behaviour.find_failing_conversions),
    LintRule("CKPT505", "warning", behaviour.find_keys_changed_by_conversion),
    LintRule("CKPT601", "warning", behaviour.find_keys_changed_by_forward),
    LintRule("CKPT602", "warning", behaviour.find_flags_lost_in_forward),
    LintRule("CKPT603", "warning", behaviour.find_learning_non_persistent),
    LintRule("CKPT604", "warning", behaviour.find_caches),
    LintRule("CKPT605", "info", behaviour.find_kept_graphs),
    LintRule("CKPT606", "warning", behaviour.find_buffers_with_history),
)
