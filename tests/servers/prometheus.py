"""Debian's Prometheus, with docker/prometheus.yml: it scrapes the addresses that tests name, each second."""

from __future__ import annotations

import json
import socket
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.servers.machine import Server, end_process, main, start_daemon, wait_for

CONFIGURATION = Path(__file__).parents[2] / "docker" / "prometheus.yml"


class Prometheus(Server):
    """The jobs of the configuration, with targets from files."""

    name = "prometheus"
    packages = ("prometheus",)
    commands = ("prometheus", "promtool")

    @property
    def environment(self) -> dict[str, str]:
        """No variables: tests query it with `ask`."""
        return {}

    @property
    def url(self) -> str:
        """The address at which it answers."""
        return f"http://127.0.0.1:{(self.folder / 'port').read_text()}"

    def configure(self) -> None:
        """Replace the targets of the configuration by files."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            (self.folder / "port").write_text(str(free.getsockname()[1]))
        configuration = yaml.safe_load(CONFIGURATION.read_text())
        configuration["global"]["scrape_interval"] = "1s"
        for job in configuration["scrape_configs"]:
            del job["static_configs"]
            job.pop("authorization", None)  # the server of the tests has no users
            job["file_sd_configs"] = [{"files": [f"{self.folder}/{job['job_name']}.json"], "refresh_interval": "1s"}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        address = self.url.removeprefix("http://")
        start_daemon(
            self.folder, "prometheus", "prometheus", f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address={address}",
        )  # fmt: skip
        wait_for(lambda: self._get("/-/ready"), "Prometheus")

    def stop(self) -> None:
        """End it."""
        end_process(self.folder / "prometheus.pid")

    def scrape(self, job: str, url: str) -> None:
        """Let a job of the configuration scrape one server, and no other."""
        draft = self.folder / f"{job}.draft"
        draft.write_text(json.dumps([{"targets": [urllib.parse.urlsplit(url).netloc]}]))
        draft.replace(self.folder / f"{job}.json")

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the present series of an expression."""
        answer = json.loads(self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
            text: str = answer.read().decode()
        return text


if __name__ == "__main__":
    main(Prometheus())
