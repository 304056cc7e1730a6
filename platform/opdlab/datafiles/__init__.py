"""Rows of data files: read from the bytes that are there, by no cache and no pattern."""

from opdlab.datafiles.folders import is_dataset_folder, read_folder
from opdlab.datafiles.hub import download, read_hub
from opdlab.datafiles.reading import FORMATS, SUFFIXES, has_format, is_text, read_rows

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "download",
    "has_format",
    "is_dataset_folder",
    "is_text",
    "read_folder",
    "read_hub",
    "read_rows",
]
