"""Which ledger the settings name: an SQLite file, or a Redis that several servers share."""

import os

from . import settings
from .ledger import Book, Ledger
from .outcome import clean
from .store import check_writable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .handler import Fenced
    from .settings import JenkinsSettings


def open_ledger(script: "Fenced", wanted: "JenkinsSettings", patience: float, read_only: bool) -> Book:
    """The ledger, for `with`; what is odd about it goes into the script's notes. Raises LedgerUnusable."""
    if wanted.ledger.startswith(settings.REDIS):
        from .ledger_redis import RedisLedger

        password = settings.ledger_password(wanted, os.environ, script.notes)
        script.secrets += [password] if password else []
        ledger: Book = RedisLedger(wanted.ledger, password, patience, read_only)
    else:
        ledger = Ledger(wanted.ledger, patience, read_only)
        if script.options.dry_run:
            check_writable(wanted.ledger, f"the ledger {wanted.ledger}", "ledger")
    if ledger.is_new and not read_only:
        script.notes.append(f"the ledger {clean(wanted.ledger)} is new: what was asked for before is not known")
    script.notes += ledger.notes
    return ledger
