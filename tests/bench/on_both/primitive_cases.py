"""One operation on P-256 each."""

from stopwatch import each

MESSAGE = bytes(range(100))


def cases(crypto, identities):
    private, public = crypto.generate()
    _, peer = crypto.generate()
    signature = crypto.sign(private, MESSAGE)
    return {
        "keygen": lambda: each(crypto.generate),
        "ecdh": lambda: each(lambda: crypto.ecdh(private, peer)),
        "ecdh x-only": lambda: each(lambda: crypto.ecdh(private, peer[1:33])),
        "sign": lambda: each(lambda: crypto.sign(private, MESSAGE)),
        "verify": lambda: each(lambda: crypto.verify(public, MESSAGE, signature)),
    }
