"""Start of a fake command, without site packages so that it is quick: ``start.py SYSTEM COMMAND arguments``."""

import contextlib
import importlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.servers.fake import engine  # the line above finds it

module = importlib.import_module(f"tests.servers.fake.{sys.argv[1]}")
printed = io.StringIO()
try:
    if engine.is_away():
        module.away()
    with contextlib.redirect_stdout(printed):
        module.COMMANDS[sys.argv[2]](sys.argv[3:])
    if engine.loses_answer():
        printed = io.StringIO()
        module.away()
except engine.RefusedError as error:
    print(printed.getvalue(), end="")
    if str(error):
        print(error, file=sys.stderr)
    sys.exit(error.status)
print(printed.getvalue(), end="")
