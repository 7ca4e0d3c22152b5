"""``python -m toilfn`` is the `toilfn` command."""

from __future__ import annotations

import sys

from toilfn.cli import main

sys.exit(main())
