"""How signalling travels on a link to the manager."""
