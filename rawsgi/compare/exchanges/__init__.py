"""What is sent: exchanges of the shipped corpus, and the user's own requests.

In reading order: `exchange` is what everything here is about, `files` reads the corpus,
`outline` finds the requests in raw bytes, `recorded` reads the user's. It imports nothing of the
rest of rawsgi: a tester must not share the code under test.
"""

from rawsgi.compare.exchanges.exchange import (
    CONNECTIONS,
    LEVELS,
    NO_RESPONSE,
    RELAXATIONS,
    Alternatives,
    Connection,
    Exchange,
    Expectation,
    Level,
    Step,
    StepKind,
    match_statuses,
)
from rawsgi.compare.exchanges.files import (
    CORPUS_FOLDER,
    SEND_LIMIT_BYTES,
    CorpusError,
    load_corpus,
    load_exchange,
    load_folder,
)

__all__ = [
    "CONNECTIONS",
    "CORPUS_FOLDER",
    "LEVELS",
    "NO_RESPONSE",
    "RELAXATIONS",
    "SEND_LIMIT_BYTES",
    "Alternatives",
    "Connection",
    "CorpusError",
    "Exchange",
    "Expectation",
    "Level",
    "Step",
    "StepKind",
    "load_corpus",
    "load_exchange",
    "load_folder",
    "match_statuses",
]
