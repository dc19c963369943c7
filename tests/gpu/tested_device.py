"""Where the tests of this folder compute: LLM2ER_TEST_DEVICE=cpu tries the tests, not the device."""

import os

DEVICE = os.environ.get("LLM2ER_TEST_DEVICE", "cuda")
