"""Rows of data files: read from the bytes that are there, by no cache and no pattern."""

from opdlab.datafiles.chats import Chat, Message, RowError, chat
from opdlab.datafiles.columns import MISSING, names_of, needed, opened, value_at
from opdlab.datafiles.conditions import Condition, condition
from opdlab.datafiles.folders import is_dataset_folder, read_folder
from opdlab.datafiles.hub import download, read_hub
from opdlab.datafiles.places import Placed, is_pattern, names_file, placed
from opdlab.datafiles.python_syntax import syntax_tree
from opdlab.datafiles.reading import FORMATS, SUFFIXES, has_format, is_text, read_rows
from opdlab.datafiles.streams import iter_rows
from opdlab.datafiles.wrapping import Wrap, wrap
from opdlab.datafiles.writing import json_line

__all__ = [
    "FORMATS",
    "MISSING",
    "SUFFIXES",
    "Chat",
    "Condition",
    "Message",
    "Placed",
    "RowError",
    "Wrap",
    "chat",
    "condition",
    "download",
    "has_format",
    "is_dataset_folder",
    "is_pattern",
    "is_text",
    "iter_rows",
    "json_line",
    "names_file",
    "names_of",
    "needed",
    "opened",
    "placed",
    "read_folder",
    "read_hub",
    "read_rows",
    "syntax_tree",
    "value_at",
    "wrap",
]
