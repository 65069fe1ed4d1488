"""A backup: the rows of a running service at one moment and every file that they name, in one file.

The file is a plain tar, written and read sequentially, so it may be a pipe:

    backup.json                 format, version of gradq, revision of the schema; how much follows
    files/<key>                 artifacts, checkpoints and datasets, under their keys in the store
    database/<table>.jsonl.gz   one JSON object per row, the same from either database
    manifest.json               the tables' sha256 and what was left out; missing in a truncated file

A file's sha256 is in the row that names it, a table's in the manifest. Nothing is executed or unpickled.
"""

from shared.errors import GradqError

NOT_SAVED = {"workers", "leaders"}  # heartbeats and leadership hold for one place and time only
DERIVED = {"job_names", "name_grams"}  # of jobs: rows without these are no service's
WITH_FILES = ("checkpoints", "artifacts", "datasets")  # checkpoints first, since running jobs replace theirs


class NothingToBackUp(GradqError):
    code, title = "nothing_to_back_up", "There is no service here"


class UnusableBackup(GradqError):
    code, title = "unusable_backup", "This backup cannot be restored"


class NotEmpty(GradqError):
    code, title = "not_empty", "A backup can only be restored into an empty place"
