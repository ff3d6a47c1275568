"""The manager: it admits devices, issues their certificates and relays between them."""
