"""The Keyferry agent: what runs on a device. Start with ``agent.Agent``; see device/main.py."""
