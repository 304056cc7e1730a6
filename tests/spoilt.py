"""Records with wrong values, as plugins outside of tests can make them."""

import copy
from dataclasses import fields


def spoilt(record, **wrong):
    """A record with other values, past the checks of its types that only tests have."""
    found = copy.copy(record)
    for known in set(vars(found)) - {one.name for one in fields(record)}:
        del vars(found)[known]  # What was worked out of the right values.
    for name, value in wrong.items():
        object.__setattr__(found, name, value)
    return found
