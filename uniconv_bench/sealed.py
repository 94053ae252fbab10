"""JSON that vouches for itself: strict, and with a digest over everything else it says.

A file edited by hand is refused. Knows nothing of what is in it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    computed_field,
    model_serializer,
)

from uniconv_bench.errors import UserError
from uniconv_bench.files import canonical_json, digest_of, write_json


class Strict(BaseModel):
    """A part of such a file: no unknown field, no coercion, no change after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    LATE: ClassVar[tuple[str, ...]] = ()
    """Fields younger than files that there are: their default is not written, so that what had no
    such field reads, and is digested, as ever."""

    @model_serializer(mode="wrap")
    def _as_ever(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        unsaid = {n for n in self.LATE if getattr(self, n) == type(self).model_fields[n].default}
        return {name: value for name, value in written.items() if name not in unsaid}


class Sealed(Strict):
    """A whole one."""

    @computed_field  # type: ignore[prop-decorator]  # mypy has no decorated properties
    @cached_property
    def digest(self) -> str:
        """sha256 over all other fields."""
        return digest_of(self.model_dump(mode="json", exclude={"digest"}))


S = TypeVar("S", bound=Sealed)


def write_sealed(value: Sealed, path: Path) -> Path:
    """Writes it with its digest."""
    return write_json(path, value.model_dump(mode="json"))


def opened(model: type[S], content: dict[str, Any], path: Path, *, what: str, mend: str) -> S:
    """The content of a file.

    Args:
        what: such a file is, for errors.
        mend: what a person does about a changed one.

    Raises:
        UserError: naming the field that is wrong; also if the digest does not fit the content.
    """
    digest = content.pop("digest", None)
    try:
        found = model.model_validate_json(canonical_json(content))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or what
        fault = f"malformed {what}: field {field}: {first['msg']}"
        raise UserError(fault, where=path, mend=mend) from error
    if found.digest != digest:
        raise UserError(
            "the digest does not fit the content: the file was changed after it was written",
            where=path,
            mend=mend,
        )
    return found
