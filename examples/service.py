"""A web server that runs beside the tasks that use it, and only as long as they do."""

import http.server
import tempfile
import threading
import urllib.request
from functools import partial
from pathlib import Path

import toilfn as toil


@toil.service(cores=0.1)
def web_server(page):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "page").write_text(page)
        handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever).start()
            yield f"http://127.0.0.1:{server.server_port}/page"  # what its clients get
            server.shutdown()


@toil.task(cores=0.1)
def count_words(url):
    with urllib.request.urlopen(url) as page:
        return len(page.read().split())


if __name__ == "__main__":
    url = web_server("to be or not to be")
    print(toil.compute(*count_words.map([url] * 3)))
