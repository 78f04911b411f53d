"""Published problems with the scores that a filter should reach on them; one module a paper."""
