"""``python -m toilfn`` is the `toilfn` command."""

from __future__ import annotations

import sys

from toilfn.start import toilfn

sys.exit(toilfn())
