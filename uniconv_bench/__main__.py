"""The program: `uniconv-bench`, or `python -m uniconv_bench` as launchers of processes start it."""

import sys

from uniconv_bench import stopping


def main() -> int:
    """Runs the command line; returns its exit code. A signal is met before the imports end."""

    def work() -> int:
        from uniconv_bench.cli import main as command_line

        return command_line()

    return stopping.run(work)


if __name__ == "__main__":
    sys.exit(main())
