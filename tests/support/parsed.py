"""The tree of a pickle, with limits that no test is about."""

from ckpttool.pickles.nodes import PickleTree
from ckpttool.pickles.tree import parse_pickle


def parse(
    data: bytes, *, start: int = 0, max_ops: int = 1_000_000, max_nodes: int = 100_000, max_name: int = 4096
) -> PickleTree:
    return parse_pickle(data, start=start, max_ops=max_ops, max_nodes=max_nodes, max_name=max_name)
