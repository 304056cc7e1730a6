from . import mlflow_page as mlflow_page, mlflow_store as mlflow_store, unsent as unsent
from .mlflow_extras import DataSet as DataSet
from .mlflow_names import quoted as quoted, unquoted as unquoted
from .mlflow_page import serve as serve
from .mlflow_store import make_output as make_output, open_client as open_client
from .session import (
    Tracker as Tracker,
    abandon as abandon,
    flatten as flatten,
    reap as reap,
    run_for as run_for,
    start_run as start_run,
)
from .unsent import sync as sync
