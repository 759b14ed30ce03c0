"""Objects without other references are freed piece by piece; the others stay as they are."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from weakref import ref

from engine.runtime import free_gradually


@dataclass(frozen=True, eq=False)
class Node:
    children: tuple[Node, ...] = ()


def test_an_object_is_freed_with_all_that_only_it_refers_to() -> None:
    shared, kept = Node(), Node((Node(),))
    tree: Node | None = Node((Node((shared, kept)), Node((shared,))))
    assert tree is not None
    gone = [ref(tree), ref(tree.children[0]), ref(shared)]
    things: list[object] = [tree]
    tree, shared = None, kept
    gc.disable()
    try:
        free_gradually(things)
        assert [each() for each in gone] == [None, None, None]
    finally:
        gc.enable()
    assert things == [] and len(kept.children) == 1


def test_an_object_in_use_stays_whole() -> None:
    tree = Node((Node(), Node((Node(),))))
    free_gradually([tree])
    assert len(tree.children) == 2 and len(tree.children[1].children) == 1
