"""A module run with a defect planted: ``python -m tests.faults.mutated NAME MODULE …``."""

import runpy
import sys

from tests.faults import mutants


def main() -> None:
    name, module, *arguments = sys.argv[1:]
    mutants.plant(name)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
