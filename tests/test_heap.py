"""Freed memory stays where the heap is glibc's, and goes when it is told to."""

import subprocess
import sys

import pytest

from modcalc.measure import heap

pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="another C library")

BLOCKS = """
import resource
from modcalc.measure import heap

def block():
    bytearray(b"x") * (64 << 20)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
"""


def run(code: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", BLOCKS + code], capture_output=True)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_no_page_is_cleared_again() -> None:
    count = "block(); before = faults()\nfor _ in range(4): block()\nprint(faults() - before, int(heap.keeps()))"
    (by_default, no), (kept, yes) = run(count), run("heap.keep(); " + count)
    assert 20 * kept < by_default and (no, yes) == (0, 1)


def test_what_is_kept_can_be_given_back() -> None:
    before, kept, after = run("heap.keep(); print(resident()); block(); print(resident()); heap.give_back(); print(resident())")
    assert kept - before > 60 << 20 and after - before < 4 << 20


def test_another_heap_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    heap.keep.cache_clear()
    heap.keep()
    heap.give_back()
    assert not heap.keeps()
    heap.keep.cache_clear()
