"""Makes `tests.<module>` importable from every test, and keeps torch to one thread.

Clips in tests are short: a second thread mostly waits, and waits by spinning, which starves the other processes of a
small machine. Set before torch is imported; the processes that tests start inherit it.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
