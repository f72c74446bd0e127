"""Files and folders that are there complete or not at all, and who may write them."""

from data_efficiency.files.lock import file_lock
from data_efficiency.files.whole_file import new_file, sync_to_disk, write_file

__all__ = ["file_lock", "new_file", "sync_to_disk", "write_file"]
