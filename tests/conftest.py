"""For all tests: one thread. The models are tiny, and more threads would only wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
