"""Serve a folder: files, index pages, listings. As `python -m http.server`, but to strangers.

FOLDER=~/Pictures rawsgi folder:app --port 3000
"""

import os

from rawsgi.wsgi.static import StaticFiles

app = StaticFiles(os.environ.get("FOLDER", "."))
