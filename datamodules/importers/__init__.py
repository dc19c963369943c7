"""One file for each raw format; all yield `RawRecord`."""
