"""Apache Mesos, over its v1 HTTP API; docs/decisions/008-mesos-over-http.md says why without a library."""
