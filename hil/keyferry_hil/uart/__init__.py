"""The computer's side for boards without a network: it holds their TLS links (docs/hil.md)."""
