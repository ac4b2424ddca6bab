"""Traces: which spans there are (pure), and their way to an OTLP receiver (loaded only where one is named)."""
