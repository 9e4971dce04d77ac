"""For all tests: one thread, unless the environment says otherwise. The models are tiny: more would only wait."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
