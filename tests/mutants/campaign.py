"""Mutation testing: small changes in the source, one at a time, that a test must notice.

The mutants are mutmut's; running them is not, because JAX does not survive its fork: the
test files hold arrays, and in a child of a process that has some, the first compilation
waits for threads that are not there. Here all mutants of a share run in one process, in
which everything is compiled already: the code of a living function is exchanged, what
annotax has cached is forgotten, and the tests that enter the function are run, the quick
ones and those that have noticed other mutants first.
"""

import argparse
import collections
import gc
import importlib
import inspect
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mutate import Memory, code_of, mutants_of, mutated

HERE = Path(__file__).parent
GROUPS = {
    "_layout _traverse _view _records _selection _select _labels _path "
    "_variant _freeze _adopt _buffer _edit": (
        "layout select paths messages freeze adopt buffers leaves change carry equinox_nn "
        "summary explain"
    ),
    "_dims _mismatch _array_check _checks _beartype _checker _quick _class_checks _check "
    "_misfits _mode _arguments _methods _inside _validate _batch_axes": (
        "check_fields check_types check_messages check_methods check_modes validate "
        "agreement change audit"
    ),
}
"""Files, and the tests that are to notice what is changed in them."""
TESTS = {
    file: [f"test_{test}.py" for test in tests.split()]
    for files, tests in GROUPS.items()
    for file in files.split()
}
ENDLESS = 10
"""Seconds of computing after which a test counts as failed."""
EXAMPLES = 4
"""How many examples a property is tried on: a campaign asks it a thousand times."""
SHARES = 2
"""How many shares are run of a test that comes in shares, for the same reason."""


# --- running tests -------------------------------------------------------------------


class _Endless(BaseException):
    pass


def _stop(*_) -> None:
    raise _Endless


def _starts_processes(item) -> bool:
    """Whether a test starts a process, which would not know of the mutant."""
    return "subprocess" in inspect.getsource(item.function)


def _share(item) -> int:
    """Which share of a test in shares it is; 0 for any other."""
    return item.callspec.params.get("share", 0) if hasattr(item, "callspec") else 0


class Campaign:
    """A pytest plugin that runs the tests of one session again for each mutant."""

    def __init__(self, mutants: list[dict[str, str]], results: Path) -> None:
        self.mutants, self.results = mutants, results
        self.memory = Memory()
        self.failed, self.why = False, ""
        self.items: list[pytest.Item] = []
        self.cost: dict[str, float] = {}
        self.entered: dict[str, set[tuple[str, str]]] = {}
        self.noticed = collections.Counter()

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.failed, self.why = True, str(report.longrepr)[-3000:]

    def pytest_collection_modifyitems(self, items) -> None:
        from hypothesis import Phase, settings

        items[:] = [item for item in items if _share(item) < SHARES]
        name = "_hypothesis_internal_use_settings"
        for item in items:
            given = getattr(getattr(item, "function", None), name, None)
            if hasattr(getattr(item, "obj", None), "hypothesis"):
                phases = Phase.explicit, Phase.generate
                few = settings(given, max_examples=EXAMPLES, phases=phases)
                setattr(item.function, name, few)

    def passes(self, item, limit: float = ENDLESS) -> bool:
        if hasattr(item, "_initrequest"):
            item._initrequest()
        self.failed = False
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        except _Endless:
            self.failed = True
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if not self.failed:
            self.cost[item.nodeid] = time.process_time() - began
        return not self.failed

    def look(self, item) -> None:
        """Run a test for the first time, and see which functions it enters."""
        seen = set()

        def notice(frame, event, _) -> None:
            if event == "call":
                seen.add(frame.f_code)

        threading.setprofile(notice)
        sys.setprofile(notice)
        try:
            passed = self.passes(item, 20 * ENDLESS)  # it has to compile everything
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        if not passed:
            self.leave_out(item)
            return
        self.entered[item.nodeid] = {
            (Path(code.co_filename).stem, code.co_qualname.partition(".<locals>")[0])
            for code in seen
            if "annotax" in code.co_filename
        }

    def pytest_runtestloop(self, session) -> bool:
        signal.signal(signal.SIGPROF, _stop)
        self.items = [item for item in session.items if not _starts_processes(item)]
        self.memory.keep()
        for item in list(self.items):
            self.memory.restore()
            self.look(item)
        self.memory.find_caches()
        gc.freeze()
        for mutant in self.mutants:
            # If the process dies of it, this is what stands there when the next begins.
            self.write({**mutant, "outcome": "crashed"})
            self.write({**mutant, **self.outcome(mutant)})
        return True

    def leave_out(self, item) -> None:
        print("left out, it fails without a mutant:", item.nodeid, self.why, flush=True)
        self.items.remove(item)

    def write(self, row: dict[str, str]) -> None:
        with self.results.open("a") as file:
            file.write(json.dumps({**row, "source": ""}) + "\n")

    def outcome(self, mutant: dict[str, str]) -> dict[str, str]:
        place = mutant["file"], mutant["function"]
        module = importlib.import_module(f"annotax.{mutant['file']}")
        code = code_of(module, mutant["function"], mutant["source"])

        def order(item) -> float:
            return self.cost[item.nodeid] / (1 + self.noticed[item.nodeid, place])

        tests = [
            item
            for item in self.items
            if item.path.name in TESTS[place[0]] and place in self.entered[item.nodeid]
        ]
        self.memory.restore()
        for item in sorted(tests, key=order):
            with mutated(module, mutant["function"], code):
                passed = self.passes(item)
            if passed:
                continue
            self.memory.restore()
            if self.passes(item):
                self.noticed[item.nodeid, place] += 1
                return {"outcome": "killed", "by": item.nodeid}
            self.leave_out(item)  # the mutant has left something behind
        return {"outcome": "survived"}


