"""Power cuts at every write: ``make powercut`` prints the matrix, ``make test`` runs a part."""
