"""What happened, for the operator: to the log at once, to the store in batches."""

from keyferry_manager.audit.trail import AuditTrail
from keyferry_manager.audit.writer import BatchWriter

__all__ = ["AuditTrail", "BatchWriter"]
