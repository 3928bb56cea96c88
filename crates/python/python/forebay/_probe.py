"""Asks libcufile whether it has a direct path, in a process of its own: it may hang or crash."""

import sys

from . import _core

if __name__ == "__main__":
    _core.self_test(sys.argv[1], int(sys.argv[2]))
