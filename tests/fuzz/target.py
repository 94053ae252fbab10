"""What fuzzing throws inputs at: a parser, its sound files, and which of them is replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.mutations import Mutator

from uniconv_bench.errors import UserError


@dataclass(frozen=True)
class Target:
    """A parser of outside input.

    Attributes:
        name: `<kind>/<file>`.
        read: given the folder, reads all that the program reads of it.
        fuzzed: path in the folder of the file that inputs replace.
        seeds: contents of it to begin with, the first of them sound.
        mutator: of its structure.
        others: the other files, path -> sound content.
        share: inputs for one of a target of share 1; slow parsers get fewer.
    """

    name: str
    read: Callable[[Path], object]
    fuzzed: str
    seeds: tuple[bytes, ...]
    mutator: Mutator
    others: Mapping[str, bytes] = field(default_factory=dict)
    share: float = 1.0

    def lay(self, folder: Path) -> None:
        """Puts sound files there."""
        for name, content in {**self.others, self.fuzzed: self.seeds[0]}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    def takes(self, content: bytes, folder: Path) -> bool:
        """Whether the parser takes an input, or refuses it in one line; all else comes through.

        Args:
            content: of the fuzzed file.
            folder: with the sound files.
        """
        (folder / self.fuzzed).write_bytes(content)
        try:
            self.read(folder)
        except UserError as error:
            assert str(error).strip() and "\n" not in str(error)
            return False
        except OSError as error:  # as of a name that is too long: the command line has its words
            assert error.strerror
            return False
        return True


def of_file(
    name: str,
    read: Callable[[Path], object],
    mutator: Mutator,
    *seeds: bytes,
    end: str = "",
    share: float = 1.0,
) -> Target:
    """A parser of one file."""
    file = name.replace("/", "-") + end
    return Target(name, lambda folder: read(folder / file), file, seeds, mutator, share=share)
