"""A server at work for as long as a test needs it."""

import threading
from contextlib import contextmanager


@contextmanager
def serving(server):
    """Serve in a thread until the block ends. `server` is one of socketserver's."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
