"""``python -m toilfn.cwl``: the same as ``toilfn-cwl-runner``."""

import sys

from toilfn.start import cwl_runner

sys.exit(cwl_runner())
