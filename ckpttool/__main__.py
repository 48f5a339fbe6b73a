"""``python -m ckpttool``."""

from ckpttool.cli import entry

entry()
