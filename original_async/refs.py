"""The refs that operations of Original can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from attrs import evolve

from original_async.kinds import ASSET, COLLECTION, EDIT, KINDS
from original_async.models.edits import is_edit_uid
from rewards_core.operations import OperationRef, subject_of
from rewards_core.text import listed
from rewards_core.validation import check_id, plain_id

_KNOWN_ABOUT: Mapping[str, Callable[[str], str]] = {
    ASSET: partial(subject_of, ASSET),
    COLLECTION: partial(subject_of, COLLECTION),
    EDIT: lambda uid: subject_of(ASSET, uid.rpartition(":")[0]),
}
"""The kinds whose uid tells what they are about."""


def checked_ref(ref: OperationRef) -> OperationRef:
    """Return a ref with what it is about, after checking that Original can have such an operation.

    Raises:
        ValueError: Original has no such kind, or operations of this kind have other uids.
    """
    if ref.kind not in KINDS:
        raise ValueError(f"operation: {ref} is of no kind that Original has: give one of {listed(KINDS)}.")
    if not plain_id(ref.uid):
        check_id(ref.uid, "uid")
    if ref.kind == EDIT and not is_edit_uid(ref.uid):
        raise ValueError(f"operation: {ref} is not an edit, whose uid is the asset's uid, a colon and the token of the call.")
    if ref.about is None and ref.kind in _KNOWN_ABOUT:
        return evolve(ref, about=_KNOWN_ABOUT[ref.kind](ref.uid))
    return ref
