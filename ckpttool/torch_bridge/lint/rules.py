"""The table of rules: every code of ``lint`` with its severity. docs/lint.md has an example of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ckpttool.torch_bridge.lint import behaviour, registration, saving
from ckpttool.torch_bridge.lint.facts import Facts, Hit


class Rule(NamedTuple):
    """A trap: its stable code, how bad it is, and how it is found."""

    code: str
    severity: str
    find: Callable[[Facts], Iterable[Hit]]


RULES: tuple[Rule, ...] = (
    Rule("CKPT101", "error", registration.find_plain_tensors),
    Rule("CKPT102", "error", registration.find_plain_parameters),
    Rule("CKPT103", "error", registration.find_plain_modules),
    Rule("CKPT104", "error", registration.find_tensors_with_history),
    Rule("CKPT105", "warning", registration.find_parameters_as_buffers),
    Rule("CKPT106", "info", registration.find_empty_slots),
    Rule("CKPT107", "warning", registration.find_uninitialized),
    Rule("CKPT108", "error", registration.find_meta_tensors),
    Rule("CKPT109", "info", registration.find_computed),
    Rule("CKPT201", "info", saving.find_rebuildable),
    Rule("CKPT202", "warning", saving.find_random_constants),
    Rule("CKPT203", "info", saving.find_frozen_constants),
    Rule("CKPT204", "warning", saving.find_large_storages),
    Rule("CKPT205", "error", saving.find_expanded),
    Rule("CKPT206", "info", saving.find_non_contiguous),
    Rule("CKPT207", "info", saving.find_batch_norms_without_statistics),
    Rule("CKPT208", "info", saving.find_averaged_buffers),
    Rule("CKPT301", "info", saving.find_tied),
    Rule("CKPT302", "info", saving.find_shared_modules),
    Rule("CKPT303", "warning", saving.find_buffers_in_parameters),
    Rule("CKPT304", "warning", saving.find_overlapping_parameters),
    Rule("CKPT305", "info", saving.find_overlapping_buffers),
    Rule("CKPT401", "error", behaviour.find_failing_reload),
    Rule("CKPT402", "warning", behaviour.find_silent_reload),
    Rule("CKPT403", "info", behaviour.find_own_loading),
    Rule("CKPT404", "info", behaviour.find_opaque_extra_state),
    Rule("CKPT501", "error", behaviour.find_unmoved),
    Rule("CKPT502", "info", behaviour.find_uncast),
    Rule("CKPT503", "warning", behaviour.find_stale_aliases),
    Rule("CKPT504", "warning", behaviour.find_failing_conversions),
    Rule("CKPT505", "warning", behaviour.find_keys_changed_by_conversion),
    Rule("CKPT601", "warning", behaviour.find_keys_changed_by_forward),
    Rule("CKPT602", "warning", behaviour.find_flags_lost_in_forward),
    Rule("CKPT603", "warning", behaviour.find_learning_non_persistent),
    Rule("CKPT604", "warning", behaviour.find_caches),
    Rule("CKPT605", "info", behaviour.find_kept_graphs),
    Rule("CKPT606", "warning", behaviour.find_buffers_with_history),
)
