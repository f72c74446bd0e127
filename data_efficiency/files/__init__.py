"""Files and folders that are there complete or not at all, who may write them, and where they may lie."""

from data_efficiency.files.lock import file_lock
from data_efficiency.files.paths import refuse_writing_over
from data_efficiency.files.reading import (
    parse_json,
    read_json_file,
    read_json_object,
    reading,
    refuse_other_tensors,
)
from data_efficiency.files.remote import Location, RemotePath, location
from data_efficiency.files.whole_file import new_file, sync_to_disk, write_file

__all__ = [
    "Location",
    "RemotePath",
    "file_lock",
    "location",
    "new_file",
    "parse_json",
    "read_json_file",
    "read_json_object",
    "reading",
    "refuse_other_tensors",
    "refuse_writing_over",
    "sync_to_disk",
    "write_file",
]