# --- the campaign --------------------------------------------------------------------


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """What is known of each mutant; what was said last counts."""
    lines = [line for at in sorted(folder.glob("*.jsonl")) for line in at.open()]
    return {row["label"]: row for row in map(json.loads, lines)}


def forget_survivors(folder: Path) -> None:
    """Have it that what has survived was not tried."""
    known = [row for row in rows(folder).values() if row["outcome"] != "survived"]
    for at in folder.glob("*.jsonl"):
        at.unlink()
    lines = (json.dumps(row) + "\n" for row in known)
    (folder / "known.jsonl").write_text("".join(lines))


def work(folder: Path, files: list[str], share: str) -> None:
    """Try every n-th mutant, in this process."""
    source = Path(importlib.import_module("annotax").__file__).parent
    part, parts = map(int, share.split("/"))
    known, mine = rows(folder), []
    for name in files:
        found = mutants_of(name, (source / f"{name}.py").read_text())
        mine += [m for m in found[part::parts] if m["label"] not in known]
    wanted = dict.fromkeys(test for name in files for test in TESTS[name])
    tests = [str(HERE.parent / name) for name in wanted]
    options = "-p no:terminal -p no:xdist -p no:benchmark -p no:logging --assert=plain"
    campaign = Campaign(mine, folder / f"{part}.jsonl")
    code = pytest.main([*options.split(), *tests], plugins=[campaign])
    sys.exit(code > pytest.ExitCode.TESTS_FAILED)


def report(found: dict[str, dict[str, str]]) -> None:
    listed = (HERE / "README.md").read_text()
    survivors = {label for label, row in found.items() if row["outcome"] == "survived"}
    for name in dict.fromkeys(row["file"] for row in found.values()):
        labels = {label for label, row in found.items() if row["file"] == name}
        killed = len(labels) - len(labels & survivors)
        print(f"{name:<12} {len(labels):>5} {killed:>5} {killed / len(labels):>6.1%}")
    new = sorted(label for label in survivors if label not in listed)
    print(
        f"{len(survivors)} survive; not in the list of tests/mutants/README.md:",
        *new,
        sep="\n",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=list(TESTS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/mutants"))
    parser.add_argument("--share", help="for the workers")
    parser.add_argument("--again", action="store_true", help="try what has survived")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.share:
        work(options.out, options.files, options.share)
        return
    if options.again:
        forget_survivors(options.out)
    begin = [sys.executable, __file__, *options.files, "--out", str(options.out), "--share"]
    waiting = [f"{at}/{options.workers}" for at in range(options.workers)]
    while waiting:
        known = len(rows(options.out))
        running = {share: subprocess.Popen([*begin, share]) for share in waiting}
        waiting = [share for share, process in running.items() if process.wait() != 0]
        # A mutant may end its process: the next one goes on behind it.
        if waiting and len(rows(options.out)) == known:
            raise SystemExit("nothing comes of it")
    report(rows(options.out))


if __name__ == "__main__":
    main()
