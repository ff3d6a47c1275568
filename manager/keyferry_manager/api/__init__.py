"""The admin API: HTTP and JSON (OpenAPI 3.1) for operators and their programs. See docs/api.md.

listeners.py takes connections, guard.py decides who asks and bounds what they can cost, routes/
name the resources, and ``keyferry_manager.admin`` does the work.
"""
