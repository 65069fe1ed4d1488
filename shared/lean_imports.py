"""The imports of a process that starts: without the garbage collector, and without rich.

The collector would go through all that is imported again and again, a fifth of the time of the imports. structlog
imports rich, 50 modules and 5 MB, for coloured tracebacks, which no process of the service writes.
"""

from __future__ import annotations

import gc
import sys

UNUSED = "rich"


def begin() -> None:
    """To be called before the imports: the collector stops, and rich counts as not installed."""
    gc.disable()
    sys.modules.setdefault(UNUSED, None)  # type: ignore[arg-type]  # an import of it raises ModuleNotFoundError then


def end() -> None:
    """To be called after them: the collector starts, and never looks at what is there by now, which stays."""
    if UNUSED in sys.modules and sys.modules[UNUSED] is None:
        del sys.modules[UNUSED]
    gc.freeze()
    gc.enable()
