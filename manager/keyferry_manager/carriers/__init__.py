"""How devices reach the manager: TLS below, MQTT 3.1.1 and HTTP on it."""
