"""What the answers mean: what counts of them, how they differ, and who is right.

In reading order: `answer` normalises a transcript, `difference` compares two answers, `verdict`
judges one, `comparison` holds the whole result, `accepted` takes out what the user has accepted.
"""
