"""What was measured, and what was trained: records that know their subjects by contents.

A name, a path, a place in a list or a file's time never says what a number is of. What does is written
when it happens, beside what it describes: `Measurement` for samples of a model, `Execution` for a
training. Everything that reads them (the store, resuming, pages, sweeps, MLflow's copies) reads these.
"""

from opdlab.identity.digests import digest, new_id, now
from opdlab.identity.execution import EXECUTION, Execution
from opdlab.identity.measurement import Measurement, Owner
from opdlab.identity.measurements import MEASUREMENTS, add, latest, read
from opdlab.identity.model_id import ModelId
from opdlab.identity.roles import PACES, learned

__all__ = [
    "EXECUTION",
    "MEASUREMENTS",
    "PACES",
    "Execution",
    "Measurement",
    "ModelId",
    "Owner",
    "add",
    "digest",
    "latest",
    "learned",
    "new_id",
    "now",
    "read",
]
