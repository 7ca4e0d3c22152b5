"""``toilfn server``: a GA4GH Workflow Execution Service, and its clients.

The server keeps a record of each run in a directory or bucket, called its *place* (`toilfn.server.records`). Each run
has its own job store, and is led by a separate process (`toilfn.server.lead`), which continues without the server.
Servers accept requests, start these processes, and read the records and stores. `docs/server.md` is the manual.
"""
