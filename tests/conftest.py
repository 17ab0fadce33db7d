"""What every test starts from."""

from __future__ import annotations

import signal
import threading

# A shell starts background jobs with Ctrl-C ignored, and children inherit that. The tests of Ctrl-C need the
# usual handler.
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)
