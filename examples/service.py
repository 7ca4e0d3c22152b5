"""Run a web server beside the tasks that use it, and only as long as they run."""

import http.client
import http.server
import tempfile
import threading
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
            yield f"127.0.0.1:{server.server_port}"  # the value that its clients get
            server.shutdown()


@toil.task(cores=0.1)
def count_words(address):
    connection = http.client.HTTPConnection(address)
    connection.request("GET", "/page")
    return len(connection.getresponse().read().split())


if __name__ == "__main__":
    address = web_server("to be or not to be")
    print(toil.compute(*count_words.map([address] * 3)))
