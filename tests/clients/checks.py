"""Runs the checks of a script in order, and says which of them fail."""

import inspect
import sys
import traceback


def run(module):
    """Runs every function of the module whose name begins with `check_`."""
    checks = [(n, f) for n, f in vars(module).items() if n.startswith("check_") and inspect.isfunction(f)]
    failed = 0
    for name, check in checks:
        try:
            check()
            print(f"ok      {name}")
        except Exception:
            failed += 1
            print(f"FAILED  {name}")
            traceback.print_exc(file=sys.stdout)
    assert checks, "there is nothing to check"
    sys.exit(1 if failed else 0)


def raises(kind, call):
    """The exception of this kind that the call raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")
