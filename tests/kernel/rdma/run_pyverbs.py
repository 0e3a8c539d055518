# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs one file of pyverbs' tests, and prints a line a test. Those that pyverbs.txt names must pass; with `all`, others
run, too.

usage: run_pyverbs.py DEVICE GID FILE [all]
"""

import importlib
import signal
import sys
import traceback
import types
import unittest

device, gid, file, *every = sys.argv[1:]
folder = "/rdma/tests"
sys.path.insert(0, folder)

from args_parser import parser  # of the tests

parser.args = {"dev": device, "port": 1, "gid": int(gid), "pci_dev": None, "gpu": 0, "gtt": False,
               "verbosity": None}
# The package of the tests, but without importing all of them.
package = types.ModuleType("tests")
package.__path__ = [folder]
sys.modules["tests"] = package

# The names of the tests, and what else is said of them.
with open("/rdma/pyverbs.txt", encoding="utf-8") as listed:
    lines = [line.split() for line in listed if not line.startswith("#")]
expected = {line[1]: line[2:] for line in lines if line[0] == device and line[1].startswith(file + ".")}


class Lines(unittest.TestResult):
    """A line for each test, as soon as it has ended."""

    ended = {}

    def startTest(self, test):
        super().startTest(test)
        signal.alarm(120)

    def end(self, test, how, why=""):
        signal.alarm(0)
        name = test.id().removeprefix("tests.")
        self.ended[name] = how
        print(f"test: pyverbs {device}: {how} {name}", *expected.get(name, []), why)

    def addSuccess(self, test):
        self.end(test, "ok")

    def addSkip(self, test, reason):
        self.end(test, "skipped", f"({reason})" if every else "")

    def addFailure(self, test, err):
        traceback.print_exception(*err)
        self.end(test, "not ok")

    addError = addFailure


def late(*_):
    raise TimeoutError("a test has taken longer than two minutes")


def flat(suite):
    """The tests of a suite of suites."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        elif every or test.id().removeprefix("tests.") in expected:
            yield test


signal.signal(signal.SIGALRM, late)
if every or expected:
    results = Lines()
    module = importlib.import_module("tests." + file)
    unittest.TestSuite(flat(unittest.defaultTestLoader.loadTestsFromModule(module))).run(results)
    failed = [name for name, said in expected.items() if results.ended.get(name) != "ok" and "flaky" not in said]
    for name in failed:
        print(f"test: pyverbs {device}: FAILED: {name}")
    sys.exit(bool(failed) and not every)
