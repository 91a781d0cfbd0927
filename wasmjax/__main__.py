"""`python -m wasmjax`."""

import sys

from wasmjax.cli import main

sys.exit(main())
