"""A comparison as a person or a program reads it: table, transcripts, JSON, Markdown, page."""
