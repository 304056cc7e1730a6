"""Records with wrong values, as plugins outside of tests can make them."""

import copy


def spoilt(record, **wrong):
    """A record with other values, past the checks of its types that only tests have."""
    found = copy.copy(record)
    for name, value in wrong.items():
        object.__setattr__(found, name, value)
    return found
