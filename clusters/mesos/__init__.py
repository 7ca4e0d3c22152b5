"""Apache Mesos, over its v1 HTTP API. docs/decisions/008-mesos-over-http.md explains why no library is used."""
