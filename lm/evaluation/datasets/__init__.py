"""Published and synthetic test sets as test-set folders."""
