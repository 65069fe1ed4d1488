"""A whole service in one file: what its rows say and every file that they name, of one moment, while it runs.

The file is a plain tar, written and read from front to end, so it may be a pipe:

    backup.json                 which format, which gradq, which revision of the schema; how much follows
    files/<key>                 artifacts, checkpoints and datasets, under their keys in the store
    database/<table>.jsonl.gz   one JSON object a row, the same whichever database it came from
    manifest.json               the tables' sha256 and what was left out; a file that was cut short ends without it

A file's sha256 stands in the row that names it, a table's in the manifest. Nothing in it is executed or unpickled.
"""

from shared.errors import GradqError

OF_THE_MOMENT = {"workers", "leaders"}  # who works here, who leads: true of no other place and time
WITH_FILES = ("checkpoints", "artifacts", "datasets")  # checkpoints first: a job that runs replaces its own


class NothingToBackUp(GradqError):
    code, title = "nothing_to_back_up", "There is no service here"


class UnusableBackup(GradqError):
    code, title = "unusable_backup", "This backup cannot be restored"


class NotEmpty(GradqError):
    code, title = "not_empty", "A backup is restored into an empty place alone"
