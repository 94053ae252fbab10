"""Hypothesis strategies of inputs for a target."""

from __future__ import annotations

import json

from fuzz.mutations import VALUES, mutated
from fuzz.target import Target
from hypothesis import strategies as st

GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(VALUES),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
)


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Mostly mutations of sound files; also JSON of any shape, and any bytes."""
    changed = st.builds(
        mutated,
        st.sampled_from(target.seeds),
        st.just(target.mutator),
        st.randoms(use_true_random=True),
    )
    shapes = GARBAGE.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    return st.one_of(changed, changed, changed, changed, changed, changed, shapes, st.binary())
