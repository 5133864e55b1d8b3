"""`make bench`: how fast this machine runs the project. A report, not a test: a busy machine fails nothing."""
