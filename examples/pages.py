"""A web server's first two pages: `/`, `/about`, and 404 for all else.

This is all that WSGI asks of an application: a function that takes the request as a
dictionary, says how the response starts, and returns its content as blocks of bytes.

rawsgi pages:app --port 3000
docs/by-hand.md is about what a browser sends to get them, and sends it by hand.
"""

PAGES = {
    "/": "<h1>Home</h1>\n<p>Read more <a href='/about'>about this server</a>.</p>\n",
    "/about": "<h1>About</h1>\n<p>Two pages, no framework. <a href='/'>Home</a>.</p>\n",
}


def app(environ, start_response):
    # PATH_INFO carries the bytes of the path as latin-1 text (PEP 3333, "Unicode Issues").
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        status, kind, text = "405 Method Not Allowed", "text/plain", "Only GET and HEAD here.\n"
    elif path in PAGES:
        status, kind, text = "200 OK", "text/html", PAGES[path]
    else:
        status, kind, text = "404 Not Found", "text/plain", f"There is no page at {path}\n"
    content = text.encode()
    fields = [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(content)))]
    if status.startswith("405"):
        fields.append(("Allow", "GET, HEAD"))
    start_response(status, fields)
    return [content]
