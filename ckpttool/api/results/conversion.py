"""What converting gives."""

from __future__ import annotations

from collections.abc import Mapping

from ckpttool.api.results import Answer
from ckpttool.values import conversion


class Conversion(Answer, conversion.Conversion):
    """What was written: ``files`` (``path``, ``nbytes``, ``sha256``), and what became of the source.

    >>> conversion = ckpttool.convert("tied.pt", "tied.safetensors", force=True)
    >>> conversion.written, conversion.aliases
    (True, {'lm_head.weight': 'embed_tokens.weight'})
    """

    __slots__ = ()

    @property
    def aliases(self) -> Mapping[str, str]:
        """Each tied name, and the name under which its bytes are kept."""
        return self.plan.aliases

    @property
    def dropped(self) -> tuple[conversion.Dropped, ...]:
        """What the destination does not hold; ``asked`` is true where an option said so."""
        return self.plan.dropped

    @property
    def cast(self) -> tuple[conversion.Cast, ...]:
        """Tensors whose dtype changed: ``name``, ``before``, ``after``."""
        return self.plan.casts

    @property
    def notes(self) -> tuple[str, ...]:
        """What else is worth a sentence."""
        return self.plan.notes
