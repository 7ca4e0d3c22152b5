"""``python -m toilfn.cwl``: the same as ``toilfn-cwl-runner``."""

import sys

from toilfn.cwl.runner import main

sys.exit(main())
