"""For all tests: one thread for numeric libraries, also in the processes that tests start.

Several processes that each spin two threads on two cores take many times as long as ones that take turns.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
