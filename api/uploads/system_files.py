"""Names of files and folders that operating systems, network storage and desktops leave among a user's own."""

from __future__ import annotations

import re

NAMES = frozenset(
    {
        *("__macosx", "icon\r", "desktop db", "desktop df", "network trash folder", "temporary items"),  # macOS
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "folder.htt"),  # Windows
        *("$recycle.bin", "recycler", "recycled", "system volume information"),
        *("zbthumbnail.info", "picasa.ini", "pspbrwse.jbf", "albumartsmall.jpg"),
        *("~snapshot", "thevolumesettingsfolder"),  # NetApp, AFP
        *("@eadir", "@tmp", "@sharebin", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot", "@__thumb"),  # QNAP
        *("lost+found", "__pycache__"),
    }
)
# Streams and attributes that a file system keeps beside a file, as they are written elsewhere: `1.png:Zone.Identifier`
# and `Thumbs.db:encryptable` of NTFS (some systems write U+F03A for the colon), `1.png@SynoEAStream` of Synology.
# Names with another colon are the user's: `ratio 4:3`.
PATTERN = re.compile(
    r".*zone\.identifier(:\$data)?"
    r"|.*[:\uf03a](encryptable|afp_afpinfo|afp_resource|smartscreen|com\.(apple|dropbox)\.[\w.#]+)(:\$data)?"
    r"|.*@syno(eastream|resource)|synofile_thumb.*|synophoto_thumb.*|syno@.*"
    r"|~\$.*"  # the lock of an office document
    r"|found\.\d{3}"  # what Windows' chkdsk has found
    r"|albumart_\{[\da-f-]+\}_(large|small)\.jpg"  # of Windows Media Player
    r"|_vti_(cnf|pvt|bin|log|script|txt)",  # of FrontPage's server extensions
    re.DOTALL,
)


def is_system(part: str) -> bool:
    """Whether this part of a path, a file's or a folder's name, is hidden or one of the above, whatever its case."""
    folded = part.casefold()
    return part.startswith(".") or folded in NAMES or PATTERN.fullmatch(folded) is not None
