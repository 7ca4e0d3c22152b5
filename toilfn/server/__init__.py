"""``toilfn server``: a GA4GH Workflow Execution Service, and its clients.

A run is its record in the server's place (`toilfn.server.records`) and its own job store. A separate process
(`toilfn.server.lead`) leads it, and needs no server: servers accept requests, start such processes, and read.
`docs/server.md` says how it is used.
"""
