"""Parsers: one file per format, each a facts type and a function from text to facts. No I/O happens here."""
