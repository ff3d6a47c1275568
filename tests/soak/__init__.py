"""A device that goes on and on: ``make soak`` measures its heap, ``make test`` runs a part."""
