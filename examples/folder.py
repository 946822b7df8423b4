"""Serve a folder: files, index pages, listings. As `python -m http.server`, but to strangers.

FOLDER=~/Pictures rawsgi folder:app --port 3000
docs/wire.md shows what a browser says meanwhile: add --wire.
"""

import os

from rawsgi.wsgi.static import StaticFiles

FOLDER = os.environ.get("FOLDER", ".")
if not os.path.isdir(FOLDER):
    raise SystemExit(f"FOLDER={FOLDER}: there is no such folder")

app = StaticFiles(FOLDER)
