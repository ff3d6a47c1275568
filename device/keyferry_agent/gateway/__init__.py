"""The way in for parties that cannot run the agent (docs/gateway.md). Loaded only when used.

A gateway imports ``keyferry_agent.gateway.gateway``, and the devices behind it
``keyferry_agent.gateway.destination``; they share ``exchange``, what is said inside a session.
"""
